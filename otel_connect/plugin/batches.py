"""A batch of the SDK in, one serialized request out, by the SDK's own encoders; never raises.

What cannot be encoded costs nobody else: the batch is then tried record by record, and those that fail are
left out and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.trace import ReadableSpan

from otel_connect.model import Request, Signal
from otel_connect.plugin.encodable import encodable_logs, encodable_metrics, encodable_spans

_T = TypeVar("_T")


class Encoded(NamedTuple):
    """What became of a batch."""

    request: Request
    """The records that could be encoded; there may be none."""
    left_out: int
    """Records (of metrics: data points) that could not."""
    complaint: str = ""
    """What was wrong with the first of them; never its content."""


def encode_log_batch(batch: Sequence[ReadableLogRecord]) -> Encoded:
    """Encode log records."""
    return _encode(Signal.LOGS, batch, lambda records: encode_logs(encodable_logs(records)).SerializeToString())


def encode_span_batch(batch: Sequence[ReadableSpan]) -> Encoded:
    """Encode spans."""
    return _encode(Signal.TRACES, batch, lambda spans: encode_spans(encodable_spans(spans)).SerializeToString())


def encode_metric_batch(data: MetricsData) -> Encoded:
    """Encode everything that a reader has collected."""
    points = list(_points(data))
    try:
        body = encode_metrics(encodable_metrics(data)).SerializeToString()
    except Exception:  # noqa: BLE001 - whatever it was, it is found again below
        return _encode(Signal.METRICS, points, _serialize_points)
    return Encoded(Request(Signal.METRICS, body, len(points)), 0)


def _encode(signal: Signal, batch: Sequence[_T], serialize: Callable[[Sequence[_T]], bytes]) -> Encoded:
    try:
        return Encoded(Request(signal, serialize(batch), len(batch)), 0)
    except Exception:  # noqa: BLE001 - whatever it was, it is found again below
        complaints = [_complaint(serialize, record) for record in batch]
    good = [record for record, complaint in zip(batch, complaints, strict=True) if not complaint]
    first = next(filter(None, complaints), "")
    return Encoded(Request(signal, serialize(good), len(good)), len(batch) - len(good), first)


def _complaint(serialize: Callable[[Sequence[_T]], bytes], record: _T) -> str:
    try:
        serialize([record])
    except Exception as error:  # noqa: BLE001 - a value of the application, of any kind
        return type(getattr(error, "original_exception", error)).__name__
    return ""


class _Point(NamedTuple):
    """One data point, with all it lies in."""

    resource: ResourceMetrics
    scope: ScopeMetrics
    metric: Any
    point: Any


def _points(data: MetricsData) -> Iterator[_Point]:
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    yield _Point(resource, scope, metric, point)


def _serialize_points(points: Sequence[_Point]) -> bytes:
    """Serialize some of the data points, each below its own resource, scope and metric.

    A request is what its parts are, one after the other: the fields of protobuf repeat.
    """
    parts = []
    for of_resource, of_scope, metric, point in points:
        lone = replace(metric, data=replace(metric.data, data_points=[point]))
        scope = replace(of_scope, metrics=[lone])
        data = MetricsData([replace(of_resource, scope_metrics=[scope])])
        parts.append(encode_metrics(encodable_metrics(data)).SerializeToString())
    return b"".join(parts)
