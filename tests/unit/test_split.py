"""Splitting loses no record, doubles none, and keeps each under its own resource and scope."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_connect.config import EncodeConfig
from otel_connect.encode.encoder import Encoder
from otel_connect.export.split import fit, halve
from otel_connect.model import Request, Signal
from tests.support.events import make_attempt
from tests.support.otlp import RESOURCES

KINDS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
# How many records: for each resource, in it for each scope, in it for each metric (else just added up).
Shape = list[list[list[int]]]

SHAPES = st.lists(st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=3), max_size=4)


def logs(shape: Shape) -> Request:
    message = ExportLogsServiceRequest()
    number = 0
    for resource_number, scopes in enumerate(shape):
        resource = message.resource_logs.add(schema_url=f"r{resource_number}")
        for scope_number, lengths in enumerate(scopes):
            scope = resource.scope_logs.add(schema_url=f"s{scope_number}")
            for _ in range(sum(lengths)):
                scope.log_records.add(time_unix_nano=number)
                number += 1
    return Request(Signal.LOGS, message.SerializeToString(), number)


def traces(shape: Shape) -> Request:
    message = ExportTraceServiceRequest()
    number = 0
    for resource_number, scopes in enumerate(shape):
        resource = message.resource_spans.add(schema_url=f"r{resource_number}")
        for scope_number, lengths in enumerate(scopes):
            scope = resource.scope_spans.add(schema_url=f"s{scope_number}")
            for _ in range(sum(lengths)):
                scope.spans.add(start_time_unix_nano=number)
                number += 1
    return Request(Signal.TRACES, message.SerializeToString(), number)


def metrics(shape: Shape) -> Request:
    message = ExportMetricsServiceRequest()
    number = 0
    for resource_number, scopes in enumerate(shape):
        resource = message.resource_metrics.add(schema_url=f"r{resource_number}")
        for scope_number, lengths in enumerate(scopes):
            scope = resource.scope_metrics.add(schema_url=f"s{scope_number}")
            for metric_number, length in enumerate(lengths):
                metric = scope.metrics.add(name=f"m{metric_number}")
                data = getattr(metric, KINDS[(metric_number + scope_number) % len(KINDS)])
                for _ in range(length):
                    data.data_points.add(time_unix_nano=number)
                    number += 1
    return Request(Signal.METRICS, message.SerializeToString(), number)


MAKERS = {Signal.LOGS: logs, Signal.METRICS: metrics, Signal.TRACES: traces}


MESSAGES: dict[Signal, tuple[Any, str, str]] = {
    Signal.LOGS: (ExportLogsServiceRequest, "scope_logs", "log_records"),
    Signal.METRICS: (ExportMetricsServiceRequest, "scope_metrics", "metrics"),
    Signal.TRACES: (ExportTraceServiceRequest, "scope_spans", "spans"),
}


def located(request: Request) -> Iterator[tuple[Any, ...]]:
    """Tell for each record where it lies, and what it is."""
    message, scopes, entries = MESSAGES[request.signal]
    for _, resources in message.FromString(request.body).ListFields():
        for resource in resources:
            for scope in getattr(resource, scopes):
                for entry in getattr(scope, entries):
                    place = (resource.schema_url, scope.schema_url)
                    if request.signal is Signal.METRICS:
                        kind = entry.WhichOneof("data")
                        points = getattr(entry, kind).data_points if kind else []
                        yield from ((*place, entry.name, kind, point.time_unix_nano) for point in points)
                    else:
                        yield (*place, entry.SerializeToString())


@pytest.mark.parametrize("signal", list(Signal))
@settings(deadline=None)
@given(shape=SHAPES)
def test_halves_hold_every_record_once_and_in_order(signal: Signal, shape: Shape) -> None:
    request = MAKERS[signal](shape)
    halves = halve(request)
    if request.records < 2:
        assert halves == ()
        return
    first, second = halves
    assert [*located(first), *located(second)] == list(located(request))
    assert (first.records, second.records) == (len(list(located(first))), len(list(located(second))))
    assert 0 <= second.records - first.records <= 1
    assert first.signal is second.signal is signal


@pytest.mark.parametrize("signal", list(Signal))
@settings(deadline=None)
@given(shape=SHAPES, limit=st.integers(0, 200))
def test_fitting_goes_down_to_single_records(signal: Signal, shape: Shape, limit: int) -> None:
    request = MAKERS[signal](shape)
    parts = list(fit(request, limit))
    assert [one for part in parts for one in located(part)] == list(located(request))
    assert sum(part.records for part in parts) == request.records
    assert all(len(part.body) <= limit or part.records <= 1 for part in parts)


def test_what_fits_is_not_touched() -> None:
    request = logs([[[3]]])
    assert list(fit(request, len(request.body))) == [request]


@pytest.mark.parametrize("signal", list(Signal))
def test_no_empty_shell_is_left(signal: Signal) -> None:
    first, second = halve(MAKERS[signal]([[[2], [1]], [], [[3]]]))
    assert [place[0] for place in located(first)] == ["r0"] * 3
    message, _, _ = MESSAGES[signal]
    for half in (first, second):
        assert len(message.FromString(half.body).ListFields()[0][1]) == 1


def test_what_cannot_be_read_cannot_be_halved() -> None:
    assert halve(Request(Signal.LOGS, b"\xff\xff", 2)) == ()


@pytest.mark.parametrize("signal", [Signal.LOGS, Signal.TRACES])
def test_halves_of_several_workloads_keep_each_record_with_its_own(signal: Signal) -> None:
    batch = [make_attempt(service_name=name, event_id=str(number)) for number, name in enumerate("abcabcab")]
    (request,) = (one for one in Encoder(EncodeConfig(), RESOURCES).encode(batch).requests if one.signal is signal)
    parts = list(fit(request, 1))
    assert len(parts) == 8
    found = [
        (
            str(resource.resource.attributes[0].value.string_value),
            next(one.value.string_value for one in entry.attributes if one.key == "otel_connect.event.id"),
        )
        for part in parts
        for _, resources in MESSAGES[signal][0].FromString(part.body).ListFields()
        for resource in resources
        for scope in getattr(resource, MESSAGES[signal][1])
        for entry in getattr(scope, MESSAGES[signal][2])
    ]
    assert sorted(found, key=lambda pair: pair[1]) == [(name, str(number)) for number, name in enumerate("abcabcab")]
