"""What a picture shows, as values: a dashboard with the answers to its queries."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tools.dashboards import Dashboard, Panel, fingerprint

_PLACE = re.compile(r"{{(\w+)}}")
_KINDS = ("otel_connect_outcome", "error_type", "otel_connect_signal")
"""Labels that mean the same everywhere, so that they decide the colour wherever they are."""
_EVERYWHERE = "instance"
"""With a single agent this tells nothing apart."""
_FALLBACK = "unknown_service:"
"""What a program says nothing of is called so, with its own name after it."""

Series = tuple[Mapping[str, str], Mapping[int, float]]
"""What Prometheus answers: labels, and values by Unix time."""


class Curve(NamedTuple):
    """A line of a graph, or a bar, which has one value."""

    legend: str
    about: str
    """Whom or what it tells of: curves about the same have the same colour on all of a page."""
    values: tuple[float, ...]
    """At the moments of the page; NaN where there is none."""


class Graph(NamedTuple):
    """A panel and its curves."""

    panel: Panel
    curves: tuple[Curve, ...]


class Page(NamedTuple):
    """A dashboard, as it was during a run."""

    title: str
    fingerprint: str
    moments: tuple[int, ...]
    """Seconds since the picture begins."""
    graphs: tuple[Graph, ...]


def page(dashboard: Dashboard, answers: Sequence[Sequence[Sequence[Series]]], times: Sequence[int]) -> Page:
    """Join a dashboard with what was answered: for each panel, for each query, some series.

    ``times`` are the Unix times of the values, the same for all; bars are of the last. Raises ValueError if there is
    nothing to be seen in a panel.
    """
    graphs = []
    for panel, answered in zip(dashboard.panels, answers, strict=True):
        moments = times if panel.kind == "timeseries" else times[-1:]
        found = [
            _curve(template, series, moments)
            for template, some in zip(panel.curves, answered, strict=True)
            for series in some
        ]
        curves = tuple(curve for curve in found if not all(math.isnan(value) for value in curve.values))
        if not curves:
            raise ValueError(f"{dashboard.title}: {panel.title}: no data")
        graphs.append(Graph(panel, curves))
    return Page(dashboard.title, fingerprint(dashboard), tuple(time - times[0] for time in times), tuple(graphs))


def _curve(template: str, series: Series, moments: Sequence[int]) -> Curve:
    labels, values = series
    legend = _PLACE.sub(lambda place: labels.get(place[1], ""), template).strip()
    return Curve(legend, _about(template, labels), tuple(values.get(moment, math.nan) for moment in moments))


def _about(template: str, labels: Mapping[str, str]) -> str:
    named = [label for label in _PLACE.findall(template) if label != _EVERYWHERE and labels.get(label)]
    kinds = [label for label in _KINDS if label in named]
    if decisive := kinds or named:
        return labels[decisive[0]].removeprefix(_FALLBACK)
    return _PLACE.sub("", template).strip()
