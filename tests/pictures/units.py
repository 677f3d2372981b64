"""Values as an axis shows them: where its marks are, and what is written at them, by the units of Grafana."""

import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

_MARKS = MaxNLocator(5, steps=(1, 2, 2.5, 5, 10))
_TIME_STEPS = (5, 15, 30, 60, 300, 900, 3600)

# For each unit, from small to large: how much one of it is, and what is written after a number of them.
_SCALES: dict[str, Sequence[tuple[float, str]]] = {
    "cps": [(1, "/s"), (1e3, "K/s"), (1e6, "M/s")],
    "percentunit": [(0.01, "%")],
    "s": [(1e-6, " µs"), (1e-3, " ms"), (1, " s")],
    "bytes": [(1, " B"), (1 << 10, " KiB"), (1 << 20, " MiB"), (1 << 30, " GiB")],
    "short": [(1, ""), (1e3, " K"), (1e6, " M")],
}


def shown(value: float, unit: str) -> str:
    """Write a value that is not negative, with three digits where that is enough."""
    size, suffix = _scale(value, unit)
    number = value / size
    text = f"{number:.0f}" if number >= 100 else f"{number:.3g}"
    return text if text == "0" else text + suffix


def marks(highest: float, unit: str) -> list[float]:
    """Return where an axis has its marks, from 0 to the first at or above the highest value; at least two."""
    size, _ = _scale(highest, unit)
    places = _MARKS.tick_values(0, highest / size if highest > 0 else 1)
    return [float(place) * size for place in places]


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Return the largest scale of the unit in which a value is 1 or more, else the smallest."""
    scales = _SCALES[unit]
    return next((scale for scale in reversed(scales) if value >= scale[0]), scales[0])


def times(longest: float) -> list[float]:
    """Return where an axis of so many seconds has its marks: six at the most, at numbers that one expects."""
    step = next(step for step in _TIME_STEPS if longest / step < 6)
    return [float(time) for time in range(0, math.floor(longest) + 1, step)]


def clock(seconds: float) -> str:
    """Write a time since the beginning: minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
