"""A figure on which everything has a place in points, from the top left corner, and texts can be measured."""

from bisect import bisect_right
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import TextToPath
from matplotlib.transforms import Affine2D, Transform

from tests.pictures.colours import Line

_FONT = "DejaVu Sans"
"""It comes with matplotlib, so that texts are as wide everywhere."""

_BEHIND, _CARD, _EDGE, _GRID = "#111217", "#181b1f", "#2c2f36", "#282b31"
_POINTS_PER_INCH = 72
_PATHS = TextToPath()


class Style(NamedTuple):
    """How a text looks, its size in points."""

    size: float
    colour: str
    weight: str = "normal"

    @property
    def line(self) -> float:
        """How far below a text the next one is."""
        return self.size * 1.45

    def width(self, text: str) -> float:
        """Return how wide a text is."""
        font = FontProperties(family=_FONT, size=self.size, weight=self.weight)
        return float(_PATHS.get_text_width_height_descent(text, font, ismath=False)[0])

    def fitting(self, text: str, width: float) -> str:
        """Return the text, or as much of its beginning as there is room for."""
        if self.width(text) <= width:
            return text
        too_long = bisect_right(range(len(text)), width, key=lambda length: self.width(f"{text[:length]}…"))
        return f"{text[: too_long - 1]}…"


class Box(NamedTuple):
    """A rectangle: its top left corner, and its size."""

    x: float
    y: float
    width: float
    height: float


class Canvas:
    """The figure, of a size in points."""

    def __init__(self, width: float, height: float) -> None:
        self._size = width, height
        inches = width / _POINTS_PER_INCH, height / _POINTS_PER_INCH
        self.figure = Figure(figsize=inches, dpi=_POINTS_PER_INCH, facecolor=_BEHIND)
        downwards = Affine2D().scale(1 / _POINTS_PER_INCH, -1 / _POINTS_PER_INCH).translate(0, inches[1])
        self._places: Transform = downwards + self.figure.dpi_scale_trans

    def text(self, x: float, y: float, text: str, style: Style, across: str = "left") -> None:
        """Write a text, its middle at a height; ``across`` says what of it is at ``x``."""
        self.figure.text(
            x,
            y,
            text,
            transform=self._places,
            family=_FONT,
            size=style.size,
            color=style.colour,
            weight=style.weight,
            ha=across,
            va="center_baseline",
            parse_math=False,
        )

    def card(self, box: Box) -> None:
        """Draw what is behind a graph."""
        x, y, width, height = box
        shape = FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=4", fc=_CARD, ec=_EDGE)
        shape.set(transform=self._places, lw=0.8, zorder=-1)  # behind the axes, too
        self.figure.add_artist(shape)

    def bar(self, box: Box, colour: str) -> None:
        """Draw a bar."""
        x, y, width, height = box
        self.figure.add_artist(Rectangle((x, y), width, height, fc=colour, ec="none", transform=self._places))

    def sample(self, x: float, y: float, width: float, line: Line) -> None:
        """Draw a piece of a curve, to stand before its name."""
        piece = Line2D([x, x + width], [y, y], color=line.colour, ls=line.dash, lw=2, solid_capstyle="butt")
        piece.set_transform(self._places)
        self.figure.add_artist(piece)

    def axes(self, box: Box, style: Style) -> Axes:
        """Make axes with nothing but a grid and the texts at their marks."""
        width, height = self._size
        place = box.x / width, 1 - (box.y + box.height) / height, box.width / width, box.height / height
        axes = self.figure.add_axes(place, facecolor="none")
        axes.tick_params(colors=style.colour, labelsize=style.size, labelfontfamily=_FONT, left=False, bottom=False)
        axes.tick_params("y", pad=4)
        axes.tick_params("x", pad=7)
        axes.grid(color=_GRID, lw=0.7)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes
