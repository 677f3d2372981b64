"""The same traffic through the SDK's own OTLP exporters and through these: what arrives is equal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from otel_connect.config import ExportConfig, Protocol
from otel_connect.export.exporter import OtlpExporter
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Station
from otel_connect.plugin.exporters import DurableLogExporter, DurableMetricExporter, DurableSpanExporter
from tests.support.receiver import GrpcReceiver, HttpReceiver, Receiver

STOCK: dict[Protocol, dict[Signal, Callable[[str], Any]]] = {
    Protocol.HTTP_PROTOBUF: {
        Signal.LOGS: lambda url: HttpLogs(f"{url}/v1/logs"),
        Signal.METRICS: lambda url: HttpMetrics(f"{url}/v1/metrics"),
        Signal.TRACES: lambda url: HttpSpans(f"{url}/v1/traces"),
    },
    Protocol.GRPC: {
        Signal.LOGS: lambda url: GrpcLogs(url, insecure=True),
        Signal.METRICS: lambda url: GrpcMetrics(url, insecure=True),
        Signal.TRACES: lambda url: GrpcSpans(url, insecure=True),
    },
}
OURS: dict[Signal, Callable[[Delivery], Any]] = {
    Signal.LOGS: DurableLogExporter,
    Signal.METRICS: DurableMetricExporter,
    Signal.TRACES: DurableSpanExporter,
}
MESSAGES: dict[Signal, Any] = {
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}
PROTOCOLS = pytest.mark.parametrize("protocol", list(Protocol), ids=["http", "grpc"])
RESOURCE = Resource(
    {"service.name": "shop", "n": 1, "ratio": 0.5, "on": True, "tags": ("a", "b")},
    "https://opentelemetry.io/schemas/1.44.0",
)


class Pair:
    """Stands where the SDK expects one exporter, and gives each batch to both."""

    def __init__(self, exporters: Sequence[Any]) -> None:
        self.exporters = exporters

    def export(self, batch: Any, *_: Any, **__: Any) -> Any:
        first, second = (exporter.export(batch) for exporter in self.exporters)
        assert first.name == second.name == "SUCCESS"
        return first

    def shutdown(self, *_: Any, **__: Any) -> None:
        for exporter in self.exporters:
            exporter.shutdown()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        flushed: list[bool] = [exporter.force_flush(timeout_millis) for exporter in self.exporters]
        return all(flushed)


class MetricPair(Pair, MetricExporter):
    def __init__(self, exporters: Sequence[Any]) -> None:
        Pair.__init__(self, exporters)
        stock, ours = exporters
        assert stock._preferred_temporality == ours._preferred_temporality
        MetricExporter.__init__(self, ours._preferred_temporality, ours._preferred_aggregation)

    def export(self, *batch: Any, **options: Any) -> MetricExportResult:
        result: MetricExportResult = Pair.export(self, *batch, **options)
        return result


@contextmanager
def both(protocol: Protocol, signal: Signal) -> Iterator[tuple[Sequence[Any], Callable[[], tuple[Any, Any]]]]:
    """Give the two exporters, and what makes the decoded messages of both backends when they are shut down."""
    kind: type[Receiver] = HttpReceiver if protocol is Protocol.HTTP_PROTOBUF else GrpcReceiver
    with kind() as to_stock, kind() as to_ours:
        config = ExportConfig(endpoint=to_ours.endpoint, protocol=protocol, spool_directory="")
        delivery = Delivery(lambda: Station(OtlpExporter(config)))
        exporters = STOCK[protocol][signal](to_stock.endpoint), OURS[signal](delivery)

        def decoded() -> tuple[Any, Any]:
            assert {request.signal for request in to_stock.requests} == {signal}
            messages = [MESSAGES[signal]() for _ in range(2)]
            for message, receiver in zip(messages, (to_stock, to_ours), strict=True):
                for request in receiver.requests:
                    message.MergeFromString(request.body)
            return messages[0], messages[1]

        yield exporters, decoded


@PROTOCOLS
def test_spans(protocol: Protocol) -> None:
    with both(protocol, Signal.TRACES) as (exporters, decoded):
        limits = SpanLimits(max_span_attributes=3, max_events=2, max_links=2)
        provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False, span_limits=limits)
        provider.add_span_processor(BatchSpanProcessor(Pair(exporters)))  # type: ignore[arg-type]  # by its methods
        make_spans(provider)
        provider.shutdown()
        stock, ours = decoded()
    assert ours == stock
    spans = [span for scoped in ours.resource_spans[0].scope_spans for span in scoped.spans]
    assert len(spans) == 9
    assert {span.kind for span in spans} == {1, 2, 3, 4, 5}
    assert {span.status.code for span in spans} == {0, 1, 2}
    busy = next(span for span in spans if span.name == "busy")
    assert (busy.dropped_attributes_count, busy.dropped_events_count, busy.dropped_links_count) == (2, 1, 1)
    assert busy.trace_state == "vendor=x"
    assert busy.parent_span_id


def make_spans(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("shop", "1", "https://opentelemetry.io/schemas/1.40.0", {"scope": True})
    for kind in SpanKind:
        tracer.start_span(kind.name, kind=kind).end()
    remote = SpanContext(
        1 << 127, 1 << 63, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("vendor", "x")])
    )
    context = trace.set_span_in_context(NonRecordingSpan(remote))
    attributes = {"gone": 0, "also": 0, "bytes": b"\xff", "list": [1, 2], "deep": {"a": [None, "b"], "c": 0.5}}
    links = [Link(remote, {"nr": number}) for number in range(3)]
    with tracer.start_as_current_span("busy", context, SpanKind.SERVER, attributes, links) as span:  # type: ignore[arg-type]
        for number in range(3):
            span.add_event(f"event {number}", {"a": True, "b": "ä\U0001f600"}, timestamp=number + 1)
        span.set_status(Status(StatusCode.OK))
        with pytest.raises(ZeroDivisionError), provider.get_tracer("other").start_as_current_span("failing"):
            _ = 1 / 0
    ended = tracer.start_span("", start_time=1)
    ended.set_status(StatusCode.ERROR, "no stock")
    ended.end(end_time=2)
    provider.get_tracer("bare").start_span("last").end()


@PROTOCOLS
def test_logs(protocol: Protocol) -> None:
    with both(protocol, Signal.LOGS) as (exporters, decoded):
        provider = LoggerProvider(RESOURCE, shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(Pair(exporters)))  # type: ignore[arg-type]  # by its methods
        make_logs(provider)
        provider.shutdown()
        stock, ours = decoded()
    assert ours == stock
    records = [record for scoped in ours.resource_logs[0].scope_logs for record in scoped.log_records]
    assert {record.body.WhichOneof("value") for record in records} == {
        *(None, "string_value", "bool_value", "int_value", "double_value"),
        *("bytes_value", "array_value", "kvlist_value"),
    }
    assert {bool(record.trace_id) for record in records} == {False, True}
    assert records[-1].event_name == "shop.closed"


def make_logs(provider: LoggerProvider) -> None:
    logger = provider.get_logger("shop", "1", "https://opentelemetry.io/schemas/1.40.0", {"scope": "x"})
    bodies: tuple[Any, ...] = (None, "ä", "", True, 1, -(1 << 63), 0.5, b"\x00", [1, "a", [None]], {"a": {"b": [b"c"]}})
    for body in bodies:
        logger.emit(body=body, timestamp=5, severity_number=SeverityNumber.WARN, severity_text="WARN")
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    context = trace.set_span_in_context(span)
    logger.emit(body="in a span", context=context, attributes={"k": (1, 2), "deep": {"a": None}})
    provider.get_logger("other").emit(body="last", event_name="shop.closed")


@PROTOCOLS
@pytest.mark.parametrize("preference", ["cumulative", "delta", "lowmemory"])
def test_metrics(protocol: Protocol, preference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    with both(protocol, Signal.METRICS) as (exporters, decoded):
        reader = PeriodicExportingMetricReader(MetricPair(exporters), export_interval_millis=float("inf"))
        exponential = View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())
        provider = MeterProvider([reader], RESOURCE, shutdown_on_exit=False, views=[exponential])
        make_metrics(provider)
        provider.force_flush()
        make_metrics(provider)
        provider.shutdown()
        stock, ours = decoded()
    assert ours == stock
    metrics = [metric for scoped in ours.resource_metrics[0].scope_metrics for metric in scoped.metrics]
    assert {metric.WhichOneof("data") for metric in metrics} == {"sum", "gauge", "histogram", "exponential_histogram"}
    assert {metric.name for metric in metrics} >= {"counter", "updown", "gauge", "o-counter", "o-updown", "o-gauge"}
    assert any(point.exemplars for metric in metrics for point in metric.sum.data_points)
    assert any(point.exemplars for metric in metrics for point in metric.histogram.data_points)
    monotonic = [metric.sum for metric in metrics if metric.name == "counter"]
    assert {one.aggregation_temporality for one in monotonic} == {2 if preference == "cumulative" else 1}


def make_metrics(provider: MeterProvider) -> None:
    meter = provider.get_meter("shop", "1", "https://opentelemetry.io/schemas/1.40.0", {"scope": 1})

    def observe(_: CallbackOptions) -> list[Observation]:
        return [Observation(7, {"door": "front"}), Observation(-0.5, {"door": "back"})]

    meter.create_observable_counter("o-counter", [observe])
    meter.create_observable_up_down_counter("o-updown", [observe], "1", "Who waits.")
    meter.create_observable_gauge("o-gauge", [observe])
    span = NonRecordingSpan(SpanContext(3, 4, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    context = trace.set_span_in_context(span)
    for value in (1, 2.5, 1000):
        meter.create_counter("counter", "{order}", "Orders.").add(value, {"tags": ("a", "b"), "n": 1}, context)
        meter.create_up_down_counter("updown").add(-value)
        meter.create_gauge("gauge").set(value, {"on": True})
        meter.create_histogram("histogram", explicit_bucket_boundaries_advisory=[1, 10]).record(value, {}, context)
        meter.create_histogram("exponential", "s").record(value)


@pytest.mark.parametrize("aggregation", ["", "explicit_bucket_histogram", "base2_exponential_bucket_histogram", "odd"])
@pytest.mark.parametrize("preference", ["", "cumulative", "DELTA", "LowMemory", "odd"])
def test_preferences(aggregation: str, preference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", aggregation)
    stock: Any = HttpMetrics()
    config = ExportConfig(endpoint="http://localhost:1", spool_directory="")
    ours: Any = DurableMetricExporter(Delivery(lambda: Station(OtlpExporter(config))))
    assert ours._preferred_temporality == stock._preferred_temporality
    assert ours._preferred_aggregation.keys() == stock._preferred_aggregation.keys()
    for kind, of_stock in stock._preferred_aggregation.items():
        assert type(ours._preferred_aggregation[kind]) is type(of_stock)
    stock.shutdown()
    ours.shutdown()
