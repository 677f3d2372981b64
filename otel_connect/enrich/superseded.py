"""Which abandoned attempts were superseded: another address of the same server answered instead (happy eyeballs).

That needs evidence, and without it nothing is superseded: a dead server must not look harmless because its client
reached something else. Both attempts are of one process, to one name and port, at different addresses. And their times
are those of one race: by RFC 8305 the next address is tried 2 s after the last one at the latest, and once one of them
has answered, a client has no use for the others.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

from cachetools import LRUCache

from otel_connect.model import Attempt, Outcome

_NEXT_BEGINS_NS = 2_000_000_000  # RFC 8305, section 5: the maximum of the Connection Attempt Delay
# The same section's least recommended delay. Clients need 0.05 to 5 ms, and 20 ms on a machine under load.
_AT_ONCE_NS = 100_000_000
# The next address is tried at once and answers after a round trip, or a second later if its SYN was lost.
_WAIT_NS = 2_000_000_000
_WAITING = 1024
_WAITING_FOR_ONE = 64  # server: its winners look at them all
_REMEMBERED = 4096
_ADDRESSES = 4  # of one server

_LOCALHOST = frozenset({"127.0.0.1", "::1"})  # RFC 6761, section 6.3: known to belong together without a question

_Server: TypeAlias = tuple[int, int, str, int | None]
"""A process (its pid and when it began), and the name and port that it meant to reach."""


class Course(NamedTuple):
    """Where an attempt went, and when it began and ended; Unix time, ns."""

    address: str | None
    began: int
    ended: int


class _Waiting(NamedTuple):
    attempt: Attempt
    course: Course
    until: int
    """On the clock of the caller."""


def overtakes(winner: Course, loser: Course, next_began: int) -> bool:
    """Say whether an established attempt ended the race of an abandoned one to the same server.

    ``next_began`` is when the address after the loser's was tried: by the winner, or by another loser between them.
    """
    if winner.address == loser.address or abs(winner.began - loser.began) > _NEXT_BEGINS_NS:
        return False
    after_the_answer = loser.ended - winner.ended  # tried side by side: curl, Go, browsers
    before_the_next = next_began - loser.ended  # tried one after another: Node
    return 0 <= after_the_answer <= _AT_ONCE_NS or 0 <= before_the_next <= _AT_ONCE_NS


class Races:
    """Decides which attempts were superseded; what it remembers, and how long an attempt waits for it, is bounded.

    An attempt that was given up before the next address was tried waits for the answer of that one.
    """

    def __init__(self) -> None:
        self._winners: LRUCache[_Server, tuple[Course, ...]] = LRUCache(_REMEMBERED)
        self._waiting: dict[_Server, list[_Waiting]] = {}
        self.waiting = 0
        """Attempts that are not decided yet."""

    def judge(self, attempts: Iterable[Attempt], now: int) -> list[Attempt]:
        """Take attempts in the order they ended, and return all that are decided; ``now`` in ns, of any clock."""
        return [*chain.from_iterable(self._judge(attempt, now) for attempt in attempts), *self._overdue(now)]

    def end(self) -> list[Attempt]:
        """Return those that wait: no answer will be seen any more."""
        return [one.attempt for server in list(self._waiting) for one in self._take(server)]

    def _judge(self, attempt: Attempt, now: int) -> Sequence[Attempt]:
        outcome = attempt.verdict.outcome
        if outcome is not Outcome.ESTABLISHED and outcome is not Outcome.ABANDONED:
            return (attempt,)
        server, course = _server(attempt), _course(attempt)
        if server is None or course is None:
            return (attempt,)
        if outcome is Outcome.ESTABLISHED:
            others = (one for one in self._winners.get(server, ()) if one.address != course.address)
            self._winners[server] = (course, *others)[:_ADDRESSES]
            return (attempt, *self._reached(server, course)) if server in self._waiting else (attempt,)
        if any(overtakes(winner, course, winner.began) for winner in self._winners.get(server, ())):
            return (attempt._replace(superseded=True),)
        waiting = self._waiting.get(server, [])
        full = self.waiting >= _WAITING or len(waiting) >= _WAITING_FOR_ONE
        if full or course.ended - course.began > _NEXT_BEGINS_NS:
            return (attempt,)
        waiting.append(_Waiting(attempt, course, now + _WAIT_NS))
        self._waiting[server] = waiting
        self.waiting += 1
        return ()

    def _reached(self, server: _Server, winner: Course) -> list[Attempt]:
        """Return what a winner has superseded of that which waits for its server; the rest goes on waiting."""
        superseded, others = [], []
        next_began = winner.began
        for one in reversed(self._take(server)):
            if overtakes(winner, one.course, next_began):
                superseded.append(one.attempt._replace(superseded=True))
                next_began = one.course.began
            else:
                others.append(one)
        self._put_back(server, others[::-1])
        return superseded

    def _overdue(self, now: int) -> Iterator[Attempt]:
        for server in [server for server, waiting in self._waiting.items() if waiting[0].until <= now]:
            waiting = self._take(server)
            yield from (one.attempt for one in waiting if one.until <= now)
            self._put_back(server, [one for one in waiting if one.until > now])

    def _take(self, server: _Server) -> list[_Waiting]:
        taken = self._waiting.pop(server)
        self.waiting -= len(taken)
        return taken

    def _put_back(self, server: _Server, waiting: list[_Waiting]) -> None:
        if waiting:
            self._waiting[server] = waiting
            self.waiting += len(waiting)


def _server(attempt: Attempt) -> _Server | None:
    """Return whose attempt it was and what it meant to reach; ``None`` where no name is known."""
    event, server = attempt.event, attempt.named.server
    address, port = event.target
    if server is not None:
        return event.pid, event.process_start_boot_ns, server.name, server.port_beside(port)
    if address in _LOCALHOST:
        return event.pid, event.process_start_boot_ns, "localhost", port
    return None


def _course(attempt: Attempt) -> Course | None:
    event = attempt.event
    if event.duration_ns is None:
        return None
    address = event.requested_address or event.peer_address
    return Course(address, event.start_unix_ns, event.start_unix_ns + event.duration_ns)
