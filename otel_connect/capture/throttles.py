"""When attempts began to be withheld, for whose limit, and when that was over."""

from collections import Counter
from collections.abc import Iterable
from heapq import nlargest
from typing import NamedTuple

from otel_connect.model import Process, Tally, ThrottleEvent, Withheld

_QUIET_S = 5.0
_THROTTLED = frozenset((Withheld.PROCESS_RATE, Withheld.CGROUP_RATE, Withheld.RING_PRESSURE))

_Program = tuple[int, str]


class _Scope(NamedTuple):
    """Whose limit: a process's, a cgroup's or the host's."""

    limit: Withheld
    cgroup_id: int | None = None
    pid: int | None = None
    process_start_ns: int | None = None


class _Throttle:
    """One limit at work."""

    def __init__(self, at_unix_ns: int) -> None:
        self.first_unix_ns = self.last_unix_ns = at_unix_ns
        self.attempts = 0
        self.programs: Counter[_Program] = Counter()
        self.last_seen = 0.0


class Throttles:
    """Follows which limits are at work; ``remembered`` bounds how many, later ones are the host's together."""

    def __init__(self, quiet_s: float = _QUIET_S, remembered: int = 1024) -> None:
        self._quiet_s = quiet_s
        self._remembered = remembered
        self._at_work: dict[_Scope, _Throttle] = {}

    def update(self, tallies: Iterable[tuple[Tally, Process | None]], now: float) -> list[ThrottleEvent]:
        """Take note of the tallies of a turn; ``now`` are seconds on a clock that only goes forward."""
        started = []
        for tally, process in tallies:
            if tally.withheld not in _THROTTLED:
                continue
            scope = self._scope(tally)
            throttle = self._at_work.get(scope)
            if throttle is None:
                throttle = self._at_work[scope] = _Throttle(tally.first_unix_ns)
                started.append(scope)
            throttle.attempts += tally.attempts
            throttle.first_unix_ns = min(throttle.first_unix_ns, tally.first_unix_ns)
            throttle.last_unix_ns = max(throttle.last_unix_ns, tally.last_unix_ns)
            throttle.last_seen = now
            if process is not None:
                throttle.programs[tally.event.pid, process.executable_name] += tally.attempts
                _forget_the_rare(throttle.programs, self._remembered)
        events = [_event(scope, self._at_work[scope], started=True) for scope in started]
        return events + self._end(now - self._quiet_s)

    def end(self) -> list[ThrottleEvent]:
        """Nothing is withheld any more: end those that are still at work."""
        return self._end(None)

    def at_work(self, most: int = 100) -> tuple[ThrottleEvent, ...]:
        """Return how those that are at work began and what they have come to, those with most attempts first."""
        found = nlargest(most, self._at_work.items(), key=lambda item: item[1].attempts)
        return tuple(_event(scope, throttle, started=True) for scope, throttle in found)

    def _scope(self, tally: Tally) -> _Scope:
        event = tally.event
        scope = _Scope(tally.withheld)
        if tally.withheld is not Withheld.RING_PRESSURE and event.pid:
            scope = scope._replace(cgroup_id=event.cgroup_id)
        if tally.withheld is Withheld.PROCESS_RATE and event.pid:
            scope = scope._replace(pid=event.pid, process_start_ns=event.process_start_boot_ns)
        if scope not in self._at_work and len(self._at_work) >= self._remembered:
            return _Scope(tally.withheld)
        return scope

    def _end(self, seen_before: float | None) -> list[ThrottleEvent]:
        over = [
            scope
            for scope, throttle in self._at_work.items()
            if seen_before is None or throttle.last_seen <= seen_before
        ]
        return [_event(scope, self._at_work.pop(scope), started=False) for scope in over]


def _forget_the_rare(programs: Counter[_Program], limit: int) -> None:
    if len(programs) > limit:
        kept = programs.most_common(limit // 2)
        programs.clear()
        programs.update(dict(kept))


def _event(scope: _Scope, throttle: _Throttle, *, started: bool) -> ThrottleEvent:
    most = throttle.programs.most_common(1)
    pid, executable_name = most[0][0] if most else (None, None)
    return ThrottleEvent(
        started=started,
        limit=scope.limit,
        cgroup_id=scope.cgroup_id,
        pid=pid,
        executable_name=executable_name,
        attempts=throttle.attempts,
        at_unix_ns=throttle.first_unix_ns if started else throttle.last_unix_ns,
    )
