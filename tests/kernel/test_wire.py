"""What records say of the network against a capture of the packets: how long an attempt took, and its SYNs."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from otel_connect.capture.outcome import decide
from otel_connect.model import ConnectEvent, Outcome
from tests.support.bench import Bench, Family, Run
from tests.support.captured import Captured
from tests.support.peer import Answer, Behaviour
from tests.support.wire import Crossing, Wire

PATH_S = 0.02
OFF_NS, OFF_PART = 1_000_000, 0.05
PATIENCE_MS = 10_000

pytestmark = pytest.mark.captures


class Client(NamedTuple):
    """A program that makes attempts one after another."""

    family: Family
    answer: Answer
    timeout_ms: int
    """0: it blocks."""
    attempts: int
    on_syn: int = 1


CLIENTS = [
    Client(family, answer, timeout_ms, 84)
    for family in Family
    for answer in (Answer.ACCEPT, Answer.REFUSE)
    for timeout_ms in (0, PATIENCE_MS)
] + [Client(family, Answer.ACCEPT, PATIENCE_MS, 3, on_syn=2) for family in Family for _ in range(4)]


def run(bench: Bench, client: Client) -> Run:
    target = bench.scripted(client.family, Behaviour(client.answer, PATH_S, client.on_syn))
    return bench.run(target, attempts=client.attempts, timeout_ms=client.timeout_ms)


def off(event: ConnectEvent, crossing: Crossing) -> int:
    """Return by how much the duration is off, ns; 0 if it is as exact as it must be."""
    difference = abs((event.duration_ns or 0) - crossing.duration_ns)
    return difference if difference > max(OFF_NS, crossing.duration_ns * OFF_PART) else 0


def test_durations_and_syns_are_those_of_a_capture(bench: Bench, seen: Captured) -> None:
    with Wire(bench.namespace, "tun0") as wire, ThreadPoolExecutor(len(CLIENTS)) as pool:
        runs = list(pool.map(lambda client: run(bench, client), CLIENTS))
        crossings = wire.crossings()
    made = sum(client.attempts for client in CLIENTS)
    pids = {one.pid for one in runs}
    events = seen.of(lambda event: event.pid in pids, made)
    assert {decide(event).outcome for event in events} == {Outcome.ESTABLISHED, Outcome.REFUSED}
    events.sort(key=lambda event: event.start_unix_ns)  # a port may be used again
    both = [(event, crossings[event.local_port or 0, event.peer_port or 0].pop(0)) for event in events]
    assert len(both) == made >= 1000
    assert sum(event.syn_retransmits for event in events) >= sum(c.attempts for c in CLIENTS if c.on_syn > 1)
    assert [(e, c) for e, c in both if e.syn_retransmits != len(c.syns_ns) - 1] == []
    assert [(off(e, c), e, c) for e, c in both if off(e, c)] == []
