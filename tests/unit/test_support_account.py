"""The oracle of random programs: what it makes of a log, and that it sees each kind of difference."""

import errno
from collections import Counter
from typing import Any

import pytest

from tests.support.account import Expected, UnexpectedError, account
from tests.support.answers import ABANDONED, ESTABLISHED, UNKNOWN, End
from tests.support.bench import Target
from tests.support.differences import compare
from tests.support.peer import Answer, Behaviour
from tests.support.random_plan import CLOSED, Aim

PARENT, CHILD = 10, 11
LATE = Behaviour(Answer.ACCEPT, 0.01)
REFUSED: End = ("refused", errno.ECONNREFUSED)
UNREACHABLE: End = ("unreachable", errno.EHOSTUNREACH)
SYN_SENT, CONNECTED, CLOSE = 2, 1, 7
ACCEPTS, REFUSES, CLOSES, LOSES, ANSWERS_ICMP = range(5)
ADDRESS = "192.0.2.2"
AIMS = [
    Aim(Target(ADDRESS, ADDRESS, 1), Answer.ACCEPT, LATE),
    Aim(Target(ADDRESS, ADDRESS, 2), Answer.REFUSE, LATE._replace(answer=Answer.REFUSE)),
    Aim(Target(ADDRESS, ADDRESS, 3), CLOSED),
    Aim(Target(ADDRESS, ADDRESS, 4), Answer.SILENT, Behaviour(Answer.SILENT)),
    Aim(Target(ADDRESS, ADDRESS, 5), Answer.HOST_UNREACHABLE, Behaviour(Answer.HOST_UNREACHABLE, 0.01)),
]


class Written:
    """A log of one socket."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.at_ms = 0
        self.did("socket")

    def did(self, did: str, pid: int = PARENT, **more: Any) -> "Written":
        self.lines.append({"at": self.at_ms * 1_000_000, "pid": pid, "life": 1, "did": did, **more})
        return self

    def connect(self, target: int, got: int, state: int, pid: int = PARENT) -> "Written":
        self.did("begin", pid, target=target)
        return self.did("connect", pid, target=target, got=got, before=CLOSE, state=state)

    def pending(self, target: int) -> "Written":
        return self.connect(target, errno.EINPROGRESS, SYN_SENT)

    def after_ms(self, ms: int) -> "Written":
        self.at_ms += ms
        return self

    def close(self, before: int = SYN_SENT, pid: int = PARENT) -> "Written":
        return self.did("close", pid, before=before)

    def reaped(self, child: int) -> "Written":
        self.lines.append({"at": self.at_ms * 1_000_000, "pid": 1, "life": None, "did": "reaped", "child": child})
        return self

    def ends(self, syns: dict[int, int] | None = None) -> list[tuple[int, set[End | None]]]:
        return [(one.key[0], set(one.ends)) for one in account(self.lines, AIMS, syns or {})]


def error(written: Written, number: int, state: int = CLOSE) -> Written:
    return written.did("error", got=0, result=number, before=state, state=state)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (Written().connect(ACCEPTS, 0, CONNECTED).close(CONNECTED), [{ESTABLISHED}]),
        (Written().connect(CLOSES, errno.ECONNREFUSED, CLOSE).close(CLOSE), [{REFUSED}]),
        (error(Written().pending(REFUSES), errno.ECONNREFUSED).close(CLOSE), [{REFUSED}]),
        (Written().pending(REFUSES).did("poll", before=SYN_SENT, state=CLOSE).close(CLOSE), [{REFUSED}]),
        (Written().pending(ACCEPTS).did("poll", before=SYN_SENT, state=CONNECTED).close(CONNECTED), [{ESTABLISHED}]),
        # closed before the answer can have come, and after
        (Written().pending(ACCEPTS).after_ms(9).close(), [{ABANDONED}]),
        (Written().pending(ACCEPTS).after_ms(11).close(), [{ABANDONED, ESTABLISHED}]),
        (Written().pending(LOSES).after_ms(2000).close(), [{ABANDONED}]),
        # a second call asks after the first attempt, a third is another
        (
            Written()
            .pending(REFUSES)
            .connect(REFUSES, errno.EALREADY, SYN_SENT)
            .connect(REFUSES, errno.ECONNREFUSED, CLOSE)
            .connect(REFUSES, errno.ECONNREFUSED, CLOSE)
            .close(CLOSE),
            [{REFUSED}, {REFUSED}],
        ),
        (
            error(Written().pending(REFUSES), errno.ECONNREFUSED)
            .connect(REFUSES, errno.ECONNABORTED, CLOSE)
            .close(CLOSE),
            [{REFUSED}],
        ),
        # shut down while pending, and then connected anew
        (
            Written()
            .pending(LOSES)
            .did("shutdown", got=0, before=SYN_SENT, state=CLOSE)
            .connect(ACCEPTS, 0, CONNECTED)
            .close(CONNECTED),
            [{ABANDONED}, {ESTABLISHED}],
        ),
        # a soft error of the attempt before says nothing of this one
        (
            error(
                error(Written().pending(ANSWERS_ICMP), errno.EHOSTUNREACH)
                .connect(ANSWERS_ICMP, errno.ECONNABORTED, CLOSE)
                .pending(LOSES),
                errno.EHOSTUNREACH,
                SYN_SENT,
            ).close(),
            [{UNREACHABLE}, {ABANDONED}],
        ),
        # one descriptor of two is closed
        (error(Written().pending(REFUSES).did("dup").close(), errno.ECONNREFUSED).close(CLOSE), [{REFUSED}]),
    ],
)
def test_what_a_log_says(written: Written, expected: list[set[End]]) -> None:
    assert [ends for _, ends in written.ends()] == expected


def test_the_attempt_is_that_of_the_process_that_connects() -> None:
    written = Written().pending(REFUSES).did("fork", child=CHILD, held=1).close()
    written.did("error", CHILD, got=0, result=errno.ECONNREFUSED, before=CLOSE, state=CLOSE)
    written.connect(REFUSES, errno.ECONNABORTED, CLOSE, CHILD).connect(ACCEPTS, 0, CONNECTED, CHILD)
    assert written.close(CONNECTED, CHILD).ends() == [(PARENT, {REFUSED}), (CHILD, {ESTABLISHED})]


def test_a_killed_process_gives_up() -> None:
    assert Written().pending(LOSES).reaped(PARENT).ends() == [(PARENT, {ABANDONED})]


@pytest.mark.parametrize("syns", [0, 1])
def test_a_connect_that_never_returned_was_made_if_its_syn_came(syns: int) -> None:
    written = Written().did("begin", target=LOSES).reaped(PARENT)
    assert written.ends({4: syns}) == [(PARENT, {ABANDONED})] * syns


def test_as_many_attempts_as_syns_in_a_race() -> None:
    written = Written().did("begin", target=REFUSES).did("race", target=REFUSES, got=[111, 111], state=CLOSE)
    assert written.close(CLOSE).ends({2: 2}) == [(PARENT, {REFUSED})] * 2


def test_what_the_bench_cannot_have_done_is_said() -> None:
    with pytest.raises(UnexpectedError, match="ENETUNREACH from"):
        error(Written().pending(REFUSES), errno.ENETUNREACH).ends()


def test_a_socket_that_stays_open_is_said() -> None:
    with pytest.raises(UnexpectedError, match="nobody has closed"):
        Written().pending(REFUSES).ends()


KEY = (PARENT, ADDRESS, 1)


def attempt(*ends: End | None) -> Expected:
    return Expected(1, KEY, frozenset(ends))


@pytest.mark.parametrize(
    ("expected", "recorded", "kinds"),
    [
        ([attempt(REFUSED)], [REFUSED], {}),
        ([attempt(REFUSED, ABANDONED), attempt(REFUSED)], [REFUSED, ABANDONED], {}),
        ([attempt(REFUSED, None)], [], {}),
        ([attempt(REFUSED)], [], {"missing": 1}),
        ([attempt(REFUSED)], [REFUSED, REFUSED], {"too many": 1}),
        ([], [ESTABLISHED], {"too many": 1}),
        ([attempt(ESTABLISHED)], [REFUSED], {"false failure": 1}),
        ([attempt(REFUSED)], [ESTABLISHED], {"false success": 1}),
        ([attempt(REFUSED)], [("refused", None)], {"wrong": 1}),
        ([attempt(REFUSED)], [UNKNOWN], {"wrong": 1}),
        ([attempt(REFUSED), attempt(ESTABLISHED)], [ESTABLISHED], {"missing": 1}),
    ],
)
def test_differences(expected: list[Expected], recorded: list[End], kinds: dict[str, int]) -> None:
    assert compare(expected, [(KEY, end) for end in recorded], {}).kinds == Counter(kinds)


@pytest.mark.parametrize("recorded", [[], [UNKNOWN]])
def test_an_end_that_was_hidden_is_forgiven_once(recorded: list[End]) -> None:
    records = [(KEY, end) for end in recorded]
    assert not compare([attempt(REFUSED)], records, {KEY[1:]: 1}).kinds
    assert compare([attempt(REFUSED)] * 2, records, {KEY[1:]: 1}).kinds == Counter(missing=1)
