"""The same telemetry by the SDK as it comes: its providers, its batch processors, its OTLP encoders."""

from collections.abc import Sequence

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from otel_connect.encode.attempt_points import ATTEMPT_DURATION, ATTEMPTS
from otel_connect.encode.attributes import EVENT_NAME, SCOPE, attempt_attributes, is_failure, severity
from otel_connect.encode.cardinality import metric_attributes, metric_key
from otel_connect.encode.line import display_line
from otel_connect.encode.spans import SPAN_NAME
from otel_connect.model import Attempt


class _DiscardedLogs(LogRecordExporter):
    def __init__(self) -> None:
        self.records = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        encode_logs(batch).SerializeToString()
        self.records += len(batch)
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's interface
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Nothing is held back."""


class _DiscardedSpans(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


class StockSdk:
    """Emits attempts with default settings, waiting for the export often enough that no queue overflows."""

    def __init__(self, resource: Resource) -> None:
        self._exporter = _DiscardedLogs()
        self._logs = LoggerProvider(resource, shutdown_on_exit=False)
        self._logs.add_log_record_processor(BatchLogRecordProcessor(self._exporter))
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(_DiscardedSpans()))
        self._reader = InMemoryMetricReader()
        meter = MeterProvider([self._reader], resource, shutdown_on_exit=False).get_meter(SCOPE)
        self._logger = self._logs.get_logger(SCOPE)
        self._tracer = self._spans.get_tracer(SCOPE)
        self._attempts = meter.create_counter(ATTEMPTS)
        self._duration = meter.create_histogram(ATTEMPT_DURATION)

    def logs(self, attempts: Sequence[Attempt]) -> None:
        """Make log records of a batch, and wait for their export."""
        due = self._exporter.records + len(attempts)
        for attempt in attempts:
            level = severity(attempt)
            self._logger.emit(
                timestamp=attempt.event.start_unix_ns,
                observed_timestamp=attempt.observed_unix_ns,
                severity_number=SeverityNumber(level.number),
                severity_text=level.text,
                body=display_line(attempt),
                attributes=dict(attempt_attributes(attempt)),
                event_name=EVENT_NAME,
            )
        self._logs.force_flush()
        if self._exporter.records != due:
            raise RuntimeError("the SDK dropped records, so its time says nothing")

    def everything(self, attempts: Sequence[Attempt], with_span: Sequence[Attempt]) -> None:
        """Make log records and metrics of a batch and spans of some, and wait for their export."""
        self.logs(attempts)
        for attempt in attempts:
            attributes = dict(metric_attributes(metric_key(attempt)))
            self._attempts.add(1, attributes)
            if attempt.event.duration_ns is not None:
                self._duration.record(attempt.event.duration_ns / 1e9, attributes)
        for attempt in with_span:
            self._span(attempt)
        self._spans.force_flush()

    def collect(self) -> None:
        """Encode what the metrics have come to."""
        data = self._reader.get_metrics_data()
        if data is not None:
            encode_metrics(data).SerializeToString()

    def close(self) -> None:
        """Stop the threads."""
        self._logs.shutdown()
        self._spans.shutdown()

    def _span(self, attempt: Attempt) -> None:
        event = attempt.event
        span = self._tracer.start_span(
            SPAN_NAME, Context(), attributes=dict(attempt_attributes(attempt)), start_time=event.start_unix_ns
        )
        if is_failure(attempt):
            span.set_status(StatusCode.ERROR)
        span.end(event.start_unix_ns + (event.duration_ns or 0))
