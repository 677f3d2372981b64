"""Attempts → metrics, by the SDK but without a thread: the agent records batches and collects when it sends.

Every attempt is counted, whatever becomes of its log record. The number of attribute sets is bounded in
front of the SDK (see ``cardinality``), temporality and the kind of histogram follow the standard variables,
and nothing global is set.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, TraceFlags, set_span_in_context
from opentelemetry.trace import SpanContext as SdkSpanContext

from otel_connect import __version__
from otel_connect.encode.attributes import SCHEMA_URL, SCOPE
from otel_connect.encode.cardinality import AttributeSets, metric_key
from otel_connect.encode.points import CountedHistogram, mend_starts
from otel_connect.encode.preferences import (
    AggregationTemporality,
    ExplicitBucketHistogramAggregation,
    histogram_aggregation,
    temporality,
)
from otel_connect.encode.self_metrics import self_metrics
from otel_connect.encode.spans import SpanContext
from otel_connect.figures import NO_FIGURES, Distribution, Figures, Kind, SelfMetric
from otel_connect.model import Attempt, Request, Signal

ATTEMPTS = "otel_connect.attempts"
ATTEMPT_DURATION = "otel_connect.attempt.duration"
IN_PROGRESS = "otel_connect.attempts.in_progress"

# Seconds; the retries of a SYN fall at 1, 3, 7, 15, 31, 63 and 127 s, each just below a boundary.
DURATION_BOUNDARIES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.1, 3.3, 7.5, 15.5, 32.0, 64.0, 130.0),
)


class AttemptMetrics:
    """The metrics of one resource: of the attempts, and of the agent itself.

    ``figures`` returns what the agent says of itself, and is called once for each collection, so that all that
    one request says is of one moment.
    ``environ`` is where the standard variables are looked up. One thread records and collects.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        figures: Callable[[], Figures],
        max_attribute_sets: int = 1000,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        preferred = temporality(environ)
        # The SDK's own limit only has to stay out of the way of ours.
        sdk_limit = max_attribute_sets + 1000
        self._reader = InMemoryMetricReader(
            preferred_temporality=preferred,
            cardinality_limits={Counter: sdk_limit, Histogram: sdk_limit},
        )
        aggregation = histogram_aggregation(environ, ExplicitBucketHistogramAggregation(DURATION_BOUNDARIES))
        view = View(instrument_name=ATTEMPT_DURATION, aggregation=aggregation)
        provider = MeterProvider([self._reader], resource, shutdown_on_exit=False, views=[view])
        self._sets = AttributeSets(max_attribute_sets)
        self._sets_expire = preferred[Counter] is AggregationTemporality.DELTA
        self.overflowed = 0
        """Attempts counted with ``_other`` in place of an attribute; up to date after ``collect``."""
        self._take_figures = figures
        self._figures = NO_FIGURES
        self._own: Mapping[str, SelfMetric] = {}
        self._started_ns = self._collected_ns = time.monotonic_ns()
        self._delays = CountedHistogram(time.time_ns(), delta=self._sets_expire)
        self._register(provider.get_meter(SCOPE, __version__, SCHEMA_URL))

    def record(self, attempts: Sequence[Attempt], contexts: Sequence[SpanContext | None] | None = None) -> None:
        """Count a batch; ``contexts`` are the ids of the attempts' spans, which become exemplars."""
        for attempt, context in zip(attempts, contexts or repeat(None)):  # noqa: B905 - endless
            series = self._sets.find(metric_key(attempt))
            if not series.count:
                self._attempts.add(0, series.attributes)  # so that the SDK has it start now, not when collected
            series.count += 1
            if attempt.event.duration_ns is not None:
                self._duration.record(
                    attempt.event.duration_ns / 1e9,
                    series.attributes,
                    None if context is None else _sdk_context(context),
                )

    def collect(self) -> list[Request]:
        """Return what has been recorded as export requests; with delta temporality it starts anew."""
        self._add_up()
        self._figures = self._take_figures()
        self._own = {metric.name: metric for metric in self_metrics(self._figures)}
        data = self._reader.get_metrics_data()
        if data is None:  # OTEL_SDK_DISABLED
            return []
        if self._sets_expire:
            self._sets.clear()
        now, monotonic = time.time_ns(), time.monotonic_ns()
        request = encode_metrics(data)
        metrics = request.resource_metrics[0].scope_metrics[0].metrics
        for metric in self._own.values():
            if metric.kind is Kind.HISTOGRAM and (made := self._delays.metric(metric, now)).histogram.data_points:
                metrics.append(made)
        mend_starts(
            request, cumulative_ns=now - (monotonic - self._started_ns), delta_ns=now - (monotonic - self._collected_ns)
        )
        self._collected_ns = monotonic
        points = sum(len(getattr(metric, str(metric.WhichOneof("data"))).data_points) for metric in metrics)
        return [Request(Signal.METRICS, request.SerializeToString(), points)]

    def _add_up(self) -> None:
        """Hand the counts over to the SDK, once for each series: an addition costs it as much as a record."""
        for series in self._sets:
            if series.count:
                self._attempts.add(series.count, series.attributes)
                self.overflowed += series.count if series.overflowed else 0
                series.count = 0

    def _register(self, meter: Meter) -> None:
        self._attempts = meter.create_counter(ATTEMPTS, "{attempt}", "TCP connect attempts that ended.")
        self._duration = meter.create_histogram(
            ATTEMPT_DURATION, "s", "Time from the start of a TCP connect attempt to its end."
        )
        meter.create_observable_up_down_counter(
            IN_PROGRESS,
            [lambda _options: [Observation(self._figures.state.balance.in_progress)]],
            "{attempt}",
            "TCP connect attempts that have begun and not ended.",
        )
        create = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.UP_DOWN_COUNTER: meter.create_observable_up_down_counter,
            Kind.GAUGE: meter.create_observable_gauge,
        }
        for metric in self_metrics(self._figures):
            if metric.kind in create:
                create[metric.kind](metric.name, [self._observer(metric.name)], metric.unit, metric.description)

    def _observer(self, name: str) -> Callable[[CallbackOptions], list[Observation]]:
        return lambda _options: [
            Observation(point.value, point.attributes)
            for point in self._own[name].points
            if not isinstance(point.value, Distribution)
        ]


def _sdk_context(context: SpanContext) -> Context:
    span = SdkSpanContext(
        int.from_bytes(context.trace_id),
        int.from_bytes(context.span_id),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(span), Context())
