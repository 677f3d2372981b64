"""What becomes of the batches of a request: the size of the next one, what is lost, what is said of it."""

import logging
from collections.abc import Sequence

import pytest

from otel_connect.export.answer import Action, Answer
from otel_connect.export.dead_letters import DeadLetters
from otel_connect.export.delay import DelayHistogram
from otel_connect.export.fates import Fates
from otel_connect.export.ledger import Reason
from otel_connect.export.store import Batch
from otel_connect.model import Request, Signal
from tests.support.delivery import logs
from tests.support.spool import SpoolBench

DELIVERED, TOO_LARGE, REFUSED = (Answer(action) for action in (Action.DELIVERED, Action.SPLIT, Action.REJECTED))
PLACE = "http://backend:4318"
ONE = logs("a", padding=1000)
SIZE = len(ONE.body)


class Unwritable(DeadLetters):
    """Keeps nothing, and says why."""

    def __init__(self) -> None:
        """Have no file."""

    def write(self, request: Request, reason: str) -> str | None:
        return f"no room for {request.records} ({reason})"


class Desk:
    """Fates with a spool in memory; ``close`` asserts that the account adds up."""

    def __init__(self, request_bytes: int = 8 * SIZE, letters: DeadLetters | None = None) -> None:
        self.bench = SpoolBench(None)
        self.bench.spool.finish(Signal.LOGS)  # to lease waits for nothing
        self.delays = DelayHistogram()
        self.fates = Fates(
            Signal.LOGS,
            self.bench.spool,
            self.delays,
            letters,
            request_bytes=request_bytes,
            clock=self.bench.clocks.monotonic,
        )

    def put(self, number: int) -> None:
        for _ in range(number):
            self.bench.put(ONE)

    def turn(self, answer: Answer) -> Sequence[Batch]:
        """Lease what is next, and settle it."""
        batches = self.fates.lease()
        self.fates.settle(batches, answer, PLACE)
        return batches

    def turns(self, number: int, answer: Answer = DELIVERED) -> list[int]:
        return [len(self.turn(answer)) for _ in range(number)]


def test_a_request_that_was_too_large_makes_the_next_ones_half_as_large() -> None:
    desk = Desk()
    desk.put(8)
    assert desk.turns(1, TOO_LARGE) == [8]
    assert desk.turns(8) == [1] * 8  # each is looked at by itself
    desk.put(16)
    assert desk.turns(4) == [4] * 4


def test_after_64_requests_one_of_twice_the_size_is_tried_up_to_what_is_configured() -> None:
    desk = Desk(request_bytes=6 * SIZE)
    desk.put(4)
    assert desk.turns(1, TOO_LARGE) == [4]
    assert desk.turns(4) == [1] * 4
    sizes = []
    desk.put(6)
    for _ in range(200):
        sizes.append(len(desk.turn(DELIVERED)))
        desk.put(sizes[-1])
    assert sizes == [2] * 60 + [4] * 64 + [6] * 76


def test_another_backend_is_asked_for_what_is_configured_again() -> None:
    desk = Desk()
    desk.put(8)
    desk.turns(1, TOO_LARGE)
    desk.fates.limit(3 * SIZE)
    assert desk.turns(8) == [1] * 8
    desk.put(6)
    assert desk.turns(2) == [3, 3]


def test_one_byte_that_is_too_large_makes_no_request_of_nothing() -> None:
    desk = Desk()
    for _ in range(2):
        desk.bench.put(Request(Signal.LOGS, b"", 1))
    assert desk.turns(1, TOO_LARGE) == [2]
    assert desk.turns(2) == [1, 1]
    for _ in range(2):
        desk.bench.put(Request(Signal.LOGS, b"x", 1))
    assert desk.turns(2) == [1, 1]


