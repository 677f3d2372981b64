"""Draw a page: values in, SVG out. Nothing but the values decides what comes out.

Texts are measured before they are placed, so that nothing overlaps and nothing is cut off, however long names are.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.pictures.canvas import Box, Canvas, Style
from tests.pictures.colours import colours_of, lines_of
from tests.pictures.page import Graph, Page
from tests.pictures.units import clock, marks, shown, times

NOTE = "Drawn by matplotlib from the dashboard's own queries on a real run; not a screenshot of Grafana."

_HEADLINE = Style(14, "#e9eaee", "bold")
_TITLE = Style(10, "#e9eaee", "bold")
_HELP = Style(8, "#92959e")
_LEGEND = Style(8.5, "#c8cad0")
_AXIS = Style(8, "#92959e")

_WIDTH, _COLUMNS, _HEADER = 860.0, 2, 44.0
_MARGIN, _GAP, _PADDING = 14.0, 10.0, 12.0
_CARD_WIDTH = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
_INNER = _CARD_WIDTH - 2 * _PADDING
_PLOT, _TIMES, _BAR = 118.0, 22.0, 17.0
_SAMPLE, _AFTER_SAMPLE, _BETWEEN = 14.0, 5.0, 14.0


def draw(page: Page) -> str:
    """Return the picture as SVG."""
    drawn = io.StringIO()
    about = {"Title": page.title, "Description": NOTE, "Identifier": page.fingerprint, "Creator": None, "Date": None}
    # Texts as outlines, so that they are as wide everywhere; ids that are the same each time.
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": page.fingerprint}):
        compose(page).savefig(drawn, format="svg", metadata=about)
    return drawn.getvalue()


def compose(page: Page) -> Figure:
    """Give everything on a page its place."""
    rows = [page.graphs[first : first + _COLUMNS] for first in range(0, len(page.graphs), _COLUMNS)]
    layouts = [_layout(row) for row in rows]
    canvas = Canvas(_WIDTH, _HEADER + sum(layout.height + _GAP for layout in layouts) - _GAP + _MARGIN)
    canvas.text(_MARGIN, _HEADER / 2, page.title, _HEADLINE)
    canvas.text(_WIDTH - _MARGIN, _HEADER / 2, NOTE, _HELP, "right")
    colours = colours_of(page)
    top = _HEADER
    for row, layout in zip(rows, layouts, strict=True):
        for column, graph in enumerate(row):
            box = Box(_MARGIN + column * (_CARD_WIDTH + _GAP), top, _CARD_WIDTH, layout.height)
            _card(canvas, box, graph)
            inside = Box(box.x + _PADDING, top + layout.above, _INNER, layout.height - layout.above - _PADDING)
            if graph.panel.kind == "bargauge":
                _bars(canvas, inside, graph, colours)
            else:
                _curves(canvas, inside._replace(height=layout.plot), graph, page.moments, colours)
        top += layout.height + _GAP
    return canvas.figure


class _Layout(NamedTuple):
    """The heights of all cards in a row: above the plot, of the plot, of the card."""

    above: float
    plot: float
    height: float


def _layout(row: Sequence[Graph]) -> _Layout:
    above = _PADDING + _TITLE.line + max(len(list(_wrapped(graph.panel.help))) for graph in row) * _HELP.line + 10
    below = [_TIMES + len(_legend(graph)) * _LEGEND.line for graph in row if graph.panel.kind == "timeseries"]
    bars = [len(graph.curves) * _BAR for graph in row if graph.panel.kind == "bargauge"]
    inside = max([_PLOT + max(below, default=0), *bars])
    return _Layout(above, inside - max(below, default=0), above + inside + _PADDING)


def _card(canvas: Canvas, box: Box, graph: Graph) -> None:
    canvas.card(box)
    x, y = box.x + _PADDING, box.y + _PADDING + _TITLE.line / 2
    canvas.text(x, y, graph.panel.title, _TITLE)
    y += (_TITLE.line + _HELP.line) / 2
    for line in _wrapped(graph.panel.help):
        canvas.text(x, y, line, _HELP)
        y += _HELP.line


def _curves(canvas: Canvas, plot: Box, graph: Graph, moments: Sequence[float], colours: Mapping[str, str]) -> None:
    unit = graph.panel.unit
    lines = lines_of(graph, colours)
    highest = max(value for curve in graph.curves for value in curve.values if not math.isnan(value))
    heights, along = marks(highest, unit), times(moments[-1])
    left = max(_AXIS.width(shown(height, unit)) for height in heights) + 6
    right = _AXIS.width(clock(along[-1])) / 2
    axes = canvas.axes(Box(plot.x + left, plot.y, plot.width - left - right, plot.height), _AXIS)
    axes.set(xlim=(moments[0], moments[-1]), ylim=(0, heights[-1]))
    axes.set_yticks(heights, [shown(height, unit) for height in heights])
    axes.set_xticks(along, [clock(time) for time in along])
    for line in lines:
        axes.plot(moments, line.curve.values, color=line.colour, ls=line.dash, lw=1.4, clip_on=False)
    y = plot.y + plot.height + _TIMES + _LEGEND.line / 2
    named = iter(lines)
    for row in _legend(graph):
        for offset, text in row:
            x = plot.x + offset
            canvas.sample(x, y, _SAMPLE, next(named))
            canvas.text(x + _SAMPLE + _AFTER_SAMPLE, y, text, _LEGEND)
        y += _LEGEND.line


def _bars(canvas: Canvas, inside: Box, graph: Graph, colours: Mapping[str, str]) -> None:
    values = [curve.values[0] for curve in graph.curves]
    texts = [shown(value, graph.panel.unit) for value in values]
    names = [_LEGEND.fitting(curve.legend, inside.width / 2) for curve in graph.curves]
    left = max(map(_LEGEND.width, names)) + 8
    longest = inside.width - left - max(map(_LEGEND.width, texts)) - 6
    y = inside.y
    for curve, name, value, text in zip(graph.curves, names, values, texts, strict=True):
        length = longest * value / max(values)
        canvas.text(inside.x + left - 8, y + _BAR / 2, name, _LEGEND, "right")
        canvas.bar(Box(inside.x + left, y + 3, length, _BAR - 6), colours[curve.about])
        canvas.text(inside.x + left + length + 6, y + _BAR / 2, text, _LEGEND)
        y += _BAR


def _legend(graph: Graph) -> list[list[tuple[float, str]]]:
    """Break the names of the curves into lines; each has how far it is from the left."""
    rows: list[list[tuple[float, str]]] = []
    used = math.inf
    for curve in graph.curves:
        text = _LEGEND.fitting(curve.legend, _INNER - _SAMPLE - _AFTER_SAMPLE)
        width = _SAMPLE + _AFTER_SAMPLE + _LEGEND.width(text)
        if used + width > _INNER:
            rows.append([])
            used = 0
        rows[-1].append((used, text))
        used += width + _BETWEEN
    return rows


def _wrapped(text: str) -> Iterator[str]:
    """Break a text into lines."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".lstrip()
        if line and _HELP.width(longer) > _INNER:
            yield line
            longer = word
        line = longer
    yield line
