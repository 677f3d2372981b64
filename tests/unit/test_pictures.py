"""The pictures of the dashboards: what an axis says, who has which colour, and that all of it can be read."""

import html
import io
import itertools
import math
import re
from typing import NamedTuple

import pytest
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from tests.pictures.colours import KNOWN, colours_of, lines_of
from tests.pictures.drawing import NOTE, compose, draw
from tests.pictures.page import Page, Series, page
from tests.pictures.units import clock, marks, shown, times
from tools.dashboards import DASHBOARDS, Dashboard, Panel, fingerprint

TIMES = range(1000, 1121, 2)
LONG = "a-name-as-long-as-one-finds-in-a-large-cluster.namespace.svc.cluster.local"

OUTCOMES = Panel("Attempts", "cps", {"{{otel_connect_outcome}}": "attempts"}, "What became of them.")
ERRORS = Panel("Errors", "cps", {"{{server_address}} {{error_type}}": "errors"}, "What went wrong.")
SERVERS = Panel("Share", "percentunit", {"{{server_address}}:{{server_port}}": "share"}, "How many.")
WORST = Panel("Worst", "short", {"{{server_address}}:{{server_port}}": "topk"}, "Most first.", "bargauge")
SPOOL = Panel("Spool", "bytes", {"{{instance}} used": "used", "{{instance}} limit": "limit"}, "What waits.")
SOME = Dashboard("otel-connect-some", "Some", (), (OUTCOMES, ERRORS, SERVERS, WORST, SPOOL))


def series(value: float, **labels: str) -> Series:
    return labels, {time: value * (1 + math.sin(time / 10)) for time in TIMES}


ANSWERS = [
    [[series(5, otel_connect_outcome="established"), series(2, otel_connect_outcome="refused")]],
    [[series(1, server_address=name, error_type="connection_refused") for name in ("db", "cache")]],
    [[series(0.2, server_address="db", server_port="5432"), series(0.1, server_address="cache", server_port="1")]],
    [[series(7, server_address="db", server_port="5432")]],
    [[series(3e5, instance="a")], [series(2e6, instance="a")]],
]
PAGE = page(SOME, ANSWERS, TIMES)


def crowded(dashboard: Dashboard, name: str) -> Page:
    """Fill a dashboard with six curves for each query, all with such a name in all their labels."""
    answers = [
        [
            [
                series(10.0**number, **dict.fromkeys(re.findall(r"{{(\w+)}}", template), f"{name}{number}"))
                for number in range(-3, 3)
            ]
            for template in panel.curves
        ]
        for panel in dashboard.panels
    ]
    return page(dashboard, answers, TIMES)


def texts(svg: str) -> list[str]:
    """Return what is written in a picture: each text is drawn as outlines, with itself as a comment."""
    return [html.unescape(comment) for comment in re.findall("<!-- (.*?) -->", svg)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0"),
        (0.00025, "s", "250 µs"),
        (0.0075, "s", "7.5 ms"),
        (1.1, "s", "1.1 s"),
        (90, "s", "90 s"),
        (12.5, "cps", "12.5/s"),
        (0.25, "cps", "0.25/s"),
        (20000, "cps", "20K/s"),
        (0.005, "percentunit", "0.5%"),
        (1, "percentunit", "100%"),
        (1536, "bytes", "1.5 KiB"),
        (2 << 20, "bytes", "2 MiB"),
        (999, "short", "999"),
        (1234, "short", "1.23 K"),
    ],
)
def test_values_are_written_in_their_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


@pytest.mark.parametrize("unit", ["cps", "percentunit", "s", "bytes", "short"])
@pytest.mark.parametrize("highest", [0.00003, 0.7, 1, 37, 1000, 1537, 2.1e6])
def test_the_marks_of_an_axis_begin_at_0_reach_the_highest_and_are_all_different(unit: str, highest: float) -> None:
    found = marks(highest, unit)
    assert found[0] == 0
    assert found[-2] < highest <= found[-1] * (1 + 1e-9)
    assert len({shown(mark, unit) for mark in found}) == len(found) <= 7


def test_an_axis_of_nothing_but_0_has_marks() -> None:
    assert marks(0, "cps")[-1] == 1
    assert marks(0, "percentunit")[-1] == 0.01


@pytest.mark.parametrize(("longest", "last"), [(24, "0:20"), (120, "2:00"), (240, "4:00"), (3600, "60:00")])
def test_the_marks_of_time_are_few_and_round(longest: float, last: str) -> None:
    found = [clock(time) for time in times(longest)]
    assert found[0] == "0:00"
    assert found[-1] == last
    assert len(found) <= 6


