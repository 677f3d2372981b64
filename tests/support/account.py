"""From what a client saw to the attempts that an observer must have seen: one pure function, without the agent's code.

What is done with a socket is in the log in its order (``clients/player.py``). An attempt begins with a connect()
on a socket that has none; it ends with what a call returns for it, or with the program giving it up.

Mostly there is one answer. Where a program gives up an attempt, and the network could have answered before, it
cannot know what came first, and both are permitted: ``give_up`` says when. A connect() in which a process was
killed may have been made or not; only targets whose SYNs are counted are used there, and the count decides.
"""

import errno
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.answers import (
    ABANDONED,
    EADDRNOTAVAIL,
    ESTABLISHED,
    FIRST_RETRY_S,
    TIMED_OUT,
    UNKNOWN,
    End,
    earliest_answer_s,
    expected_end,
    is_kept,
    is_local,
    leaves_soft_error,
)
from tests.support.random_plan import Aim

Line = Mapping[str, Any]
Key = tuple[int, str, int]
"""Process, address and port of the peer."""

_STILL_PENDING = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR}
_GIVEN_UP_BY_ANOTHER = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}

# enum of TCP states
_CONNECTED_STATES = {1, 4, 5, 8, 9, 11}
_SYN_SENT, _CLOSE = 2, 7


class Expected(NamedTuple):
    """An attempt that was made, and how a record may say that it ended; ``None`` among these: it need not exist."""

    life: int
    key: Key
    ends: frozenset[End | None]


class _Attempt:
    """An attempt that may not have ended yet."""

    def __init__(self, pid: int, aim: Aim, began: int, earlier: Sequence[Aim]) -> None:
        self.pid = pid
        self.aim = aim
        self.began = began
        self.again = aim in earlier
        """Its socket has tried the same target before: what is late for that attempt may end this one."""
        self.left = {expected_end(one) for one in earlier if leaves_soft_error(one)}
        """Soft errors that earlier attempts may have left, which the kernel reports instead of ETIMEDOUT."""
        self.ends: frozenset[End | None] | None = None
        self.taken = False
        """SO_ERROR has taken an error, and perhaps before the state changed."""
        self.failed = False
        """The socket was seen closed, and nothing has said yet by which error."""

    def settle(self, *ends: End) -> None:
        if self.ends is None:
            self.ends = frozenset(ends)
            if self.taken and not is_kept(self.aim) and not self.ends <= {ABANDONED, ESTABLISHED}:
                self.ends |= {UNKNOWN}

    @property
    def answers(self) -> set[End]:
        """How the network may end it."""
        end = expected_end(self.aim)
        return {end} | (self.left if end == TIMED_OUT else set())

    def tell(self, number: int) -> None:
        """Take an errno that a call returned for it, 0 for a connection."""
        possible = {ESTABLISHED, *self.answers}
        if not is_local(self.aim):
            # Its port has a connection to that peer, or had one a moment ago; on a busy machine answers may be late.
            possible |= {EADDRNOTAVAIL, TIMED_OUT}
        ends = [end for end in possible if end[1] == (number or None)]
        if ends:
            self.settle(*ends)
        elif self.ends is None:
            raise UnexpectedError(f"{errno.errorcode[number]} from {self.aim}")

    def look(self, state: int | None) -> None:
        """Take the state of the socket, while it may be connecting."""
        if state in _CONNECTED_STATES:
            self.settle(ESTABLISHED)
        self.failed |= state == _CLOSE

    def give_up(self, at: int) -> None:
        """Take that the program gave it up, at the latest at this time."""
        if self.failed:
            self.settle(*self.answers)
        elif not self.again and (at - self.began) / 1e9 < earliest_answer_s(self.aim):
            self.settle(ABANDONED)
        else:  # the answer may have come since the program looked for the last time
            self.settle(ABANDONED, *self.answers)


class UnexpectedError(Exception):
    """A client saw what the bench cannot have done."""