def test_what_is_refused_together_is_sent_one_by_one_and_only_the_bad_one_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.put(3)
    assert desk.turns(1, REFUSED) == [3]
    assert desk.bench.account().dropped == {}
    desk.turn(DELIVERED)
    desk.turn(Answer(Action.REJECTED, message="no such tenant"))
    desk.turn(DELIVERED)
    account = desk.bench.account()
    assert (account.exported, account.dropped) == (2, {Reason.REJECTED_PERMANENT: 1})
    assert caplog.messages == ["logs: dropped 1 records (rejected_permanent): no such tenant"]
    desk.put(8)
    assert desk.turns(1) == [8]  # what was refused was not too large


def test_what_cannot_be_halved_is_lost_and_said(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.bench.put(logs("a", "b"))
    assert desk.turns(3, TOO_LARGE) == [1, 1, 1]  # both, then each half
    assert desk.bench.account().dropped == {Reason.TOO_LARGE: 2}
    assert caplog.messages == ["logs: dropped 1 records (too_large): no reason given"]


def test_every_loss_is_said_once_a_minute_for_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.bench.clocks.monotonic_s = 5.0  # a machine that has just started
    for passed, said in ((0, 1), (59, 1), (0.9, 1), (0.1, 2), (60, 3)):
        desk.bench.clocks.pass_time(passed)
        desk.put(1)
        desk.turn(REFUSED)
        assert len(caplog.messages) == said, passed
    desk.fates.say_lost(Reason.QUEUE_FULL, 7, "the backend does not keep up")
    assert caplog.messages[-1] == "logs: dropped 7 records (queue_full): the backend does not keep up"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize(
    ("rejected", "message", "said"),
    [
        (0, "", []),
        (0, "deprecated", [f"logs: {PLACE} warns: deprecated"]),
        (2, "too old", ["logs: dropped 2 records (rejected_partial): too old"]),
        (99, "all", ["logs: dropped 3 records (rejected_partial): all"]),
    ],
)
def test_a_partial_success_is_counted_up_to_what_was_sent(
    rejected: int, message: str, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    desk.put(3)
    desk.bench.clocks.pass_time(2.0)
    desk.turn(Answer(Action.DELIVERED, rejected=rejected, message=message))
    account = desk.bench.account()
    lost = min(rejected, 3)
    assert (account.exported, account.dropped) == (3 - lost, {Reason.REJECTED_PARTIAL: lost} if lost else {})
    assert caplog.messages == said
    delays = desk.delays.snapshot()[Signal.LOGS]
    assert (sum(delays.counts), delays.sum_s) == (3, 6.0)


def test_after_the_end_nothing_is_counted_or_said(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.put(2)
    batches = desk.fates.lease()
    desk.bench.spool.close()
    for action in (Action.DELIVERED, Action.REJECTED):
        desk.fates.settle(batches[:1], Answer(action, rejected=1), PLACE)
    assert desk.fates.drop_expired(batches, 0.0, "old") == []
    assert sum(desk.delays.snapshot()[Signal.LOGS].counts) == 0
    assert desk.bench.account().dropped == {Reason.SHUTDOWN: 2}
    assert caplog.messages == []


def test_what_has_waited_so_long_expires_and_the_rest_does_not(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.put(1)
    desk.bench.clocks.pass_time(1.0)
    desk.put(2)
    desk.bench.clocks.pass_time(9.0)
    batches = desk.fates.lease()
    assert desk.fates.drop_expired(batches, 10.1, "down") == list(batches)
    assert caplog.messages == []
    assert desk.fates.drop_expired(batches, 10.0, "down") == list(batches[1:])
    assert caplog.messages == ["logs: dropped 1 records (expired): down"]
    assert desk.bench.account().dropped == {Reason.EXPIRED: 1}


def test_a_refused_request_that_cannot_be_kept_is_said(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(letters=Unwritable())
    desk.put(1)
    desk.turn(Answer(Action.REJECTED, message="bad"))
    assert caplog.messages == [
        "logs: a refused request is not kept as a dead letter: no room for 1 (bad)",
        "logs: dropped 1 records (rejected_permanent): bad",
    ]
