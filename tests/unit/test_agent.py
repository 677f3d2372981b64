"""The loop, with a source and an output that a test holds in its hands."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from otel_connect.agent import Agent
from otel_connect.capture.kernel import Drained, Fill
from otel_connect.enrich.hosts import Hosts
from otel_connect.enrich.kubelet import Pods
from otel_connect.enrich.names import Names
from otel_connect.figures import AgentState
from otel_connect.model import (
    About,
    Attempt,
    Balance,
    ConnectEvent,
    Detail,
    Ending,
    EventFlag,
    KernelCounters,
    KernelFilters,
    Outcome,
    Segment,
    ServerName,
    Tallied,
    Tally,
    ThrottleEvent,
    Told,
    Withheld,
)
from tests.support.enriching import make_enricher
from tests.support.events import make_event
from tests.support.lookups import BEGAN, NETNS, answer, answered, asked, question


class FakeSource:
    """Gives prepared readings of the ring, then nothing; counts as the probes would."""

    probes = "typed"
    hooks = ("fake",)

    def __init__(
        self,
        *readings: Drained,
        in_progress: Sequence[ConnectEvent] = (),
        ring_full: int = 0,
        tallies: Sequence[Tally] = (),
        untallied: int = 0,
        call_full: int = 0,
    ) -> None:
        self.tallies = list(tallies)
        self.readings = list(readings)
        self.waiting = list(in_progress)
        self.attached = True
        emitted = sum(len(reading.events) + reading.undecodable for reading in readings)
        throttled = sum(tally.attempts for tally in tallies) + untallied
        seen = emitted + len(in_progress) + ring_full + throttled
        self._counters = KernelCounters(seen, emitted, ring_full, 0, 0, 0, 0, throttled, untallied)._replace(
            call_full=call_full
        )

    def drain(self) -> Drained:
        return self.readings.pop(0) if self.readings else Drained([], 0, more=False)

    def take_tallies(self) -> list[Tally]:
        tallies, self.tallies = self.tallies, []
        return tallies

    def counters(self) -> KernelCounters:
        return self._counters

    def filter(self, filters: KernelFilters) -> None:
        self.filters = filters

    def in_progress(self) -> int:
        return len(self.waiting)

    def missed(self) -> int:
        return 3

    def fill(self) -> Fill:
        return Fill(in_progress_limit=64, ring_bytes=0, ring_limit_bytes=4096)

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
        self.tallied: list[Tallied] = []
        self.throttles: list[ThrottleEvent] = []

    unwritten = 0

    def write(self, attempts: Sequence[Attempt]) -> int:
        self.attempts += attempts
        return self.unwritten

    def count(self, tallied: Sequence[Tallied]) -> None:
        self.tallied += tallied

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        self.throttles += events

    def tick(self, state: Callable[[], AgentState]) -> None:
        self.balances.append(state().balance)

    def close(self, state: AgentState) -> None:
        self.closed = state.balance


class Hangup(Collected):
    """An output whose reader has gone."""

    def write(self, attempts: Sequence[Attempt]) -> int:
        del attempts
        raise BrokenPipeError


class Rounds:
    """Stops the agent after so many rounds."""

    def __init__(self, number: int) -> None:
        self._left = number

    def wait(self, timeout: float) -> bool:
        assert timeout == 0
        self._left -= 1
        return self._left < 0


class Passing(Rounds):
    """Lets so much time pass with each round, on a clock of its own."""

    def __init__(self, rounds: int, each_s: float) -> None:
        super().__init__(rounds)
        self._each_s = each_s
        self.now_s = 100.0

    def wait(self, timeout: float) -> bool:
        self.now_s += self._each_s
        return super().wait(timeout)

    def monotonic_ns(self) -> int:
        return int(self.now_s * 1e9)


def run(source: FakeSource, *, rounds: int = 1, executable: str | None = "/usr/bin/curl") -> Collected:
    output = Collected()
    enricher = make_enricher(lambda _pid, _start: executable, lambda _uid: "alice")
    balance = Agent(source, enricher, output, 0.0).run(Rounds(rounds))
    assert output.closed == balance
    assert balance.difference == 0
    return output


class FakeListening:
    """Packets that come with the rounds of the loop."""

    def __init__(self, *rounds: Sequence[Segment]) -> None:
        self.rounds = list(rounds)
        self.limits: set[int] = set()

    def drain(self, limit: int) -> Sequence[Segment]:
        self.limits.add(limit)
        return self.rounds.pop(0) if self.rounds else []


def test_packets_are_read_before_the_attempts_of_their_round_are_named() -> None:
    ask = question("web.test")
    event = make_event(start_unix_ns=BEGAN + 2, netns=NETNS)
    reading = Drained([event], 0, more=False)
    process = event.pid, event.process_start_boot_ns
    answers = [asked(ask, process=process), answered(answer(ask, ("web.test", 30, "A", str(event.peer_address))))]
    listening = FakeListening(answers)
    output = Collected()

    class Once:
        calls = 0

        def wait(self, timeout: float) -> bool:
            del timeout
            self.calls += 1
            return self.calls > 1

    enricher = make_enricher(lambda *_: None, lambda _: None, names=Names(Hosts(lambda *_: None, lambda: 0)))
    agent = Agent(FakeSource(reading), enricher, output, 0.0, listening=listening)
    agent.run(Once())
    assert [one.named.server for one in output.attempts] == [ServerName("web.test", "dns", "process")]
    assert max(listening.limits) < 1000, "a flood must not hold the loop up"
    state = agent.state().names
    assert state is not None
    assert (state.learned, state.lost) == (1, 0)


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
    assert output.closed.lost == {
        "kernel_ring_full": 5,
        "kernel_map_full": 0,
        "kernel_throttled": 0,
        "filtered": 0,
        "no_syn": 0,
        "undecodable": 2,
        "output_io": 0,
    }
    assert (output.closed.seen, output.closed.shown, output.closed.probe_missed) == (8, 1, 3)


def test_the_balance_holds_while_attempts_wait_in_the_ring() -> None:
    readings = [Drained([make_event()], 0, more=True), Drained([make_event()], 0, more=False)]
    output = run(FakeSource(*readings, in_progress=[make_event()]), rounds=2)
    assert [balance.in_ring for balance in output.balances] == [1, 0]
    assert all(balance.difference == 0 for balance in output.balances)


def test_what_waits_to_be_found_superseded_is_in_the_balance_and_shown_at_the_end() -> None:
    closed = {"sk_err": 0, "shutdown": 3, "flags": int(EventFlag.LOCKED)}
    there = {"requested_address": None, "requested_port": None, **closed}
    dead = make_event(sequence=1, peer_address="::1", **there)
    began = dead.start_unix_ns + (dead.duration_ns or 0) + 1_000_000
    alive = make_event(sequence=2, peer_address="127.0.0.1", ending=Ending.ESTABLISHED, start_unix_ns=began, **there)
    readings = [Drained([dead], 0, more=True), Drained([], 0, more=True), Drained([alive], 0, more=True)]
    output = run(FakeSource(*readings), rounds=3)
    assert [(balance.waiting, balance.in_ring, balance.shown) for balance in output.balances] == [
        (1, 1, 0),
        (1, 1, 0),
        (0, 0, 2),
    ]
    assert all(balance.difference == 0 for balance in output.balances)
    assert [(one.event.sequence, one.superseded) for one in output.attempts] == [(2, False), (1, True)]
    alone = run(FakeSource(Drained([dead], 0, more=False)))
    assert [(one.event.sequence, one.superseded) for one in alone.attempts] == [(1, False)]


def test_an_attempt_that_nothing_supersedes_is_shown_after_two_seconds() -> None:
    shown: list[int] = []

    class Watching(Collected):
        def tick(self, state: Callable[[], AgentState]) -> None:
            assert state().balance.difference == 0
            shown.append(len(self.attempts))

    class HalfSeconds:
        now = 0

        def wait(self, timeout: float) -> bool:
            del timeout
            self.now += 500_000_000
            return len(shown) == 6

    dead = make_event(peer_address="::1", requested_address=None, sk_err=0, shutdown=3, flags=int(EventFlag.LOCKED))
    clock = HalfSeconds()
    enricher = make_enricher(lambda *_: None, lambda _: None)
    source = FakeSource(Drained([dead], 0, more=False))
    Agent(source, enricher, Watching(), 0.0, monotonic_ns=lambda: clock.now).run(clock)
    assert shown == [0, 0, 0, 0, 1, 1]


def test_a_difference_is_seen() -> None:
    assert Balance(seen=5, shown=1, in_progress=1, in_ring=1, lost={"x": 1}, probe_missed=0).difference == 1


@pytest.mark.parametrize("output", [Collected(), Hangup()])
def test_what_goes_on_beside_the_loop_ends_with_it(output: Collected) -> None:
    pods = Pods(dict, refresh_s=60)
    pods.of("c0ffee", None)  # from now on somebody asks
    assert "kubelet" in {thread.name for thread in threading.enumerate()}
    enricher = make_enricher(lambda *_: None, lambda _: None, pods=pods)
    stop = threading.Event()
    stop.set()
    with suppress(BrokenPipeError):
        Agent(FakeSource(Drained([make_event()], 0, more=False)), enricher, output, 0.0).run(stop)
    assert "kubelet" not in {thread.name for thread in threading.enumerate()}


def test_what_moves_is_derived_and_what_stands_still_is_counted() -> None:
    class Moving(FakeSource):
        """Attempts begin whenever one looks."""

        def counters(self) -> KernelCounters:
            self._counters = self._counters._replace(seen=self._counters.seen + 7)
            return self._counters

    output = Collected()
    enricher = make_enricher(lambda _pid, _start: None, lambda _uid: None)
    agent = Agent(Moving(in_progress=[make_event()]), enricher, output, 0.0)
    assert agent.balance().difference == 0
    lying = FakeSource(in_progress=[make_event()])
    lying.waiting = []  # the table has lost an attempt
    assert Agent(lying, enricher, output, 0.0).balance().difference == 1


def test_what_has_no_record_is_decided_named_and_counted() -> None:
    whole = Tally(Withheld.PROCESS_RATE, Detail.WHOLE, make_event(), 5, 500, 1, 2)
    coarse = Tally(Withheld.RING_PRESSURE, Detail.WITHOUT_PROCESS, make_event(pid=0), 7, None, 1, 2)
    output = run(FakeSource(tallies=[whole, coarse]))
    assert output.attempts == []
    assert [(one.verdict.outcome, one.attempts, one.duration_ns) for one in output.tallied] == [
        (Outcome.REFUSED, 5, 500),
        (Outcome.REFUSED, 7, None),
    ]
    assert [one.named and one.named.process.executable_name for one in output.tallied] == ["curl", None]
    assert output.closed is not None
    assert output.closed.lost["kernel_throttled"] == 12


def test_what_not_even_the_metrics_count_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    output = run(FakeSource(untallied=3), rounds=3)
    said = [message for message in caplog.messages if "no room" in message]
    assert said == ["3 attempts without a record found no room to be counted in: the metrics lack them"]
    assert output.closed is not None
    assert output.closed.lost["kernel_throttled"] == 3


def test_a_throttle_is_told_of_in_one_harmless_line_and_ends_with_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    event = make_event(comm="\x1b]0;x\n")
    tally = Tally(Withheld.CGROUP_RATE, Detail.WHOLE, event, 5, 500, 1, 2)
    output = run(FakeSource(tallies=[tally]), executable=None)
    assert [(event.started, event.attempts) for event in output.throttles] == [(True, 5), (False, 5)]
    assert len(caplog.messages) == 2
    assert all(line.isprintable() and "cgroup_rate" in line for line in caplog.messages)


def test_attempts_without_a_record_are_named_by_what_the_ring_still_holds() -> None:
    """At any turn, and at the last: the kernel tells of a process before its first attempt ends."""
    for rounds in (0, 1):
        event = make_event(exec_id=0, comm="short")
        executable = Told(event.pid, event.process_start_boot_ns, 3, About.EXECUTABLE, ("a-longer-name",), True, None)
        tally = Tally(Withheld.CGROUP_RATE, Detail.WHOLE, event, 5, 500, 1, 2)
        source = FakeSource(
            *[Drained([], 0, more=False)] * rounds, Drained([], 0, False, [executable]), tallies=[tally]
        )
        output = run(source, rounds=rounds, executable=None)
        assert [one.named and one.named.process.executable_name for one in output.tallied] == ["a-longer-name"]


def test_a_flood_of_processes_is_counted_before_the_first_are_forgotten() -> None:
    """A turn ends early when more processes were told of than are remembered."""
    events = [make_event(pid=pid, exec_id=0, comm="short") for pid in range(1, 61)]
    told = [
        Told(one.pid, one.process_start_boot_ns, 3, About.EXECUTABLE, ("a-longer-name",), True, None) for one in events
    ]

    class Flooded(FakeSource):
        """Tells of a few processes in each reading, and tallies their attempts."""

        def drain(self) -> Drained:
            new, told[:] = told[:6], told[6:]
            known = {one.pid for one in new}
            self.tallies += [
                Tally(Withheld.CGROUP_RATE, Detail.WHOLE, one, 1, 1, 1, 2) for one in events if one.pid in known
            ]
            return Drained([], 0, bool(new), new)

    output = Collected()
    enricher = make_enricher(lambda _pid, _start: None, lambda _uid: None, remembered=32)
    rounds = Passing(10, 0.05)
    Agent(Flooded(), enricher, output, 0.0, monotonic_ns=rounds.monotonic_ns).run(rounds)
    names = Counter(one.named and one.named.process.executable_name for one in output.tallied)
    assert names == {"a-longer-name": 60}


@pytest.mark.parametrize(("took_s", "turns"), [(0.0, 100), (0.015, 34), (0.15, 6)])
def test_a_flood_of_processes_costs_the_loop_a_tenth_of_its_time_whatever_is_remembered(
    took_s: float, turns: int
) -> None:
    rounds = Passing(100, 0.05)
    pids = iter(range(1, 1 << 20))

    class Flooded(FakeSource):
        """Tells of more processes in each reading than are remembered; to take tallies takes its time."""

        turns = 0

        def drain(self) -> Drained:
            told = [Told(next(pids), 7, 3, About.EXECUTABLE, ("short",), True, None) for _ in range(20)]
            return Drained([], 0, more=False, told=told if self.attached else [])

        def take_tallies(self) -> list[Tally]:
            self.turns += self.attached
            rounds.now_s += took_s
            return []

    source = Flooded()
    enricher = make_enricher(lambda _pid, _start: None, lambda _uid: None, remembered=16)
    Agent(source, enricher, Collected(), 0.0, monotonic_ns=rounds.monotonic_ns).run(rounds)
    assert source.turns == turns


def test_calls_that_found_no_room_are_probes_that_missed_something() -> None:
    output = run(FakeSource(call_full=4))
    assert output.closed is not None
    assert output.closed.probe_missed == 3 + 4


def test_tallies_are_taken_every_second_and_what_is_stale_every_minute() -> None:
    rounds = Passing(4 * 130, 0.25)

    class Asked(FakeSource):
        """Counts how often it is asked."""

        tallies_taken = stale_taken = 0

        def take_tallies(self) -> list[Tally]:
            self.tallies_taken += 1
            return []

        def take_stale(self, now_monotonic_ns: int) -> list[ConnectEvent]:
            assert now_monotonic_ns == rounds.monotonic_ns()
            self.stale_taken += 1
            return []

    source = Asked()
    enricher = make_enricher(lambda _pid, _start: None, lambda _uid: None)
    Agent(source, enricher, Collected(), 0.0, monotonic_ns=rounds.monotonic_ns).run(rounds)
    assert (source.tallies_taken, source.stale_taken) == (130 + 1, 2)  # and once at the end