_FREE, _CONNECTING, _CONNECTED, _SHUT = range(4)
"""Of ``sock->state``; the last one, SS_DISCONNECTING, has no way back but connect(AF_UNSPEC)."""


class _Socket:
    """One socket, followed through its calls, whatever process makes them."""

    def __init__(self, life: int, aims: Sequence[Aim], syns: Mapping[int, int]) -> None:
        self._life = life
        self._aims = aims
        self._syns = syns
        self._stage = _FREE
        self._held: Counter[int] = Counter()
        self._lines: list[Line] = []
        self._begun: Line | None = None
        self._attempts: list[_Attempt] = []
        self._raced: list[Expected] = []

    def take(self, line: Line) -> None:
        """Take the next line about the socket."""
        self._lines.append(line)
        try:
            getattr(self, f"_{line['did']}", self._look)(line)
        except UnexpectedError as error:
            error.add_note("\n".join(map(str, self._lines)))
            raise

    def reaped(self, pid: int, at: int) -> None:
        """Take that a process is gone, with its descriptors and whatever call it was in."""
        if pid not in self._held:
            return
        if self._begun and self._begun["pid"] == pid:
            self._cut(self._begun)
        self._drop(pid, self._held[pid], at)

    def expected(self) -> list[Expected]:
        """Return all attempts, when the log is over."""
        if self._held.total():
            raise UnexpectedError(f"nobody has closed socket {self._life}")
        ended = [self._expect(one.pid, one.aim, one.ends) for one in self._attempts if one.ends is not None]
        assert len(ended) == len(self._attempts)
        return ended + self._raced

    @property
    def _last(self) -> _Attempt | None:
        """The attempt that is or was last, if it may still be told of."""
        return self._attempts[-1] if self._attempts and self._stage in {_CONNECTING, _SHUT} else None

    def _expect(self, pid: int, aim: Aim, ends: frozenset[End | None]) -> Expected:
        return Expected(self._life, (pid, aim.target.address, aim.target.port), ends)

    def _start(self, line: Line) -> _Attempt:
        aim = self._aims[line["target"]]
        earlier = [one.aim for one in self._attempts]
        self._attempts.append(_Attempt(line["pid"], aim, line["at"], earlier))
        return self._attempts[-1]

    def _cut(self, begun: Line) -> None:
        """Take a connect() that never returned."""
        if self._stage != _FREE:
            return
        attempt = self._start(begun)
        self._stage = _CONNECTING
        if not self._syns.get(attempt.aim.target.port):
            self._attempts.pop()
            self._stage = _FREE
        elif attempt.again:  # the SYNs may be those of the one before
            attempt.ends = frozenset({None, ABANDONED, *attempt.answers})

    def _drop(self, pid: int, count: int, at: int) -> None:
        self._held[pid] -= count
        if not self._held.total() and self._last:
            self._last.give_up(at)

    def _look(self, line: Line) -> None:
        if self._last:
            self._last.look(line.get("before"))
            self._last.look(line.get("state"))

    def _socket(self, line: Line) -> None:
        self._held[line["pid"]] += 1

    _dup = _socket

    def _pass(self, line: Line) -> None:
        self._held[line["friend"]] += 1

    def _fork(self, line: Line) -> None:
        self._held[line["child"]] += line["held"]

    def _close(self, line: Line) -> None:
        self._look(line)
        self._drop(line["pid"], 1, line["at"])

    def _begin(self, line: Line) -> None:
        self._begun = line

    def _connect(self, line: Line) -> None:
        begun, self._begun, got = self._begun, None, line["got"]
        assert begun is not None
        if self._stage == _FREE:
            self._first_call(begun, got)
        elif self._stage == _CONNECTING and got not in _STILL_PENDING:
            attempt = self._attempts[-1]
            if got != errno.ECONNABORTED:
                attempt.tell(got)
            elif attempt.taken:  # by SO_ERROR; else that has been told
                attempt.settle(*attempt.answers)
            self._stage = _FREE if got else _CONNECTED
        if self._last:
            self._last.look(line["state"])

    def _first_call(self, begun: Line, got: int) -> None:
        aim, last = self._aims[begun["target"]], self._attempts[-1] if self._attempts else None
        if got == errno.EISCONN and last:  # shutdown() found a connection
            last.ends = frozenset({ESTABLISHED})
            self._stage = _CONNECTED
        elif got == errno.EINVAL and aim.kind != "blackhole" and last:  # shutdown() found it half open
            last.ends = frozenset({expected_end(last.aim)})
            self._stage = _SHUT
        else:
            attempt = self._start(begun)
            self._stage = _CONNECTING
            if got not in _STILL_PENDING:
                attempt.tell(got)
                self._stage = _FREE if got else _CONNECTED

    def _error(self, line: Line) -> None:
        self._look(line)
        if self._stage != _CONNECTING or not line["result"]:
            return
        *earlier, attempt = self._attempts
        attempt.taken |= line["before"] == _SYN_SENT
        if line["state"] == _SYN_SENT and any(expected_end(one.aim)[1] == line["result"] for one in earlier):
            return  # a soft error, which no new attempt clears: it may be from the one before
        attempt.tell(line["result"])

    def _shutdown(self, line: Line) -> None:
        before, state = line["before"], line["state"]
        if self._stage != _CONNECTING:
            return
        attempt = self._attempts[-1]
        attempt.look(before)
        if line["got"] == 0 and before == _SYN_SENT and state == _CLOSE:
            attempt.give_up(line["at"])
            self._stage = _FREE
            return
        attempt.look(state)
        self._stage = _CONNECTED if before in _CONNECTED_STATES or state in _CONNECTED_STATES else _SHUT

    def _unspec(self, line: Line) -> None:
        if self._last:
            self._last.look(line["before"])
            self._last.give_up(line["at"])
        self._stage = _FREE

    def _race(self, line: Line) -> None:
        """Two threads have connected it at one time: one attempt, or two where the first was over by then."""
        begun, self._begun = self._begun, None
        assert begun is not None
        aim = self._aims[line["target"]]
        one = self._expect(line["pid"], aim, frozenset({expected_end(aim)}))
        self._raced.append(one)
        if (line["at"] - begun["at"]) / 1e9 >= FIRST_RETRY_S:  # on a busy machine a SYN may have been sent again
            one = one._replace(ends=one.ends | {None})
        self._raced += [one] * (self._syns[aim.target.port] - 1)

    def _watched(self, line: Line) -> None:
        begun, self._begun, got = self._begun, None, line["got"]
        assert begun is not None
        attempt = self._start(begun)
        if got in _STILL_PENDING:  # a signal, or SO_SNDTIMEO
            self._stage = _CONNECTING
            if line["action"] == "shutdown" and line["acted"] == [0]:
                self._shutdown({**line, "got": 0, "before": _SYN_SENT})
        elif line["action"] == "shutdown" and line["acted"] == [0] and got in _GIVEN_UP_BY_ANOTHER:
            attempt.settle(ABANDONED)
        else:
            attempt.tell(got)
            self._stage = _FREE if got else _CONNECTED
        if line["action"] == "close" and line["acted"]:
            self._drop(line["pid"], 1, line["at"])


def account(lines: Iterable[Line], aims: Sequence[Aim], syns: Mapping[int, int]) -> list[Expected]:
    """Return the attempts of a log; ``syns`` says how many SYNs came to each port of the scripted peer.

    Raises UnexpectedError where the client saw something that no attempt to such targets can show.
    """
    sockets: dict[int, _Socket] = {}
    for line in lines:
        if line["did"] == "broken":
            raise UnexpectedError(line["why"])
        if line["did"] == "reaped":
            for one in sockets.values():
                one.reaped(line["child"], line["at"])
        elif life := line["life"]:
            sockets.setdefault(life, _Socket(life, aims, syns)).take(line)
    return [attempt for one in sockets.values() for attempt in one.expected()]
