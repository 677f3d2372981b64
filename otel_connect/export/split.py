"""Halve a request that is too large, without losing or doubling a record, and without decoding one.

All three signals nest alike: resources, in them scopes, in these the lists of records (for metrics one
list of data points in each metric). Numbering the records in that order, a part is a range of numbers:
what lies outside is deleted, then every shell that has become empty.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_connect.model import Request, Signal


class _Layout(NamedTuple):
    """The names of one signal's lists, from the outside in."""

    request: type[Message]
    resources: str
    scopes: str
    entries: str


_LAYOUTS = {
    Signal.LOGS: _Layout(ExportLogsServiceRequest, "resource_logs", "scope_logs", "log_records"),
    Signal.METRICS: _Layout(ExportMetricsServiceRequest, "resource_metrics", "scope_metrics", "metrics"),
    Signal.TRACES: _Layout(ExportTraceServiceRequest, "resource_spans", "scope_spans", "spans"),
}


def halve(request: Request) -> tuple[Request, ...]:
    """Make two requests of one, record order kept; empty if it has one record or cannot be read."""
    layout = _LAYOUTS[request.signal]
    try:
        total = sum(len(records) for records in _record_lists(layout, layout.request.FromString(request.body)))
    except DecodeError:
        return ()
    if total < 2:
        return ()
    middle = total // 2
    return _part(request, 0, middle), _part(request, middle, total)


def fit(request: Request, limit_bytes: int) -> Iterator[Request]:
    """Halve until every body is within the limit; a single record that is not comes out as it is."""
    halves = halve(request) if len(request.body) > limit_bytes else ()
    if not halves:
        yield request
    for half in halves:
        yield from fit(half, limit_bytes)


def _part(request: Request, start: int, stop: int) -> Request:
    """Keep the records numbered from ``start`` to before ``stop``."""
    layout = _LAYOUTS[request.signal]
    message = layout.request.FromString(request.body)
    position = 0
    for records in _record_lists(layout, message):
        count = len(records)
        del records[max(stop - position, 0) :]
        del records[: max(start - position, 0)]
        position += count
    _prune(layout, message)
    return Request(request.signal, message.SerializeToString(), stop - start)


def _record_lists(layout: _Layout, message: Message) -> Iterator[Any]:
    for resource in getattr(message, layout.resources):
        for scope in getattr(resource, layout.scopes):
            entries = getattr(scope, layout.entries)
            if layout.entries == "metrics":
                yield from _data_points(entries)
            else:
                yield entries


def _data_points(metrics: Iterable[Any]) -> Iterator[Any]:
    for metric in metrics:
        if (kind := metric.WhichOneof("data")) is not None:
            yield getattr(metric, kind).data_points


def _prune(layout: _Layout, message: Message) -> None:
    resources = getattr(message, layout.resources)
    for resource in resources:
        scopes = getattr(resource, layout.scopes)
        if layout.entries == "metrics":
            for scope in scopes:
                _keep(scope.metrics, [any(map(len, _data_points([metric]))) for metric in scope.metrics])
        _keep(scopes, [bool(getattr(scope, layout.entries)) for scope in scopes])
    _keep(resources, [bool(getattr(resource, layout.scopes)) for resource in resources])


def _keep(items: Any, wanted: list[bool]) -> None:
    for index in range(len(wanted) - 1, -1, -1):
        if not wanted[index]:
            del items[index]
