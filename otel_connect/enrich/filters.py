"""Which attempts the operator wants left out. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeAlias

from cachetools import LRUCache

from otel_connect.config.filters import FilterConfig, FilterRule
from otel_connect.model import ConnectEvent, KernelFilters, Process, Surroundings

_REMEMBERED = 8192
_ALL = tuple(FilterRule.model_fields)


class _Subject(NamedTuple):
    """What rules ask of an attempt; no condition holds of what is not known."""

    executable: str | None
    cgroups: tuple[str, ...]
    uid: int
    address: str | None
    port: int | None


_Condition: TypeAlias = Callable[[_Subject], bool]


class Filters:
    """Decides by the rules, and remembers what it decided of whom.

    A rule of ``deny`` wins; where there are rules of ``allow``, what none of them holds of is left out, too.
    """

    def __init__(self, config: FilterConfig) -> None:
        self.counted = config.count
        """Whether the metrics have what is left out."""
        self._by_cgroup = any(rule.cgroup is not None for rule in (*config.deny, *config.allow))
        self._cgroups: LRUCache[tuple[int, int, int], tuple[str, ...]] = LRUCache(_REMEMBERED)
        self._deny = [tuple(_conditions(rule)) for rule in config.deny]
        self._allow = [tuple(_conditions(rule)) for rule in config.allow]
        self.in_kernel = _in_kernel(config.deny)
        """What the probes can decide by themselves; it is decided here, too."""
        self._decided: LRUCache[_Subject, bool] = LRUCache(_REMEMBERED)

    def __bool__(self) -> bool:
        """Whether there are any rules."""
        return bool(self._deny or self._allow)

    def leave_out(
        self, event: ConnectEvent, process: Process, surroundings: Callable[[ConnectEvent], Surroundings]
    ) -> bool:
        """Say whether an attempt is to be left out; ``surroundings`` is asked where a rule is about cgroups."""
        cgroups = self._cgroups_of(event, surroundings) if self._by_cgroup else ()
        subject = _Subject(process.executable_path, cgroups, event.uid, *event.target)
        decided = self._decided.get(subject)
        if decided is None:
            decided = self._decided[subject] = self._decide(subject)
        return decided

    def _cgroups_of(self, event: ConnectEvent, surroundings: Callable[[ConnectEvent], Surroundings]) -> tuple[str, ...]:
        """Return the paths of its cgroup; only what was found is remembered."""
        who = event.pid, event.process_start_boot_ns, event.cgroup_id
        paths = self._cgroups.get(who)
        if paths is None:
            found = surroundings(event)
            paths = tuple(path for path in (found.cgroup, found.cgroup_v1) if path is not None)
            if paths:
                self._cgroups[who] = paths
        return paths

    def _decide(self, subject: _Subject) -> bool:
        if _any_holds(self._deny, subject):
            return True
        return bool(self._allow) and not _any_holds(self._allow, subject)


def _in_kernel(rules: Iterable[FilterRule]) -> KernelFilters:
    """Return what those rules say that have one condition which the probes know."""
    told = [{name: value for name in _ALL if (value := getattr(rule, name)) is not None} for rule in rules]
    alone = [rule for rule in told if len(rule) == 1]

    def values(name: str) -> frozenset[Any]:
        return frozenset(rule[name] for rule in alone if name in rule)

    return KernelFilters(values("uid"), values("port"), values("cidr"))


def _any_holds(rules: list[tuple[_Condition, ...]], subject: _Subject) -> bool:
    return any(all(condition(subject) for condition in rule) for rule in rules)


def _conditions(rule: FilterRule) -> Iterator[_Condition]:
    """Yield the conditions of a rule, those that cost least first."""
    if (uid := rule.uid) is not None:
        yield lambda subject: subject.uid == uid
    if (ports := rule.port) is not None:
        yield lambda subject: subject.port is not None and ports.low <= subject.port <= ports.high
    if (network := rule.cidr) is not None:
        yield lambda subject: subject.address is not None and ip_address(subject.address) in network
    if rule.executable is not None:
        program = re.compile(translate(rule.executable))
        yield lambda subject: subject.executable is not None and program.match(subject.executable) is not None
    if rule.cgroup is not None:
        cgroup = re.compile(translate(rule.cgroup))
        yield lambda subject: any(cgroup.match(path) for path in subject.cgroups)


NO_FILTERS = Filters(FilterConfig())
"""Everything is wanted."""
