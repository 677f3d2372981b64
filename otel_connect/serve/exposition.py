"""The agent's own metrics as a page for Prometheus, under the names that the OTLP ones get there."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from otel_connect.figures import Distribution, Kind, SelfMetric

_UNITS = {"s": "_seconds", "By": "_bytes"}
_FAMILIES = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.UP_DOWN_COUNTER: GaugeMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def page(metrics: Sequence[SelfMetric], accept: str) -> tuple[bytes, str]:
    """Write the metrics in the format that an Accept header asks for; returns the page and its content type."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Prepared(metrics))
    return encode(registry), content_type


def prometheus_name(metric: SelfMetric) -> str:
    """Name the metric family by the rules of OpenTelemetry for Prometheus, without the suffixes of its samples."""
    return metric.name.replace(".", "_") + _UNITS.get(metric.unit, "")


class _Prepared:
    """A collector of what is known already."""

    def __init__(self, metrics: Sequence[SelfMetric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return (_family(metric) for metric in self._metrics if metric.points)


def _family(metric: SelfMetric) -> Metric:
    keys = list(dict.fromkeys(key for point in metric.points for key in point.attributes))
    family: Any = _FAMILIES[metric.kind](prometheus_name(metric), metric.description, labels=list(map(_label, keys)))
    for point in metric.points:
        labels = [point.attributes.get(key, "") for key in keys]
        if isinstance(point.value, Distribution):
            family.add_metric(labels, list(_cumulated(point.value)), point.value.sum)
        else:
            family.add_metric(labels, point.value)
    return cast("Metric", family)


def _label(key: str) -> str:
    return key.replace(".", "_")


def _cumulated(value: Distribution) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(str, value.bounds), "+Inf"), value.counts, strict=True):
        total += count
        yield bound, total
