"""Text for a person's terminal: attacker-chosen names made harmless, cut and padded by what is seen.

Names of processes, executables and users are chosen by whoever runs them. A terminal obeys some
characters (escape sequences set titles, colours and the clipboard), hides others, and lets a few
rearrange the rest of the line. Everything that is not plainly visible is therefore shown as the
escape Python would write for it, and what is left is measured in terminal cells: a Chinese character
takes two, a combining accent none.
"""

import re

from rich.cells import cell_len

ABSENT = "–"
"""Stands where there is no value."""

# str.isprintable() refuses controls (C0, C1, DEL), bidi and other format characters, surrogates,
# private and unassigned code points, and every separator but the space. These it lets pass, although
# a terminal shows nothing for them: fillers, joiners and variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

# No script stacks more marks on one letter; more would climb into the lines above.
_MARKS_ON_A_LETTER = 3

# (below this many nanoseconds, nanoseconds in the unit, decimals, unit); the limits lie half a digit
# under the round number, so that rounding never spills into the next unit.
_SCALES = (
    (99_500, 1_000, 0, "µs"),
    (9_950_000, 1_000_000, 1, "ms"),
    (999_500_000, 1_000_000, 0, "ms"),
    (9_950_000_000, 1_000_000_000, 1, "s"),
    (599_500_000_000, 1_000_000_000, 0, "s"),
    (5_970_000_000_000, 60_000_000_000, 0, "min"),
)
_HOUR_NS = 3_600_000_000_000


def safe(text: str) -> str:
    r"""Return the text as one line without anything a terminal obeys or hides: ``\x1b``, ``\u202e``.

    Visible characters of any script stay as they are. Marks stay on their letter, up to three.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = _MARKS_ON_A_LETTER  # at the start there is no letter: a mark would sit on our own text
    for character in text:
        marks = 0 if cell_len(character) else marks + 1
        if not character.isprintable() or marks > _MARKS_ON_A_LETTER or _INVISIBLE.match(character):
            shown.append(_escape(character))
            marks = 0
        else:
            shown.append(character)
    return "".join(shown)


def width(text: str) -> int:
    """Return how many terminal cells safe text takes."""
    return cell_len(text)


def cut(text: str, cells: int) -> str:
    """Shorten safe text to that many terminal cells, with an ellipsis where something is missing."""
    if cell_len(text) <= cells:
        return text
    room = cells - 1
    kept: list[str] = []
    for character in text:
        room -= cell_len(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if cells > 0 else ""


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Fill safe text up with spaces to that many terminal cells; ``right`` aligns it to the right."""
    space = " " * (cells - cell_len(text))
    return space + text if right else text + space


def duration(nanoseconds: int | None) -> str:
    """Write a duration in few digits and one unit: ``45 µs``, ``0.4 ms``, ``31 s``; ``–`` for None."""
    if nanoseconds is None:
        return ABSENT
    for below, unit_ns, decimals, unit in _SCALES:
        if nanoseconds < below:
            return f"{nanoseconds / unit_ns:.{decimals}f} {unit}"
    return f"{nanoseconds / _HOUR_NS:.0f} h"


def endpoint(address: str | None, port: int | None) -> str:
    """Join an address and a port, an IPv6 address in brackets: ``10.1.2.80:443``, ``[::1]:443``."""
    shown = ABSENT if address is None else safe(address)
    if port is None:
        return shown
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def _escape(character: str) -> str:
    point = ord(character)
    if point <= 0xFF:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