def test_a_curve_is_called_as_its_panel_says() -> None:
    assert [curve.legend for curve in PAGE.graphs[1].curves] == ["db connection_refused", "cache connection_refused"]
    assert [curve.legend for curve in PAGE.graphs[2].curves] == ["db:5432", "cache:1"]
    assert [curve.legend for curve in PAGE.graphs[4].curves] == ["a used", "a limit"]


def test_a_gap_stays_a_gap() -> None:
    dashboard = SOME._replace(panels=(OUTCOMES,))
    found = page(dashboard, [[[({"otel_connect_outcome": "reset"}, {1000: 1.0, 1004: 3.0})]]], range(1000, 1005, 2))
    ((curve,),) = [graph.curves for graph in found.graphs]
    assert found.moments == (0, 2, 4)
    assert curve.values[0] == 1
    assert math.isnan(curve.values[1])
    assert curve.values[2] == 3


@pytest.mark.parametrize("nothing", [[], [({}, {})], [({}, {1000: math.nan})]], ids=["answer", "value", "number"])
def test_a_panel_without_data_is_an_error(nothing: list[Series]) -> None:
    with pytest.raises(ValueError, match="Some: Share: no data"):
        page(SOME, [*ANSWERS[:2], [nothing], *ANSWERS[3:]], TIMES)


def test_an_outcome_has_its_colour_and_an_error_that_of_its_outcome() -> None:
    colours = colours_of(PAGE)
    assert colours["refused"] == colours["connection_refused"] == KNOWN["refused"]
    assert colours["established"] == KNOWN["established"]


def test_a_server_has_one_colour_on_all_of_a_page() -> None:
    colours = colours_of(PAGE)
    ((shared, _), (worst,)) = (lines_of(PAGE.graphs[number], colours) for number in (2, 3))
    assert shared.colour == worst.colour
    assert colours["db"] != colours["cache"]


def test_curves_of_one_colour_are_told_apart_within_a_graph() -> None:
    first, second = lines_of(PAGE.graphs[1], colours_of(PAGE))
    assert first.colour == second.colour
    assert first.dash != second.dash


def test_every_title_and_every_legend_is_in_the_picture() -> None:
    for dashboard in DASHBOARDS:
        filled = crowded(dashboard, "name ")
        written = texts(draw(filled))
        assert dashboard.title in written
        for graph in filled.graphs:
            assert graph.panel.title in written
            assert {curve.legend for curve in graph.curves} <= set(written)


def test_every_curve_is_in_the_picture() -> None:
    less = PAGE._replace(graphs=(PAGE.graphs[0]._replace(curves=PAGE.graphs[0].curves[:1]), *PAGE.graphs[1:]))
    drawn = [len(re.findall(f"stroke: {KNOWN['refused']}", draw(some))) for some in (PAGE, less)]
    assert drawn[0] - drawn[1] == 2  # in the graph, and in the legend


def test_a_picture_is_the_same_each_time_and_says_of_what_it_is() -> None:
    assert draw(PAGE) == draw(PAGE)
    assert f"<dc:identifier>{fingerprint(SOME)}</dc:identifier>" in draw(PAGE)


CROWDED = [PAGE, *(crowded(dashboard, name) for dashboard in DASHBOARDS for name in ("name ", LONG))]


@pytest.mark.parametrize("filled", CROWDED, ids=lambda filled: filled.title)
def test_no_text_lies_on_another_or_leaves_its_card(filled: Page) -> None:
    figure = compose(filled)
    figure.draw_without_rendering()
    # It measures as it writes; others round.
    renderer = RendererSVG(*figure.bbox.size, io.StringIO())  # type: ignore[no-untyped-call]  # not annotated
    boxes = {
        text: Extent(*text.get_window_extent(renderer).extents)
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text() and text.get_visible()
    }
    overlaps = [
        (one.get_text(), other.get_text())
        for one, other in itertools.combinations(boxes, 2)
        if boxes[one].meets(boxes[other])
    ]
    assert overlaps == []
    cards = [Extent(*card.get_window_extent().extents) for card in figure.findobj(FancyBboxPatch)]
    outside = [text.get_text() for text, box in boxes.items() if not any(card.holds(box) for card in cards)]
    assert outside == [filled.title, NOTE]


class Extent(NamedTuple):
    """Where something was drawn."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Extent") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def holds(self, other: "Extent") -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )
