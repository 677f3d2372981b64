"""What cannot be encoded is counted and costs nobody else."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, Status, StatusCode

from otel_connect.model import Signal
from otel_connect.plugin.batches import encode_log_batch, encode_metric_batch, encode_span_batch
from tests.unit.test_plugin_encodable import HUGE, LONE, MENDED, log


def bodies(body: bytes) -> list[str]:
    message = ExportLogsServiceRequest.FromString(body)
    return [
        record.body.string_value
        for of_resource in message.resource_logs
        for of_scope in of_resource.scope_logs
        for record in of_scope.log_records
    ]


def test_a_lone_surrogate_costs_nothing() -> None:
    encoded = encode_log_batch([log("before"), log(LONE), log("after")])
    assert (encoded.request.signal, encoded.request.records, encoded.left_out) == (Signal.LOGS, 3, 0)
    assert bodies(encoded.request.body) == ["before", MENDED, "after"]


@pytest.mark.parametrize("bad", [log(object()), log("late", trace_id=1 << 200), log({"a": {1}})])
def test_what_cannot_be_encoded_is_left_out_and_counted(bad: Any) -> None:
    encoded = encode_log_batch([log("before"), bad, log("after"), bad])
    assert (encoded.request.records, encoded.left_out) == (2, 2)
    assert bodies(encoded.request.body) == ["before", "after"]
    assert encoded.complaint in {"Exception", "OverflowError"}


def test_nothing_in_nothing_out() -> None:
    assert encode_log_batch([]).request.records == 0
    assert encode_log_batch([log(object())])[1:] == (1, "Exception")


def spans(work: Callable[[trace.Tracer], None]) -> list[ReadableSpan]:
    memory = InMemorySpanExporter()
    provider = TracerProvider(
        shutdown_on_exit=False, span_limits=SpanLimits(max_attributes=2, max_events=1, max_links=1)
    )
    provider.add_span_processor(SimpleSpanProcessor(memory))
    work(provider.get_tracer("shop"))
    provider.shutdown()
    return list(memory.get_finished_spans())


def awkward(tracer: trace.Tracer) -> None:
    with tracer.start_as_current_span("plain") as plain:
        pass
    link = Link(plain.get_span_context(), {LONE: LONE})
    with tracer.start_as_current_span(LONE, links=[link, link], attributes={"a": 1, "b": LONE, "c": HUGE}) as span:
        span.add_event(LONE, {"e": LONE})
        span.add_event("late", {"e": (LONE,)})
        span.set_status(Status(StatusCode.ERROR, LONE))


def test_every_text_of_a_span_is_mended() -> None:
    encoded = encode_span_batch(spans(awkward))
    message = ExportTraceServiceRequest.FromString(encoded.request.body)
    plain, span = message.resource_spans[0].scope_spans[0].spans
    assert (encoded.request.records, encoded.left_out, plain.name, span.name) == (2, 0, "plain", MENDED)
    assert {pair.key: pair.value.string_value for pair in span.attributes} == {"b": MENDED, "c": str(HUGE)}
    assert span.status.message == MENDED
    assert span.links[0].attributes[0].key == span.links[0].attributes[0].value.string_value == MENDED
    assert span.events[0].attributes[0].value.array_value.values[0].string_value == MENDED
    assert (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count) == (1, 1, 1)
    assert span.span_id != plain.span_id


def test_a_span_that_cannot_be_encoded_is_left_out() -> None:
    plain, span = spans(awkward)
    broken = ReadableSpan("broken", plain.get_span_context(), start_time=-1, end_time=1, resource=plain.resource)
    encoded = encode_span_batch([plain, broken, span])
    assert (encoded.request.records, encoded.left_out, encoded.complaint) == (2, 1, "ValueError")


def collected(work: Callable[[Any], None]) -> MetricsData:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    work(provider.get_meter("shop"))
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return data


def values(body: bytes) -> dict[tuple[str, str], int]:
    message = ExportMetricsServiceRequest.FromString(body)
    return {
        (metric.name, "".join(pair.value.string_value for pair in point.attributes)): point.as_int
        for of_resource in message.resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
        for point in metric.sum.data_points
    }


def test_data_points_are_mended() -> None:
    data = collected(lambda meter: meter.create_counter("c", description=LONE).add(3, {"k": LONE}))
    encoded = encode_metric_batch(data)
    assert (encoded.request.signal, encoded.request.records, encoded.left_out) == (Signal.METRICS, 1, 0)
    assert values(encoded.request.body) == {("c", MENDED): 3}


def test_a_data_point_out_of_range_costs_no_other() -> None:
    def work(meter: Any) -> None:
        counter = meter.create_counter("c")
        counter.add(1, {"k": "small"})
        counter.add(HUGE, {"k": "huge"})
        meter.create_counter("d").add(2)

    encoded = encode_metric_batch(collected(work))
    assert (encoded.request.records, encoded.left_out, encoded.complaint) == (2, 1, "ValueError")
    assert values(encoded.request.body) == {("c", "small"): 1, ("d", ""): 2}
