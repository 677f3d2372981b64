"""Floods: the kernel program keeps records for those who do not flood, and counts every attempt of those who do."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from otel_connect.agent import Agent
from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.outcome import decide
from otel_connect.config import CaptureConfig
from otel_connect.encode.cardinality import metric_key
from otel_connect.enrich.procfs import executable, user_name
from otel_connect.model import (
    Attempt,
    Balance,
    ConnectEvent,
    Detail,
    KernelCounters,
    Outcome,
    Tallied,
    Tally,
    ThrottleEvent,
    Withheld,
)
from tests.support.enriching import make_enricher
from tests.support.flood import Flood, Floods, other_cgroup
from tests.support.network import closed_port
from tests.support.soak import LongRun, by_length

pytestmark = [pytest.mark.captures, pytest.mark.alone]

NOBODY = 0  # no process has this pid: nothing is left out
FLOOD_S = by_length(full=60, short=4)
BURST_S = by_length(full=10, short=2)
NEIGHBOUR_RATE = 10
FORKS = f"forks-{os.getpid()}-by-a-name-that-is-no-comm"
"""The kernel keeps fifteen bytes of it: the whole name is in what it tells of each process."""


@pytest.fixture(scope="module")
def floods() -> Iterator[Floods]:
    with Floods() as made:
        yield made


class Collected:
    """An output that keeps what the agent hands on, by process or by program."""

    def __init__(self) -> None:
        self.recorded: Counter[tuple[int, Outcome]] = Counter()
        self.tallied: Counter[tuple[int, Outcome]] = Counter()
        self.programs: Counter[tuple[str, Outcome]] = Counter()
        self.throttles: list[ThrottleEvent] = []

    @property
    def pending(self) -> int:
        """How many attempts were still going on at the end: somebody's on this host may be."""
        return sum(number for (_, outcome), number in self.recorded.items() if outcome is Outcome.PENDING)

    def write(self, attempts: Sequence[Attempt]) -> int:
        self.recorded.update((attempt.event.pid, attempt.verdict.outcome) for attempt in attempts)
        self.programs.update((attempt.process.executable_name, attempt.verdict.outcome) for attempt in attempts)
        return 0

    def count(self, tallied: Sequence[Tallied]) -> None:
        for alike in tallied:
            self.tallied[alike.event.pid, alike.verdict.outcome] += alike.attempts
            self.programs[metric_key(alike).executable_name, alike.verdict.outcome] += alike.attempts

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        self.throttles += events

    def tick(self, state: object) -> None:
        """Nothing waits here."""

    def close(self, state: object) -> None:
        """Nothing waits here."""


class While:
    """Stops the agent when something is not so any more, or when the time is up; looks each time round."""

    def __init__(self, true: object, seconds: float) -> None:
        self._true = true
        self._until = time.monotonic() + seconds

    def wait(self, timeout: float) -> bool:
        time.sleep(timeout)
        return not (callable(self._true) and self._true()) or time.monotonic() > self._until


def run_agent(capture: KernelCapture, output: Collected, stop: While) -> Balance:
    enricher = make_enricher(executable, lambda owner: user_name(owner.uid))
    return Agent(capture, enricher, output, 0.05).run(stop)


def of(pid: int, counts: Counter[tuple[int, Outcome]]) -> Mapping[Outcome, int]:
    return {outcome: number for (whose, outcome), number in counts.items() if whose == pid}


def assert_balanced(counters: KernelCounters, tallied: int, in_progress: int = 0) -> None:
    withheld = counters.ring_full + counters.throttled
    assert counters.seen == counters.emitted + withheld + counters.pending_full + in_progress
    assert withheld == tallied + counters.untallied


def drained_events(capture: KernelCapture) -> Iterator[ConnectEvent]:
    more = True
    while more:
        taken = capture.drain()
        assert taken.undecodable == 0
        yield from taken.events
        more = taken.more


def drained(capture: KernelCapture) -> Counter[tuple[int, Outcome]]:
    return Counter((event.pid, decide(event).outcome) for event in drained_events(capture))


def by_process(tallies: Sequence[Tally]) -> Counter[tuple[int, Outcome]]:
    counts: Counter[tuple[int, Outcome]] = Counter()
    for tally in tallies:
        counts[tally.event.pid, decide(tally.event).outcome] += tally.attempts
    return counts


def settle(capture: KernelCapture) -> tuple[list[Tally], KernelCounters]:
    """Stop capturing; return what is tallied, and counters that do not change any more and add up."""
    capture.detach()
    tallies = capture.take_tallies()
    return tallies, capture.counters()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same cgroup", "another cgroup"])
def test_a_quiet_neighbour_keeps_every_record_while_another_floods(
    floods: Floods, elsewhere: bool, long_run: LongRun
) -> None:
    output = Collected()
    config = CaptureConfig(cgroup_rate=4000, cgroup_burst=4000)  # so that the flood's cgroup is out of tokens, too
    with other_cgroup() as cgroup, KernelCapture(config, NOBODY) as capture:
        place = cgroup if elsewhere else None
        count = FLOOD_S * NEIGHBOUR_RATE
        with floods.start("refused", count, name="neighbour", rate=NEIGHBOUR_RATE, cgroup=place) as neighbour:
            flood = floods.start("mixed")
            balance = run_agent(capture, output, While(lambda: neighbour.running, FLOOD_S * 10))
            flood.process.terminate()
            kept, made = neighbour.report(), flood.report()
        counters = capture.counters()
    recorded = of(neighbour.pid, output.recorded)
    long_run(
        f"one process floods for {FLOOD_S} s ({sum(made.values()) / FLOOD_S:,.0f} attempts/s),"
        f" a neighbour makes {NEIGHBOUR_RATE}/s",
        f"{sum(recorded.values())} of {count} records of the neighbour, {balance.difference} unaccounted for",
    )
    assert kept == {Outcome.REFUSED: count}
    assert recorded == kept
    assert of(neighbour.pid, output.tallied) == {}
    # What the flood did between the agent's end and its own is nobody's business.
    assert sum(made.values()) >= sum((output.recorded + output.tallied)[flood.pid, o] for o in made)
    assert sum(of(flood.pid, output.tallied).values()) > 0
    assert balance.difference == 0
    assert counters.untallied == 0
    assert {event.pid for event in output.throttles if event.limit is Withheld.PROCESS_RATE} >= {flood.pid}
    assert Counter(event.started for event in output.throttles) == {
        True: len(output.throttles) / 2,
        False: len(output.throttles) / 2,
    }


def test_what_a_flood_is_told_is_what_is_counted(floods: Floods) -> None:
    """To the unit, by outcome and by program, in records and in tallies."""
    output = Collected()
    config = CaptureConfig(process_rate=500, process_burst=100)
    with KernelCapture(config, NOBODY) as capture:
        flood = floods.start("mixed", 60_000, name="mixed-flood")
        balance = run_agent(capture, output, While(lambda: flood.running, 60))
        made = flood.report()
        counters = capture.counters()
    assert sum(made.values()) == 60_000
    recorded, tallied = of(flood.pid, output.recorded), of(flood.pid, output.tallied)
    assert {o: recorded.get(o, 0) + tallied.get(o, 0) for o in made} == made
    assert sum(tallied.values()) > sum(recorded.values())
    assert {o: output.programs["mixed-flood", o] for o in made} == made
    assert balance.difference == 0
    assert balance.lost["kernel_throttled"] == counters.throttled
    assert_balanced(counters, output.tallied.total(), output.pending)


@pytest.mark.parametrize("limited", [True, False])
def test_the_most_this_machine_can_make_is_counted_while_nobody_reads(
    floods: Floods, limited: bool, long_run: LongRun
) -> None:
    limits: dict[str, Any] = {} if limited else {"process_rate": 0, "cgroup_rate": 0}
    with KernelCapture(CaptureConfig(ring_bytes=1 << 20, **limits), NOBODY) as capture:
        running = [floods.start(mode) for mode in ("accepted", "refused", "scattered")]
        time.sleep(BURST_S)  # how long it goes on, not what is waited for
        for flood in running:
            flood.process.terminate()
        made = {flood.pid: flood.report() for flood in running}
        tallies, counters = settle(capture)
        in_progress = capture.in_progress()
        recorded = drained(capture)
    counted = recorded + by_process(tallies)
    coarse = sum(tally.attempts for tally in tallies if tally.detail is Detail.WITHOUT_PROCESS)
    total = sum(sum(report.values()) for report in made.values())
    long_run(
        f"as many attempts as there can be for {BURST_S} s ({total / BURST_S:,.0f}/s),"
        f" {'with' if limited else 'without'} limits, and nobody reads the ring",
        f"{sum(sum(of(pid, counted).values()) for pid in made)} of {total} counted by outcome",
    )
    assert coarse == 0
    assert {pid: of(pid, counted) for pid in made} == made
    assert_balanced(counters, sum(tally.attempts for tally in tallies), in_progress)
    assert counters.untallied == 0
    why = Counter(tally.withheld for tally in tallies)
    if limited:
        assert why[Withheld.RING_PRESSURE]
    else:
        assert why.keys() == {Withheld.RING_FULL}
        assert counters.throttled == 0


def test_a_fork_flood_counts_against_its_cgroup_and_an_old_neighbour_keeps_its_records(floods: Floods) -> None:
    output = Collected()
    config = CaptureConfig(process_rate=100, process_burst=100, cgroup_rate=10, cgroup_burst=10)
    with KernelCapture(config, NOBODY) as capture:
        with floods.start("refused", 20, name="neighbour", rate=NEIGHBOUR_RATE) as neighbour:
            forks = floods.start("forks", name=FORKS)

            def still_running() -> bool:
                if not neighbour.running:
                    forks.process.terminate()
                return forks.running

            balance = run_agent(capture, output, While(still_running, 60))
            kept, made = neighbour.report(), forks.report()
        counters = capture.counters()
    assert of(neighbour.pid, output.recorded) == kept == {Outcome.REFUSED: 20}
    # What the kernel tells of a process finds no room in a full ring: then its own name for it remains.
    names = (FORKS, FORKS[:15])
    assert sum(output.programs[name, Outcome.REFUSED] for name in names) == made[Outcome.REFUSED] > 1000
    assert output.programs[FORKS, Outcome.REFUSED] > 0
    assert balance.difference == 0
    assert_balanced(counters, output.tallied.total(), output.pending)
    # One limit of one cgroup is one throttle, however many processes there are.
    of_cgroups = [event for event in output.throttles if event.limit is Withheld.CGROUP_RATE and event.started]
    assert len(of_cgroups) == len({event.cgroup_id for event in of_cgroups}) >= 1


def test_more_forks_than_a_turn_holds_keep_the_name_of_their_program(floods: Floods) -> None:
    config = CaptureConfig(process_rate=1, process_burst=4, cgroup_rate=1, cgroup_burst=4)
    with KernelCapture(config, NOBODY) as capture:
        made = floods.start("forks", 8500, name=FORKS).report()
        tallies, counters = settle(capture)
        in_progress = capture.in_progress()
        recorded = sum(event.comm == FORKS[:15] for event in drained_events(capture))
    of_forks = Counter[Detail]()
    for tally in tallies:
        if tally.event.comm == FORKS[:15]:
            of_forks[tally.detail] += tally.attempts
    assert of_forks.keys() == set(Detail)
    assert of_forks.total() + recorded == made[Outcome.REFUSED] == 8500 * 3
    assert {tally.event.pid for tally in tallies if tally.detail is Detail.WITHOUT_PROCESS} == {0}
    assert_balanced(counters, sum(tally.attempts for tally in tallies), in_progress)


def test_processes_that_flood_together_have_no_more_than_their_cgroup(floods: Floods) -> None:
    config = CaptureConfig(process_rate=500, process_burst=500, cgroup_rate=100, cgroup_burst=100)
    with KernelCapture(config, NOBODY) as capture:
        running = [floods.start("refused", 20_000) for _ in range(3)]
        for flood in running:
            flood.report()
        tallies, _ = settle(capture)
        ended = []
        while taken := capture.drain().events:
            ended += [event.start_unix_ns + (event.duration_ns or 0) for event in taken if event.pid in pids(running)]
    why = Counter(tally.withheld for tally in tallies if tally.event.pid in pids(running))
    assert why[Withheld.CGROUP_RATE] > 0
    seconds = (max(ended) - min(ended)) / 1e9
    # Two CPUs may take the same token for two attempts, hence a little more.
    assert len(ended) <= (100 + 100 * seconds) * 1.1 + 2


def test_many_who_keep_to_their_rates_leave_room_for_a_neighbour_when_nobody_reads(floods: Floods) -> None:
    with KernelCapture(CaptureConfig(ring_bytes=2 << 20), NOBODY) as capture:
        busy = [floods.start("refused", 6000, name="busy", rate=3000) for _ in range(3)]
        neighbour = floods.start("refused", 30, name="neighbour", rate=NEIGHBOUR_RATE)
        made = {flood.pid: flood.report() for flood in busy}
        kept = neighbour.report()
        tallies, counters = settle(capture)
        recorded = drained(capture)
    assert of(neighbour.pid, recorded) == kept == {Outcome.REFUSED: 30}
    counted = recorded + by_process(tallies)
    assert {pid: of(pid, counted) for pid in made} == made
    assert counters.ring_full == 0
    assert {tally.withheld for tally in tallies if tally.event.pid in made} == {Withheld.RING_PRESSURE}


def pids(running: Sequence[Flood]) -> set[int]:
    return {flood.pid for flood in running}


def test_more_tallies_than_a_turn_holds_lose_detail_but_no_attempt(floods: Floods) -> None:
    config = CaptureConfig(process_rate=1, process_burst=4, cgroup_rate=1, cgroup_burst=4)
    with KernelCapture(config, NOBODY) as capture:
        with floods.start("scattered", 20_000) as scattered, floods.start("forks", 2500) as forks:
            assert scattered.report() == {Outcome.REFUSED: 20_000}
            assert forks.report() == {Outcome.REFUSED: 7500}
        tallies, counters = settle(capture)
        in_progress = capture.in_progress()
        recorded = drained(capture)
    detail: Counter[Detail] = Counter()
    for tally in tallies:
        detail[tally.detail] += tally.attempts
    assert all(detail[level] for level in Detail)
    whole = [tally for tally in tallies if tally.detail is Detail.WHOLE and tally.event.pid == scattered.pid]
    assert len({tally.event.peer_address for tally in whole}) == len(whole) > 1000
    assert (recorded + by_process(tallies))[scattered.pid, Outcome.REFUSED] <= 20_000
    coarse = [tally for tally in tallies if tally.detail is Detail.WITHOUT_PROCESS]
    assert {decide(tally.event).outcome for tally in coarse} >= {Outcome.REFUSED}
    assert_balanced(counters, sum(tally.attempts for tally in tallies), in_progress)
    assert counters.untallied == 0


def test_a_turn_that_was_taken_makes_room_again(floods: Floods) -> None:
    config = CaptureConfig(process_rate=1, process_burst=4)
    with KernelCapture(config, NOBODY) as capture:
        taken = []
        for _ in range(3):
            with floods.start("scattered", 5000) as flood:
                flood.report()
            taken.append([tally for tally in capture.take_tallies() if tally.event.pid == flood.pid])
        assert all(len(tallies) > 4000 for tallies in taken)
        assert {tally.detail for tallies in taken for tally in tallies} == {Detail.WHOLE}


def test_tallied_durations_add_up_and_lie_within_the_turn() -> None:
    config = CaptureConfig(process_rate=1, process_burst=4)
    with KernelCapture(config, NOBODY) as capture, closed_port() as port:
        before = time.time_ns()
        spans = refuse(port, 3000)
        after = time.time_ns()
        tallies = [tally for tally in capture.take_tallies() if tally.event.pid == os.getpid()]
    (tally,) = tallies
    assert tally.event.target == ("127.0.0.1", port)
    assert 2000 < tally.attempts <= 3000
    assert tally.duration_ns is not None
    assert 0 < tally.duration_ns <= sum(end - start for start, end in spans)
    slack = 1_000_000
    assert before - slack <= tally.first_unix_ns <= tally.last_unix_ns <= after + slack


def refuse(port: int, times: int, pauses: Mapping[int, float] | None = None) -> list[tuple[int, int]]:
    """Be refused so many times; return between which times (CLOCK_MONOTONIC, ns) each attempt lies."""
    spans = []
    for number in range(times):
        if pauses and number in pauses:
            time.sleep(pauses[number])
        with socket.socket() as client:
            began = time.monotonic_ns()
            assert client.connect_ex(("127.0.0.1", port)) != 0
            spans.append((began, time.monotonic_ns()))
    return spans


class Bucket:
    """What probes/limits.h does with a bucket: the time up to which its tokens are spent."""

    def __init__(self, rate: int, burst: int) -> None:
        self._cost = 1_000_000_000 // rate
        self._burst = self._cost * burst
        self._spent = 0  # a process that is as old as this one has earned a full one

    def take(self, now: int) -> bool:
        self._spent = max(self._spent, now - self._burst)
        if now - self._spent < self._cost:
            return False
        self._spent += self._cost
        return True


@pytest.mark.parametrize(("rate", "burst"), [(2000, 300), (500, 4), (7000, 1000)])
def test_the_probes_bucket_is_that_of_the_model(rate: int, burst: int) -> None:
    # In so large a ring nobody else's attempts matter, though nobody reads it meanwhile.
    config = CaptureConfig(ring_bytes=64 << 20, process_rate=rate, process_burst=burst, cgroup_rate=0)
    with KernelCapture(config, NOBODY) as capture, closed_port() as port:
        # Pauses let it refill, a little, wholly, and for longer than it can hold.
        spans = refuse(port, 6000, {1500: burst / rate / 3, 3000: burst / rate, 4500: 2 * burst / rate})
        mine = sum(number for (pid, _), number in drained(capture).items() if pid == os.getpid())
        tallies = [tally for tally in capture.take_tallies() if tally.event.pid == os.getpid()]
    assert {tally.withheld for tally in tallies} == {Withheld.PROCESS_RATE}
    model = Bucket(rate, burst)
    expected = sum(model.take(end) for _, end in spans)
    assert mine + sum(tally.attempts for tally in tallies) == 6000
    assert 0 < expected < 6000
    # The probe looked at the clock some time between the two that are known: tokens of that time are in doubt.
    doubt = sum(sorted((end - start for start, end in spans), reverse=True)[:10]) * rate // 1_000_000_000
    assert abs(mine - expected) <= doubt + 2


def test_a_peer_that_is_not_told_apart_keeps_its_network_type() -> None:
    config = CaptureConfig(process_rate=1, process_burst=4)
    with KernelCapture(config, NOBODY) as capture, closed_port() as port:
        for number in range(7000):
            with socket.socket(socket.AF_INET6) as client:
                assert client.connect_ex((f"::ffff:127.1.{number // 250}.{number % 250 + 1}", port)) != 0
        tallies = [tally for tally in capture.take_tallies() if tally.event.pid == os.getpid()]
    assert {tally.detail for tally in tallies} == {Detail.WHOLE, Detail.WITHOUT_PEER}
    assert {tally.event.family for tally in tallies} == {socket.AF_INET}
