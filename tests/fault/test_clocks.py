"""The clock is set while records wait: nothing is stuck, nothing expires too early, nothing is kept for ever.

The wall clock of the exporter is an argument, and so is its monotonic one, which nobody can set but which
stands still while a machine sleeps. Sockets and the spool are real.
"""

import itertools
from pathlib import Path

import grpc
import pytest

from otel_connect.config import ExportConfig, Protocol
from otel_connect.export.answer import LONGEST_RETRY_AFTER_S, Action, from_http
from otel_connect.export.ledger import Account, Reason
from otel_connect.model import Signal
from tests.support.delivery import GRPC, HTTP, Bench, configured, logs, receive
from tests.support.receiver import Receiver, Reply

BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])
DOWN = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)
HOUR_S = 3600
DAY_S = 24 * HOUR_S
JUMPS = {"a day ahead": DAY_S, "a day back": -DAY_S, "a year ahead": 365 * DAY_S, "to 1970": -1_800_000_000}
NOON_S = 1_800_000_000


class Clocks:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.wall_s = float(NOON_S)

    def monotonic(self) -> float:
        return self.monotonic_s

    def wall_ns(self) -> int:
        return int(self.wall_s * 1e9)

    def pass_time(self, seconds: float) -> None:
        """Let time pass as it does."""
        self.monotonic_s += seconds
        self.wall_s += seconds


def bench_with(clocks: Clocks, config: ExportConfig) -> Bench:
    return Bench(config, clock=clocks.monotonic, wall_ns=clocks.wall_ns)


def await_more_answers(bench: Bench, count: int = 2) -> None:
    bench.await_answers(len(bench.answers()) + count)


@BOTH
@pytest.mark.parametrize("jump_s", list(JUMPS.values()), ids=list(JUMPS))
def test_what_waits_survives_a_jump_of_the_wall_clock(protocol: Protocol, jump_s: float) -> None:
    clocks = Clocks()
    with receive(protocol, itertools.repeat(DOWN)) as receiver:
        bench = bench_with(clocks, configured(receiver, protocol))
        bench.put(logs("before"))
        bench.await_answers(2)
        clocks.wall_s += jump_s
        bench.put(logs("after"))
        await_more_answers(bench)
        receiver.answer()
        account = bench.close()
    assert sorted(receiver.acknowledged) == ["after", "before"]
    assert (account.exported, account.dropped) == (2, {})


@BOTH
@pytest.mark.parametrize("jump_s", list(JUMPS.values()), ids=list(JUMPS))
def test_a_jump_does_not_keep_records_beyond_their_day(protocol: Protocol, jump_s: float) -> None:
    clocks = Clocks()
    with receive(protocol, itertools.repeat(DOWN)) as receiver:
        bench = bench_with(clocks, configured(receiver, protocol))
        bench.put(logs("old"))
        bench.await_answers(2)
        clocks.wall_s += jump_s
        clocks.pass_time(DAY_S - HOUR_S)
        bench.put(logs("new"))
        await_more_answers(bench)
        clocks.pass_time(HOUR_S)
        await_more_answers(bench)
        receiver.answer()
        account = bench.close()
    assert receiver.acknowledged == ["new"]
    assert (account.exported, account.dropped) == (1, {Reason.EXPIRED: 1})


def left_by_an_earlier_run(receiver: Receiver, clocks: Clocks, spool: Path) -> ExportConfig:
    config = configured(receiver, HTTP, spool_directory=f"{spool}")
    bench = bench_with(clocks, config)
    bench.put(logs("left"))
    bench.await_answers(1)
    account = bench.close(0.05)
    assert (account.queued, account.dropped) == (1, {})
    return config


def next_run(receiver: Receiver, clocks: Clocks, config: ExportConfig) -> Account:
    clocks.monotonic_s = 5.0  # a boot later
    receiver.answer()
    return bench_with(clocks, config).close()


@pytest.mark.parametrize(
    ("jump_s", "arrives"),
    [(-DAY_S, True), (-NOON_S, True), (HOUR_S, True), (DAY_S - HOUR_S, True), (DAY_S + HOUR_S, False)],
    ids=["a day back", "to 1970", "an hour ahead", "less than a day ahead", "more than a day ahead"],
)
def test_what_an_earlier_run_left_is_as_old_as_the_wall_clock_says(
    jump_s: float, arrives: bool, tmp_path: Path
) -> None:
    clocks = Clocks()
    with receive(HTTP, itertools.repeat(DOWN)) as receiver:
        config = left_by_an_earlier_run(receiver, clocks, tmp_path / "spool")
        clocks.wall_s += jump_s
        account = next_run(receiver, clocks, config)
    assert (account.recovered, account.queued) == (1, 0)
    assert receiver.acknowledged == (["left"] if arrives else [])
    assert account.dropped == ({} if arrives else {Reason.EXPIRED: 1})


def test_a_machine_that_slept_goes_on(tmp_path: Path) -> None:
    clocks = Clocks()
    with receive(HTTP, [DOWN, DOWN]) as receiver:
        bench = bench_with(clocks, configured(receiver, HTTP, spool_directory=f"{tmp_path}/spool"))
        bench.put(logs("a"))
        bench.await_answers(1)
        clocks.wall_s += 8 * HOUR_S  # the monotonic clock slept, too
        account = bench.close()
    assert receiver.acknowledged == ["a"]
    assert account.exported == 1


@pytest.mark.parametrize("jump_s", [*JUMPS.values(), 0], ids=[*JUMPS, "none"])
def test_a_date_to_retry_after_never_holds_longer_than_the_cap(jump_s: float) -> None:
    # The backend's clock and ours may differ by any amount.
    date = {"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}  # NOON_S and 30 s
    answer = from_http(Signal.LOGS, 503, date, b"", NOON_S + jump_s)
    assert answer.action is Action.RETRY
    assert answer.retry_after_s == {0: 30.0}.get(int(jump_s), LONGEST_RETRY_AFTER_S if jump_s < 0 else 0.0)
