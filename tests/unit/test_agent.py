"""The loop, with a source and an output that a test holds in its hands."""

from collections.abc import Callable, Sequence

from otel_connect.agent import Agent
from otel_connect.capture.kernel import Drained
from otel_connect.enrich.processes import Processes
from otel_connect.model import Attempt, Balance, ConnectEvent, Ending, KernelCounters, Outcome
from tests.support.events import make_event


class FakeSource:
    """Gives prepared readings of the ring, then nothing; counts as the probes would."""

    hooks = ("fake",)

    def __init__(self, *readings: Drained, in_progress: Sequence[ConnectEvent] = (), ring_full: int = 0) -> None:
        self.readings = list(readings)
        self.waiting = list(in_progress)
        self.attached = True
        emitted = sum(len(reading.events) + reading.undecodable for reading in readings)
        self._counters = KernelCounters(emitted + len(in_progress) + ring_full, emitted, ring_full, 0, 0, 0, 0)

    def drain(self) -> Drained:
        return self.readings.pop(0) if self.readings else Drained([], 0, more=False)

    def counters(self) -> KernelCounters:
        return self._counters

    def in_progress(self) -> int:
        return len(self.waiting)

    def missed(self) -> int:
        return 3

    def refresh_clock(self) -> None:
        """Nothing to sample."""

    def take_stale(self, now_monotonic_ns: int) -> list[ConnectEvent]:
        assert now_monotonic_ns > 0
        return []

    def take_in_progress(self) -> list[ConnectEvent]:
        assert not self.attached
        taken, self.waiting = self.waiting, []
        return [event._replace(ending=Ending.PENDING) for event in taken]

    def detach(self) -> None:
        self.attached = False


class Collected:
    """An output that keeps everything."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.balances: list[Balance] = []
        self.closed: Balance | None = None

    def write(self, attempts: Sequence[Attempt]) -> None:
        self.attempts += attempts

    def tick(self, balance: Callable[[], Balance]) -> None:
        self.balances.append(balance())

    def close(self, balance: Balance) -> None:
        self.closed = balance


def run(source: FakeSource, *, rounds: int = 1) -> Collected:
    class StopAfter:
        calls = 0

        def wait(self, timeout: float) -> bool:
            assert timeout == 0
            self.calls += 1
            return self.calls > rounds

    output = Collected()
    processes = Processes(lambda _pid, _start: "/usr/bin/curl", lambda _uid: "alice", 16)
    balance = Agent(source, processes, output, 0.0).run(StopAfter())
    assert output.closed == balance
    assert balance.difference == 0
    return output


def test_what_was_drained_is_decided_named_and_shown_in_order() -> None:
    events = [make_event(sequence=1), make_event(sequence=2, ending=Ending.ESTABLISHED)]
    output = run(FakeSource(Drained(events, 0, more=False)))
    assert [attempt.verdict.outcome for attempt in output.attempts] == [Outcome.REFUSED, Outcome.ESTABLISHED]
    assert {attempt.process.executable_name for attempt in output.attempts} == {"curl"}
    assert len({attempt.event_id for attempt in output.attempts}) == 2


def test_at_the_end_the_ring_is_emptied_and_what_has_no_end_is_pending() -> None:
    readings = [Drained([make_event(sequence=n)], 0, more=n < 4) for n in range(5)]
    output = run(FakeSource(*readings, in_progress=[make_event(sequence=9)]), rounds=0)
    assert [attempt.event.sequence for attempt in output.attempts] == [0, 1, 2, 3, 4, 9]
    assert output.attempts[-1].verdict.outcome is Outcome.PENDING


def test_every_loss_is_in_the_balance() -> None:
    output = run(FakeSource(Drained([make_event()], 2, more=False), ring_full=5))
    assert output.closed is not None
    assert output.closed.lost == {"kernel_ring_full": 5, "kernel_map_full": 0, "undecodable": 2}
    assert (output.closed.seen, output.closed.shown, output.closed.probe_missed) == (8, 1, 3)


def test_the_balance_holds_while_attempts_wait_in_the_ring() -> None:
    readings = [Drained([make_event()], 0, more=True), Drained([make_event()], 0, more=False)]
    output = run(FakeSource(*readings, in_progress=[make_event()]), rounds=2)
    assert [balance.in_ring for balance in output.balances] == [1, 0]
    assert all(balance.difference == 0 for balance in output.balances)


def test_a_difference_is_seen() -> None:
    assert Balance(seen=5, shown=1, in_progress=1, in_ring=1, lost={"x": 1}, probe_missed=0).difference == 1
