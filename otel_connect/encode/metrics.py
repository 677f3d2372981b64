"""Attempts → metrics, without a thread: the agent records batches and collects when it sends.

What the agent says of itself is made by the SDK. The two metrics of attempts are our own: the kernel's tallies
have a weight (see ``durations``), and each workload has a resource, of which the SDK knows only one.

Every attempt is counted, whatever becomes of its log record. The number of attribute sets is bounded (see
``cardinality``), temporality and the kind of histogram follow the standard variables, and nothing global is set.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_connect import __version__
from otel_connect.encode.attempt_points import AttemptPoints
from otel_connect.encode.attributes import SCHEMA_URL, SCOPE
from otel_connect.encode.cardinality import AttributeSets, Limits, Moment, Series, metric_key
from otel_connect.encode.durations import Durations, ExplicitDurations, ExponentialDurations, Sample
from otel_connect.encode.points import CountedHistogram, mend_starts
from otel_connect.encode.preferences import AggregationTemporality, histogram_kind, temporality
from otel_connect.encode.resource import WorkloadResources
from otel_connect.encode.self_metrics import self_metrics
from otel_connect.encode.spans import SpanContext
from otel_connect.figures import NO_FIGURES, Distribution, Figures, Kind, SelfMetric
from otel_connect.model import Attempt, Request, Signal, Tallied

IN_PROGRESS = "otel_connect.attempts.in_progress"


_LIMITS = Limits()
_SECOND_NS = 1_000_000_000


def read_clocks() -> Moment:
    """Read both clocks."""
    return Moment(time.time_ns(), time.monotonic_ns())


class AttemptMetrics:
    """The metrics of the attempts, of one resource for each workload, and those of the agent itself.

    ``figures`` returns what the agent says of itself, and is called once for each collection, so that all that
    one request says is of one moment.
    ``environ`` is where the standard variables are looked up. One thread records and collects.
    """

    def __init__(
        self,
        resources: WorkloadResources,
        *,
        figures: Callable[[], Figures],
        limits: Limits = _LIMITS,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], Moment] = read_clocks,
    ) -> None:
        preferred = temporality(environ)
        kinds: tuple[Callable[[], Durations], Callable[[], Durations]] = ExplicitDurations, ExponentialDurations
        self._new_durations = histogram_kind(environ, *kinds)
        self._reader = InMemoryMetricReader(preferred_temporality=preferred)
        provider = MeterProvider([self._reader], resources.agent, shutdown_on_exit=False)
        self._sets = AttributeSets(limits)
        self._delta = preferred[Counter] is AggregationTemporality.DELTA
        self._points = AttemptPoints(
            resources, delta=self._delta, exponential=self._new_durations is ExponentialDurations
        )
        self.expire_s = 3600
        """How long a set that does not change is still sent, with cumulative temporality."""
        self.overflowed = 0
        """Attempts counted with ``_other`` in place of an attribute or of their workload."""
        self._take_figures = figures
        self._figures = NO_FIGURES
        self._own: Mapping[str, SelfMetric] = {}
        self._clock = clock
        self._started_ns = self._collected_ns = clock().monotonic_ns
        self._delays = CountedHistogram(clock().unix_ns, delta=self._delta)
        self._register(provider.get_meter(SCOPE, __version__, SCHEMA_URL))

    def record(self, attempts: Sequence[Attempt], contexts: Sequence[SpanContext | None] | None = None) -> None:
        """Count a batch; ``contexts`` are the ids of the attempts' spans, which become exemplars."""
        now = self._clock()
        for attempt, context in zip(attempts, contexts or repeat(None)):  # noqa: B905 - endless
            duration_ns = attempt.event.duration_ns
            series = self._sets.find(metric_key(attempt), now)
            series.count += 1
            if series.overflowed:
                self.overflowed += 1
            if duration_ns is not None:
                seconds = duration_ns / 1e9
                sample = None if context is None else Sample(seconds, context, now.unix_ns)
                durations = series.durations or self._begin_durations(series)
                durations.add(seconds, 1, sample)

    def record_tallied(self, tallied: Sequence[Tallied]) -> None:
        """Count attempts that have no record; their durations at the mean of those that were tallied together."""
        now = self._clock()
        for alike in tallied:
            series = self._sets.find_tallied(metric_key(alike), now, alike.detail)
            series.count += alike.attempts
            if series.overflowed:
                self.overflowed += alike.attempts
            if alike.duration_ns is not None:
                durations = series.durations or self._begin_durations(series)
                durations.add(alike.duration_ns / alike.attempts / 1e9, alike.attempts)

    def collect(self) -> list[Request]:
        """Return what has been recorded as export requests; with delta temporality it starts anew.

        The agent's own resource is the first, and one for each workload follows.
        """
        self._figures = self._take_figures()
        self._own = {metric.name: metric for metric in self_metrics(self._figures)}
        data = self._reader.get_metrics_data()
        if data is None:  # OTEL_SDK_DISABLED
            return []
        request = encode_metrics(data)
        now = self._clock()
        metrics = request.resource_metrics[0].scope_metrics[0].metrics
        for metric in self._own.values():
            if metric.kind is Kind.HISTOGRAM:
                made = self._delays.metric(metric, now.unix_ns)
                if made.histogram.data_points:
                    metrics.append(made)
        mend_starts(
            request,
            cumulative_ns=now.unix_ns - (now.monotonic_ns - self._started_ns),
            delta_ns=now.unix_ns - (now.monotonic_ns - self._collected_ns),
        )
        self._collected_ns = now.monotonic_ns
        points = sum(len(getattr(metric, str(metric.WhichOneof("data"))).data_points) for metric in metrics)
        # The first with that of the agent: on most hosts there is no second.
        first, *others = [*self._points.encode(self._sets.by_workload(), now)] or [(b"", 0)]
        self._forget(now)
        whole = [(request.SerializeToString() + first[0], points + first[1]), *others]
        return [Request(Signal.METRICS, body, records) for body, records in whole]

    def _forget(self, now: Moment) -> None:
        """Forget what has been reported: all of it with delta temporality, else what is idle."""
        if self._delta:
            self._sets.clear()
            return
        for series in self._sets:
            if series.count != series.reported:
                series.reported, series.changed_ns = series.count, now.monotonic_ns
        self._sets.forget_before(now.monotonic_ns - self.expire_s * _SECOND_NS)

    def _begin_durations(self, series: Series) -> Durations:
        series.durations = self._new_durations()
        return series.durations

    def _register(self, meter: Meter) -> None:
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
