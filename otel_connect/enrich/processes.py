"""Who made an attempt: its process, remembered as long as it is likely to make more."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cachetools import LRUCache

from otel_connect.enrich.published import service_variables
from otel_connect.enrich.redact import redact, redact_title
from otel_connect.enrich.users import Owner
from otel_connect.model import About, ConnectEvent, Process, Surroundings, Told

ExecutableLookup = Callable[[int, int], str | None]
UserLookup = Callable[[Owner], str | None]

_AROUND = (About.CGROUP, About.CGROUP_V1, About.ENVIRONMENT)


def unknown(_pid: int, _start_boot_ns: int) -> None:
    """Answer nothing about a process: the look-up where nothing can be, or is to be, looked up."""


class Lookups(NamedTuple):
    """Who is asked about a process, by pid and start time since boot, where the kernel did not tell."""

    executable: ExecutableLookup = unknown
    surroundings: Callable[[int, int], Surroundings | None] = unknown
    arguments: Callable[[int, int], Sequence[str] | None] = unknown


class Shown(NamedTuple):
    """What of a process is shown only where it is asked for."""

    command_args: bool = False
    vpid: bool = False
    cgroup: bool = False


class Processes:
    """Names processes by what the kernel said of them, else by look-ups; remembers a bounded number of them.

    The kernel tells about a process before the first of its attempts that it captures. Look-ups serve for
    what was lost on the way or is forgotten: each is asked once for a process.
    """

    def __init__(self, lookups: Lookups, user: UserLookup, remembered: int, shown: Shown | None = None) -> None:
        self._lookups = lookups
        self._shown = shown or Shown()
        self._user = user
        self._told: LRUCache[tuple[int, int, int], dict[About, Told]] = LRUCache(remembered)
        self._latest: LRUCache[tuple[int, int], dict[About, Told]] = LRUCache(remembered)
        self._known: LRUCache[tuple[int, int, int, str, int, int], Process] = LRUCache(remembered)
        self._places: LRUCache[tuple[int, int, int, int], Surroundings] = LRUCache(remembered)
        self._remembered = remembered
        self._newcomers = 0
        self.misses = 0
        """Processes whose executable was not to be found out any more."""

    def learn(self, told: Iterable[Told]) -> None:
        """Take note of what the kernel says about processes."""
        for one in told:
            who = one.pid, one.process_start_boot_ns
            facts = self._told.get((*who, one.exec_id))
            if facts is None:
                facts = {}
                self._newcomers += 1
            secret = one.about is About.ARGUMENTS
            facts[one.about] = one._replace(texts=redact(one.texts)) if secret else one
            self._told[*who, one.exec_id] = self._latest[who] = facts

    @property
    def crowded(self) -> bool:
        """Whether so many processes were told of this turn that more would push out the first ones unnamed."""
        return self._newcomers > self._remembered // 4  # as many were named last, and stay longest

    def turn(self) -> None:
        """Begin another turn: the attempts without a record have been taken."""
        self._newcomers = 0

    def inherit(self, former: "Processes") -> None:
        """Take over what another one was told: the kernel does not tell it again."""
        self._told.update(former._told)  # noqa: SLF001 - one of its own
        self._latest.update(former._latest)  # noqa: SLF001

    def name(self, event: ConnectEvent) -> Process:
        """Name the process of an event; without its executable, by what the kernel called the thread."""
        # Where the kernel did not tell: an exec leaves pid and start time as they are, but renames the thread.
        key = (event.pid, event.process_start_boot_ns, event.exec_id, event.comm, event.uid, event.cgroup_id)
        known = self._known.get(key)
        if known is not None:
            return known
        facts = self._facts(event)
        name, path = self._executable(event, facts)
        process = Process(
            name or redact_title(event.comm), path, self._owner(event, facts), *self._details(event, facts)
        )
        if name is None:
            self.misses += 1
        else:
            self._known[key] = process
        return process

    def surroundings(self, event: ConnectEvent) -> Surroundings:
        """Say what the process of an event lives in, as far as it is known."""
        key = event.pid, event.process_start_boot_ns, event.exec_id, event.cgroup_id
        known = self._places.get(key)
        if known is not None:
            return known
        facts = self._facts(event)
        if all(about in facts and facts[about].whole for about in _AROUND):
            found = _surroundings(facts, Surroundings())
        else:
            looked = self._lookups.surroundings(event.pid, event.process_start_boot_ns)
            if looked is None:  # the kernel tells again what was lost on the way
                return _surroundings(facts, _rest(facts))
            found = _surroundings(facts, looked)
        self._places[key] = found
        return found

    def _facts(self, event: ConnectEvent) -> Mapping[About, Told]:
        who = event.pid, event.process_start_boot_ns
        facts = self._told.get((*who, event.exec_id))
        if facts is None and not event.exec_id:  # attempts that were only counted do not say which
            facts = self._latest.get(who)
        return facts or {}

    def _executable(self, event: ConnectEvent, facts: Mapping[About, Told]) -> tuple[str | None, str | None]:
        """Find the name and the path of what it runs."""
        told = facts.get(About.EXECUTABLE)
        if told is not None and told.texts:
            return told.texts[0], _path(told)
        path = self._lookups.executable(event.pid, event.process_start_boot_ns)
        return (None, None) if path is None else (path.rpartition("/")[2], path)

    def _owner(self, event: ConnectEvent, facts: Mapping[About, Told]) -> str | None:
        root_mount = next((one.root_mount for one in facts.values()), None)
        return self._user(Owner(event.uid, event.pid, event.process_start_boot_ns, root_mount))

    def _details(
        self, event: ConnectEvent, facts: Mapping[About, Told]
    ) -> tuple[str | None, tuple[str, ...] | None, int | None, str | None]:
        """Find what else ``Process`` has, as far as it is to be shown."""
        shown = self._shown
        arguments = self._arguments(event, facts)
        vpid = next((one.vpid for one in facts.values()), None) if shown.vpid else None
        cgroup = _shown_cgroup(self.surroundings(event)) if shown.cgroup else None
        return (arguments or (None,))[0], arguments if shown.command_args else None, vpid, cgroup

    def _arguments(self, event: ConnectEvent, facts: Mapping[About, Told]) -> tuple[str, ...] | None:
        told = facts.get(About.ARGUMENTS)
        if told is not None and told.texts:
            return told.texts
        looked = self._lookups.arguments(event.pid, event.process_start_boot_ns)
        return redact(looked) if looked else None


def _surroundings(facts: Mapping[About, Told], looked: Surroundings) -> Surroundings:
    """Take what was told whole, and the rest from what was looked up."""
    cgroup, cgroup_v1, environment = (told if (told := facts.get(about)) and told.whole else None for about in _AROUND)
    return Surroundings(
        _cgroup(cgroup) if cgroup else looked.cgroup,
        _cgroup(cgroup_v1) if cgroup_v1 else looked.cgroup_v1,
        service_variables(environment.texts) if environment else looked.environment,
    )


def _rest(facts: Mapping[About, Told]) -> Surroundings:
    """Say what is known where nothing can be looked up: of the variables those that were read."""
    environment = facts.get(About.ENVIRONMENT)
    return Surroundings(environment=service_variables(environment.texts) if environment else ())


def _path(told: Told) -> str | None:
    return "/" + "/".join(reversed(told.texts)) if told.whole else None


def _cgroup(told: Told) -> str | None:
    return "/" + "/".join(reversed(told.texts[:-1])) if told.texts else None


def _shown_cgroup(around: Surroundings) -> str | None:
    if around.cgroup_v1 is not None:
        return f"pids:{around.cgroup_v1}"
    return None if around.cgroup is None else f"0::{around.cgroup}"
