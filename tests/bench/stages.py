"""Where the time of a record goes: every stage of the pipeline taken alone.

As in the agent of the bench, the metrics begin empty, a good part of the attempts are the first of their series, and
all series are collected once at the end. A host makes few new series, and collects once a minute.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from opentelemetry.sdk.resources import Resource

from otel_connect.capture.layout import decode_event, ring_records
from otel_connect.capture.outcome import decide
from otel_connect.config import EncodeConfig
from otel_connect.encode.logs import encode_logs
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.resource import WorkloadResources
from otel_connect.encode.spans import SpanSelection, encode_spans
from otel_connect.encode.wire import fragments
from otel_connect.enrich.superseded import Races
from otel_connect.figures import NO_FIGURES
from otel_connect.model import Attempt, ConnectEvent
from tests.bench.recorded import CLOCK, fake_enricher
from tests.bench.records import READING


def time_of_stages(rings: Sequence[bytes], resource: Resource) -> Mapping[str, float]:
    """Return the CPU time of a record in µs, by stage, in their order."""
    laps = _Laps()
    capture, encode = _Capture(laps), _Encode(laps, resource)
    for ring in rings:
        encode.run(capture.run(ring))
    encode.collect()
    return {name: spent / (len(rings) * READING) / 1000 for name, spent in laps.spent.items()}


class _Laps:
    """A stopwatch of this thread's CPU time, by name; ns."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._last = 0

    def begin(self) -> None:
        self._last = time.thread_time_ns()

    def end(self, name: str) -> None:
        self.spent[name] += time.thread_time_ns() - self._last
        self.begin()


class _Capture:
    """From bytes to attempts."""

    def __init__(self, laps: _Laps) -> None:
        self._laps = laps
        self._enricher, self._races = fake_enricher(), Races()

    def run(self, ring: bytes) -> list[Attempt]:
        laps = self._laps
        laps.begin()
        records = ring_records(ring, -1, 0, len(ring), len(ring)).records
        laps.end("find the records in the ring")
        events = [decode_event(record, CLOCK) for record in records]
        laps.end("decode")
        verdicts = [decide(event) for event in events]
        laps.end("decide")
        names = [self._enricher.name(event) for event in events]
        laps.end("name the process")
        ids = map(_event_id, events)
        times = [time.time_ns()] * len(events)
        attempts = list(map(Attempt, events, verdicts, [False] * len(events), names, times, ids))
        laps.end("put together")
        attempts = self._races.judge(attempts, time.monotonic_ns())
        laps.end("find what was superseded")
        return attempts


class _Encode:
    """From attempts to serialized requests."""

    def __init__(self, laps: _Laps, resource: Resource) -> None:
        self._laps = laps
        self._config = EncodeConfig()
        self._resources = WorkloadResources(resource)
        self._selection = SpanSelection(self._config)
        self._metrics = AttemptMetrics(self._resources, figures=lambda: NO_FIGURES)

    def run(self, attempts: list[Attempt]) -> None:
        laps = self._laps
        laps.begin()
        contexts, _ = self._selection.select(attempts)
        laps.end("choose spans")
        self._metrics.record(attempts, contexts)
        laps.end("count in the metrics")
        attributes = [fragments(attempt) for attempt in attempts]
        laps.end("encode attributes")
        encode_logs(attempts, attributes, contexts, self._resources)
        laps.end("encode log records")
        encode_spans(attempts, attributes, contexts, self._resources, self._config)
        laps.end("encode spans")

    def collect(self) -> None:
        self._laps.begin()
        self._metrics.collect()
        self._laps.end("collect the metrics")


def _event_id(event: ConnectEvent) -> str:
    return f"0123456789ab-{event.cpu}-{event.sequence}"
