"""Very many attempts, peers and programs at once: memory and series are bounded, and every total is exact."""

import gc
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from otel_connect.capture.outcome import decide
from otel_connect.config import Configuration
from otel_connect.figures import NO_FIGURES, AgentState
from otel_connect.model import Attempt, Balance, Request, Signal
from otel_connect.outputs import Telemetry
from tests.bench.recorded import Discard, fake_enricher
from tests.support.events import make_event
from tests.support.otlp import AGENT
from tests.support.soak import LongRun, by_length

ATTEMPTS = by_length(full=1_000_000, short=64_000)
PROCESSES = by_length(full=10_000, short=2_500)
PEERS = 100_000
FIRST_PEER = IPv4Address("10.0.0.0")
BATCH = 1000
COLLECTIONS = 8

pytestmark = pytest.mark.timeout(by_length(full=1200, short=300))


class Sampled(Discard):
    """Keeps the last metrics, and a few of the other requests."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[bytes] = []
        self.logs: list[bytes] = []
        self._taken = 0

    def put(self, request: Request) -> None:
        super().put(request)
        if request.signal is Signal.METRICS:
            self.metrics.append(request.body)
        elif request.signal is Signal.LOGS:
            self._taken += 1
            if self._taken % (ATTEMPTS // BATCH // 10) == 0:
                self.logs.append(request.body)


def batches() -> Iterator[Sequence[Attempt]]:
    """Make attempts of each process in turn, each to another peer than its last."""
    enricher = fake_enricher()
    for start in range(0, ATTEMPTS, BATCH):
        events = [
            make_event(
                sequence=number,
                pid=number % PROCESSES,
                peer_address=str(FIRST_PEER + number * 7919 % PEERS),
            )
            for number in range(start, start + BATCH)
        ]
        yield [
            Attempt(event, decide(event), False, enricher.name(event), event.start_unix_ns, str(event.sequence))
            for event in events
        ]


def state(seen: int) -> AgentState:
    return NO_FIGURES.state._replace(balance=Balance(seen, seen, 0, 0, {}, 0))


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def text_attributes(message: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in message.attributes}


def points(of_resource: ResourceMetrics, name: str) -> list[Any]:
    for metric in of_resource.scope_metrics[0].metrics:
        if metric.name == name:
            return list(metric.sum.data_points or metric.histogram.data_points)
    return []


def records_below_their_program(sink: Sampled) -> int:
    """Count the records of the requests that were kept; each must be of the service of its program."""
    found = 0
    for body in sink.logs:
        for of_resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            service = text_attributes(of_resource.resource)["service.name"]
            for record in of_resource.scope_logs[0].log_records:
                assert service == f"unknown_service:{text_attributes(record)['process.executable.name']}"
                found += 1
    return found


def test_neither_memory_nor_series_grow_without_end_and_totals_are_exact(long_run: LongRun) -> None:
    sink, now = Sampled(), [0.0]
    output = Telemetry(Configuration(), AGENT, sink, lambda: now[0])
    before, memory, seen = blocks(), [], 0
    for batch in batches():
        output.write(batch)
        seen += len(batch)
        now[0] += 0.3
        if seen % (ATTEMPTS // COLLECTIONS) == 0:
            now[0] += 60
        output.tick(lambda: state(seen))  # noqa: B023 - called at once
        if seen in {ATTEMPTS // 2, ATTEMPTS}:
            memory.append(blocks() - before)
    sink.metrics.clear()
    output.close(state(seen))
    assert max(map(len, sink.metrics)) <= 2 << 20
    agent, *of_workloads = ExportMetricsServiceRequest.FromString(b"".join(sink.metrics)).resource_metrics
    names = [text_attributes(each.resource)["service.name"] for each in of_workloads]
    sets = {name: points(each, "otel_connect.attempts") for name, each in zip(names, of_workloads, strict=True)}
    total = sum(point.as_int for each in sets.values() for point in each)
    long_run(
        f"{ATTEMPTS} attempts of {PROCESSES} processes to {PEERS} peers, without a kernel",
        f"{total} counted in {sum(map(len, sets.values()))} sets of {len(sets)} workloads; "
        f"memory at the end {memory[1] / memory[0]:.2f} times that at half",
    )
    assert len(sets) == len(names) <= 1001
    assert "_other" in sets
    assert 8000 <= sum(map(len, sets.values())) <= 10_000
    assert max(map(len, sets.values())) <= 1000
    assert total == ATTEMPTS
    assert sum(point.count for each in of_workloads for point in points(each, "otel_connect.attempt.duration")) == total
    folded = sum(
        point.as_int for each in sets.values() for point in each if text_attributes(point)["server.address"] == "_other"
    )
    (overflowed,) = points(agent, "otel_connect.agent.metrics.overflowed")
    assert 0 < overflowed.as_int == folded < ATTEMPTS
    assert sink.accounts()[Signal.LOGS].exported == ATTEMPTS
    assert all(account.difference == 0 for account in output.outlet(state(seen)).accounts.values())
    assert records_below_their_program(sink) == 10 * BATCH
    assert memory[1] <= memory[0] * 1.1
