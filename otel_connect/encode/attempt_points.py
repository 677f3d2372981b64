"""The two metrics of attempts, counter and histogram, as OTLP with the resource of their workload. Pure.

There may be thousands of series, and nothing else is done while they are collected. So each data point is joined
from bytes (see ``wire``), its attributes encoded once in the life of its series.
"""

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otel_connect.encode.cardinality import Moment, Series
from otel_connect.encode.resource import WorkloadResources
from otel_connect.encode.wire import export_request, message, text, varint
from otel_connect.model import Workload

ATTEMPTS = "otel_connect.attempts"
ATTEMPT_DURATION = "otel_connect.attempt.duration"

# Tags of ScopeMetrics, Metric and its data (opentelemetry/proto/metrics/v1/metrics.proto).
_METRICS = b"\x12"
_NAME, _DESCRIPTION, _UNIT = b"\x0a", b"\x12", b"\x1a"
_SUM, _HISTOGRAM, _EXPONENTIAL_HISTOGRAM = b"\x3a", b"\x4a", b"\x52"
_DATA_POINTS, _TEMPORALITY, _IS_MONOTONIC = b"\x0a", b"\x10", b"\x18\x01"
# Of data points; the attributes have another number in each kind.
_SUM_ATTRIBUTES, _HISTOGRAM_ATTRIBUTES, _EXPONENTIAL_ATTRIBUTES = b"\x3a", b"\x4a", b"\x0a"
_times = Struct("<cQcQ").pack
_START, _TIME = b"\x11", b"\x19"
_count = Struct("<cq").pack
_AS_INT = b"\x31"

_ENOUGH_BYTES = 1 << 20
_SLACK_NS = 1_000_000_000  # that two readings of the clocks may be apart


class AttemptPoints:
    """Makes data points of series: sums since the series began or, with ``delta``, since the last time."""

    def __init__(self, resources: WorkloadResources, *, delta: bool, exponential: bool) -> None:
        self._resources = resources
        self._histogram = _EXPONENTIAL_HISTOGRAM if exponential else _HISTOGRAM
        self._attributes = _EXPONENTIAL_ATTRIBUTES if exponential else _HISTOGRAM_ATTRIBUTES
        temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        if delta:
            temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        self._temporality = _TEMPORALITY + varint(temporality)

    def encode(self, workloads: Mapping[Workload, Sequence[Series]], now: Moment) -> Iterator[tuple[bytes, int]]:
        """Give the metrics of all workloads as serialized requests, each with the number of its data points.

        A workload is in one of them whole, and none is much larger than a megabyte: what a request may have at the
        most is a multiple of that.
        """
        bodies: list[bytes] = []
        size = points = 0
        for workload, series in workloads.items():
            body, more = self._of_workload(workload, series, now)
            bodies.append(body)
            size, points = size + len(body), points + more
            if size >= _ENOUGH_BYTES:
                yield b"".join(bodies), points
                bodies.clear()
                size = points = 0
        if bodies:
            yield b"".join(bodies), points

    def _of_workload(self, workload: Workload, series: Sequence[Series], now: Moment) -> tuple[bytes, int]:
        times = [_times(_START, started(one, now), _TIME, now.unix_ns) for one in series]
        counts = [_sum_point(one, its) for one, its in zip(series, times, strict=True)]
        durations = [
            self._histogram_point(one.durations.encoded(), one, its)
            for one, its in zip(series, times, strict=True)
            if one.durations is not None
        ]
        group = self._resources.encoded(workload), self._metrics(counts, durations)
        return export_request([group], _METRICS), len(counts) + len(durations)

    def _metrics(self, counts: Sequence[bytes], durations: Sequence[bytes]) -> list[bytes]:
        """Make both metrics of a workload; the histogram is left out when no attempt had an end."""
        metrics = [_ATTEMPTS + message(_SUM, _listed(counts) + self._temporality + _IS_MONOTONIC)]
        if durations:
            metrics.append(_ATTEMPT_DURATION + message(self._histogram, _listed(durations) + self._temporality))
        return metrics

    def _histogram_point(self, counted: bytes, series: Series, times: bytes) -> bytes:
        return b"".join((times, counted, self._attributes, self._attributes.join(series.fragments)))


def started(series: Series, now: Moment) -> int:
    """Return when a series began, by the wall clock as it is now.

    The same every time, as cumulative points need it, unless the clock was set in between.
    """
    began = series.began
    by_age = now.unix_ns - (now.monotonic_ns - began.monotonic_ns)
    if abs(by_age - began.unix_ns) > _SLACK_NS:
        began = series.began = Moment(by_age, began.monotonic_ns)
    return min(began.unix_ns, now.unix_ns)


def _sum_point(series: Series, times: bytes) -> bytes:
    return b"".join((times, _count(_AS_INT, series.count), _SUM_ATTRIBUTES, _SUM_ATTRIBUTES.join(series.fragments)))


def _listed(points: Sequence[bytes]) -> bytes:
    return b"".join([message(_DATA_POINTS, point) for point in points])


_ATTEMPTS = text(_NAME, ATTEMPTS) + text(_DESCRIPTION, "TCP connect attempts that ended.") + text(_UNIT, "{attempt}")
_ATTEMPT_DURATION = (
    text(_NAME, ATTEMPT_DURATION)
    + text(_DESCRIPTION, "Time from the start of a TCP connect attempt to its end.")
    + text(_UNIT, "s")
)
