"""Which colour a curve has: the same thing is of the same colour in all graphs of a page."""

from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from typing import NamedTuple

from tests.pictures.page import Curve, Graph, Page

_GREY = "#92959e"
_BLUE, _TEAL, _LIME = "#5b9cf5", "#3fc1b0", "#a5cf5b"

KNOWN: Mapping[str, str] = {
    "established": "#73bf69",
    **dict.fromkeys(("refused", "connection_refused"), "#f2495c"),
    **dict.fromkeys(("reset", "connection_reset"), "#ff8fa3"),
    "timed_out": "#ff9830",
    **dict.fromkeys(("denied", "access_denied"), "#fade2a"),
    **dict.fromkeys(("unreachable", "host_unreachable", "network_unreachable"), "#c4885a"),
    **dict.fromkeys(("abandoned", "canceled"), "#b877d9"),
    **dict.fromkeys(("unknown", "pending", "limit"), _GREY),
    "seen": "#e9eaee",
    "logs": _BLUE,
    "traces": _TEAL,
    "metrics": _LIME,
}
"""What is on several pages has one colour on all of them."""

_OTHERS = (_BLUE, _TEAL, "#f08bb4", "#e5c04b", "#a98bea", _LIME, "#86d3f0", "#f4876d", "#d4a373", "#a7adb8")

Dash = str | tuple[int, tuple[float, ...]]
_DASHES: tuple[Dash, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))


class Line(NamedTuple):
    """A curve as it is drawn."""

    curve: Curve
    colour: str
    dash: Dash
    """Tells curves of one colour apart, within a graph."""


def colours_of(page: Page) -> dict[str, str]:
    """Return the colour of everything that the curves of a page are about."""
    others = cycle(_OTHERS)
    colours: dict[str, str] = {}
    for about in (curve.about for graph in page.graphs for curve in graph.curves):
        if about not in colours:
            colours[about] = KNOWN.get(about) or next(others)
    return colours


def lines_of(graph: Graph, colours: Mapping[str, str]) -> list[Line]:
    """Return how the curves of a graph are drawn."""
    drawn: Counter[str] = Counter()
    lines = []
    for curve in graph.curves:
        colour = colours[curve.about]
        lines.append(Line(curve, colour, _DASHES[drawn[colour] % len(_DASHES)]))
        drawn[colour] += 1
    return lines
