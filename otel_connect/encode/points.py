"""What the SDK's metrics lack: a histogram that was counted elsewhere, and start times that survive a set clock."""

from collections.abc import Mapping

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
)

from otel_connect.figures import Distribution, SelfMetric

_SLACK_NS = 1_000_000_000  # an instrument may be a moment older than what is taken for the start


class CountedHistogram:
    """Makes OTLP of distributions that only grow, as sums since the start or, with ``delta``, since the last time."""

    def __init__(self, start_unix_ns: int, *, delta: bool) -> None:
        self._start_unix_ns = start_unix_ns
        self._delta = delta
        self._before: dict[tuple[tuple[str, str], ...], Distribution] = {}

    def metric(self, source: SelfMetric, now_unix_ns: int) -> Metric:
        """Make one metric of the distributions of the source; points without a value are left out."""
        metric = Metric(name=source.name, unit=source.unit, description=source.description)
        metric.histogram.aggregation_temporality = (
            AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
            if self._delta
            else AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        )
        for value, attributes in source.points:
            if isinstance(value, Distribution) and (counted := self._since(value, attributes)):
                metric.histogram.data_points.append(_point(counted, attributes, self._start_unix_ns, now_unix_ns))
        if self._delta:
            self._start_unix_ns = now_unix_ns
        return metric

    def _since(self, value: Distribution, attributes: Mapping[str, str]) -> Distribution | None:
        if self._delta:
            key = tuple(sorted(attributes.items()))
            before, self._before[key] = self._before.get(key), value
            if before is not None:
                counts = tuple(now - then for now, then in zip(value.counts, before.counts, strict=True))
                value = value._replace(counts=counts, sum=value.sum - before.sum)
        return value if any(value.counts) else None


def mend_starts(request: ExportMetricsServiceRequest, *, cumulative_ns: int, delta_ns: int) -> None:
    """Set the starts of points to what they can be: not before ``…_ns`` (Unix time), nor after the point's own time.

    The first is for sums since the beginning, the second for those since the last time. The SDK notes starts by
    the wall clock; where that was set meanwhile, they are of another time, and may come after the end.
    """
    for of_resource in request.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                data = getattr(metric, str(metric.WhichOneof("data")))
                temporality = getattr(data, "aggregation_temporality", None)
                earliest = (
                    delta_ns if temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA else cumulative_ns
                )
                for point in data.data_points if temporality else ():
                    if not earliest - _SLACK_NS <= point.start_time_unix_nano <= point.time_unix_nano:
                        point.start_time_unix_nano = min(earliest, point.time_unix_nano)


def _point(
    value: Distribution, attributes: Mapping[str, str], start_unix_ns: int, now_unix_ns: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=[KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in attributes.items()],
        start_time_unix_nano=start_unix_ns,
        time_unix_nano=now_unix_ns,
        count=sum(value.counts),
        sum=value.sum,
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
    )
