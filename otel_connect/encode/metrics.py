"""Attempts → metrics, by the SDK but without a thread: the agent records batches and collects when it sends.

The histogram of durations is our own, because the kernel's tallies have a weight (see ``durations``).

Every attempt is counted, whatever becomes of its log record. The number of attribute sets is bounded in
front of the SDK (see ``cardinality``), temporality and the kind of histogram follow the standard variables,
and nothing global is set.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality as ProtoTemporality
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from otel_connect import __version__
from otel_connect.encode.attributes import SCHEMA_URL, SCOPE
from otel_connect.encode.cardinality import AttributeSets, Series, metric_key, tallied_key
from otel_connect.encode.durations import Durations, ExplicitDurations, ExponentialDurations, Sample
from otel_connect.encode.points import CountedHistogram, mend_starts
from otel_connect.encode.preferences import AggregationTemporality, histogram_kind, temporality
from otel_connect.encode.self_metrics import self_metrics
from otel_connect.encode.spans import SpanContext
from otel_connect.encode.wire import key_value_message
from otel_connect.figures import NO_FIGURES, Distribution, Figures, Kind, SelfMetric
from otel_connect.model import Attempt, Request, Signal, Tallied

ATTEMPTS = "otel_connect.attempts"
ATTEMPT_DURATION = "otel_connect.attempt.duration"
IN_PROGRESS = "otel_connect.attempts.in_progress"


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
        kinds: tuple[Callable[[], Durations], Callable[[], Durations]] = ExplicitDurations, ExponentialDurations
        self._new_durations = histogram_kind(environ, *kinds)
        # The SDK's own limit only has to stay out of the way of ours.
        sdk_limit = max_attribute_sets + 1000
        self._reader = InMemoryMetricReader(
            preferred_temporality=preferred,
            cardinality_limits={Counter: sdk_limit},
        )
        provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)
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
        now = time.time_ns()
        for attempt, context in zip(attempts, contexts or repeat(None)):  # noqa: B905 - endless
            series = self._counted(self._sets.find(metric_key(attempt)), 1)
            if attempt.event.duration_ns is not None:
                seconds = attempt.event.duration_ns / 1e9
                sample = None if context is None else Sample(seconds, context, now)
                self._durations_of(series, now).add(seconds, 1, sample)

    def record_tallied(self, tallied: Sequence[Tallied]) -> None:
        """Count attempts that have no record; their durations at the mean of those that were tallied together."""
        now = time.time_ns()
        for alike in tallied:
            series = self._counted(self._sets.find_tallied(tallied_key(alike), alike.detail), alike.attempts)
            if alike.duration_ns is not None:
                self._durations_of(series, now).add(alike.duration_ns / alike.attempts / 1e9, alike.attempts)

    def collect(self) -> list[Request]:
        """Return what has been recorded as export requests; with delta temporality it starts anew."""
        self._add_up()
        self._figures = self._take_figures()
        self._own = {metric.name: metric for metric in self_metrics(self._figures)}
        data = self._reader.get_metrics_data()
        if data is None:  # OTEL_SDK_DISABLED
            return []
        request = encode_metrics(data)
        metrics = request.resource_metrics[0].scope_metrics[0].metrics
        now, monotonic = time.time_ns(), time.monotonic_ns()
        if (durations := self._duration_metric(now)) is not None:
            metrics.append(durations)
        if self._sets_expire:
            self._sets.clear()
        for metric in self._own.values():
            if metric.kind is Kind.HISTOGRAM and (made := self._delays.metric(metric, now)).histogram.data_points:
                metrics.append(made)
        mend_starts(
            request, cumulative_ns=now - (monotonic - self._started_ns), delta_ns=now - (monotonic - self._collected_ns)
        )
        self._collected_ns = monotonic
        points = sum(len(getattr(metric, str(metric.WhichOneof("data"))).data_points) for metric in metrics)
        return [Request(Signal.METRICS, request.SerializeToString(), points)]

    def _counted(self, series: Series, attempts: int) -> Series:
        if not series.count:
            self._attempts.add(0, series.attributes)  # so that the SDK has it start now, not when collected
        series.count += attempts
        return series

    def _durations_of(self, series: Series, now_unix_ns: int) -> Durations:
        if series.durations is None:
            series.durations = self._new_durations()
            series.start_unix_ns = now_unix_ns
        return series.durations

    def _duration_metric(self, now_unix_ns: int) -> Metric | None:
        """Make the histogram of all series, ``None`` when no attempt had an end."""
        metric = Metric(
            name=ATTEMPT_DURATION, unit="s", description="Time from the start of a TCP connect attempt to its end."
        )
        data = metric.histogram if self._new_durations is ExplicitDurations else metric.exponential_histogram
        data.aggregation_temporality = (
            ProtoTemporality.AGGREGATION_TEMPORALITY_DELTA
            if self._sets_expire
            else ProtoTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        )
        for series in self._sets:
            if series.durations is not None:
                point = series.durations.point()
                point.start_time_unix_nano, point.time_unix_nano = series.start_unix_ns, now_unix_ns
                point.attributes.extend(key_value_message(key, value) for key, value in series.attributes.items())
                data.data_points.append(point)  # type: ignore[arg-type]  # it is of the kind that was asked for
        return metric if data.data_points else None

    def _add_up(self) -> None:
        """Hand the counts over to the SDK, once for each series: an addition costs it as much as a record."""
        for series in self._sets:
            if series.count:
                self._attempts.add(series.count, series.attributes)
                self.overflowed += series.count if series.overflowed else 0
                series.count = 0

    def _register(self, meter: Meter) -> None:
        self._attempts = meter.create_counter(ATTEMPTS, "{attempt}", "TCP connect attempts that ended.")
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
