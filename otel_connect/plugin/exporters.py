"""The three exporters that the SDK loads by the name ``otel_connect``.

Each hands its batches to the one ``Delivery`` of the process. SUCCESS means that the batch is committed to
the spool (or, while there is no usable disk, waits in memory), FAILURE that it could not be taken.
"""

import os
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_connect.encode.preferences import histogram_kind, temporality
from otel_connect.model import Signal
from otel_connect.plugin.batches import encode_log_batch, encode_metric_batch, encode_span_batch
from otel_connect.plugin.delivery import Delivery, Outlet
from otel_connect.plugin.parameters import metric_preferences
from otel_connect.plugin.process import DELIVERY, PARAMETERS


class DurableLogExporter(LogRecordExporter):
    """Exports log records; configured by the OTEL_EXPORTER_OTLP_* variables, and by parameters (docs/plugin.md)."""

    def __init__(self, delivery: Delivery | None = None, **parameters: Any) -> None:
        PARAMETERS.keep(Signal.LOGS, parameters)
        self._outlet = Outlet(Signal.LOGS, delivery or DELIVERY)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Commit a batch."""
        taken = self._outlet.take(lambda: encode_log_batch(batch))
        return LogRecordExportResult.SUCCESS if taken else LogRecordExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Take no more; the last exporter of the process that stops sends what waits for a few seconds."""
        self._outlet.shutdown(timeout_millis / 1000)

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Wait until the backend has answered for everything exported so far; false when time is up."""
        return self._outlet.flush(timeout_millis / 1000)


class DurableSpanExporter(SpanExporter):
    """Exports spans; configured by the OTEL_EXPORTER_OTLP_* variables, and by parameters (docs/plugin.md)."""

    def __init__(self, delivery: Delivery | None = None, **parameters: Any) -> None:
        PARAMETERS.keep(Signal.TRACES, parameters)
        self._outlet = Outlet(Signal.TRACES, delivery or DELIVERY)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Commit a batch."""
        taken = self._outlet.take(lambda: encode_span_batch(spans))
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Take no more; the last exporter of the process that stops sends what waits for a few seconds."""
        self._outlet.shutdown(timeout_millis / 1000)

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Wait until the backend has answered for everything exported so far; false when time is up."""
        return self._outlet.flush(timeout_millis / 1000)


class DurableMetricExporter(MetricExporter):
    """Exports metrics; temporality and kind of histogram follow the standard variables and parameters, too."""

    def __init__(
        self,
        delivery: Delivery | None = None,
        *,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
        preferred_aggregation: dict[type, Aggregation] | None = None,
        **parameters: Any,
    ) -> None:
        preferences = {**os.environ, **dict(metric_preferences(parameters))}
        aggregation: Aggregation = histogram_kind(
            preferences, ExplicitBucketHistogramAggregation(), ExponentialBucketHistogramAggregation()
        )
        super().__init__(
            temporality(preferences) | (preferred_temporality or {}),
            {Histogram: aggregation} | (preferred_aggregation or {}),
        )
        PARAMETERS.keep(Signal.METRICS, parameters)
        self._outlet = Outlet(Signal.METRICS, delivery or DELIVERY)

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - committing waits for the disk, not for the backend
        **_: Any,
    ) -> MetricExportResult:
        """Commit what a reader has collected."""
        taken = self._outlet.take(lambda: encode_metric_batch(metrics_data))
        return MetricExportResult.SUCCESS if taken else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Take no more; the last exporter of the process that stops sends what waits for a few seconds."""
        self._outlet.shutdown(timeout_millis / 1000)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Wait until the backend has answered for everything exported so far; false when time is up."""
        return self._outlet.flush(timeout_millis / 1000)
