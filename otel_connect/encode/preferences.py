"""What the standard variables ask of metrics: their temporality, and the kind of histogram.

``environ`` is where the variables are looked up. An empty one counts as unset, case does not matter, and
a value that is none of theirs is logged and the default taken.
"""

import logging
from collections.abc import Mapping
from typing import TypeVar

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION as AGGREGATION_VARIABLE,
)
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE as TEMPORALITY_VARIABLE,
)
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality

__all__ = ["AGGREGATION_VARIABLE", "TEMPORALITY_VARIABLE", "AggregationTemporality", "histogram_kind", "temporality"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


def temporality(environ: Mapping[str, str]) -> dict[type, AggregationTemporality]:
    """Read the preference; like the specification's, it never makes an UpDownCounter or a gauge delta."""
    delta, cumulative = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
    preferences = {
        "cumulative": (cumulative, cumulative),
        "delta": (delta, delta),
        "lowmemory": (delta, cumulative),
    }
    synchronous, observable = preferences[_choice(environ, TEMPORALITY_VARIABLE, preferences)]
    return {
        Counter: synchronous,
        Histogram: synchronous,
        ObservableCounter: observable,
        UpDownCounter: cumulative,
        ObservableUpDownCounter: cumulative,
        ObservableGauge: cumulative,
    }


def histogram_kind(environ: Mapping[str, str], explicit: T, exponential: T) -> T:
    """Choose between what makes explicit buckets and what makes exponential ones."""
    kinds = {"explicit_bucket_histogram": explicit, "base2_exponential_bucket_histogram": exponential}
    return kinds[_choice(environ, AGGREGATION_VARIABLE, kinds)]


def _choice(environ: Mapping[str, str], variable: str, choices: Mapping[str, object]) -> str:
    """Look a variable up among its values, of which the first is the default."""
    default = next(iter(choices))
    value = environ.get(variable, "").strip().lower() or default
    if value in choices:
        return value
    _log.warning("%s: %r is none of %s; %s is used", variable, value, ", ".join(choices), default)
    return default
