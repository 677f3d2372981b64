"""The live view: one aligned line for each attempt, for a terminal or a pipe.

The columns keep the order of BCC's tcpv4connect (PID, COMM, SADDR, DADDR) and add what it cannot say: when, who else,
what became of it and how long that took. Last comes PEER: what the program meant to reach, by name where one was
observed, else by address. It takes the room that is left, so that the most telling text is never crowded out; a name
that is too long loses its end, never its port, and an address is never cut, since nothing stands behind it.

A terminal too narrow for everything loses the least telling columns: docs/decisions/0059 has the order. Its width is
asked for each batch, so that the view follows a window that is resized.

Only SGR codes of this module reach the terminal; every name goes through :func:`text.safe`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from os import get_terminal_size
from typing import NamedTuple, TextIO

from otel_connect.errnos import errno_name
from otel_connect.model import Attempt, Outcome
from otel_connect.serve import text
from otel_connect.serve.lines import Lines

_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_DIM = "\x1b[2m"
_RED = "\x1b[31m"
_GREEN = "\x1b[32m"
_YELLOW = "\x1b[33m"

# Green succeeded, red failed for a known reason, yellow left the question open.
_COLOURS = dict.fromkeys(Outcome, _RED) | {
    Outcome.ESTABLISHED: _GREEN,
    Outcome.ABANDONED: _YELLOW,
    Outcome.PENDING: _YELLOW,
    Outcome.UNKNOWN: _YELLOW,
}

# Steps in which an address column grows: IPv4; nearly any address with a "::" in it; any IPv6 address.
_ADDRESS_CELLS = (15, 26, 39)
_PENDING_LINES = 20  # of one batch: more than a screenful says less than their number
_DESTINATIONS = 3
_USUAL_WIDTH = 80  # of a terminal that does not say


class _Column(NamedTuple):
    title: str
    cells: int
    value: Callable[[Attempt], str]
    right: bool = False
    steps: tuple[int, ...] = ()
    """It grows to with what it has to hold."""
    whole: bool = False
    """Never cut."""
    gap: int = 1
    """Spaces after it."""


def peer(attempt: Attempt) -> str:
    """Write where an attempt went as ``name:port``, or ``address:port`` where no name was observed."""
    address, port = attempt.event.target
    server = attempt.named.server
    if server is None:
        return text.endpoint(address, port)
    asked = server.port_beside(port)
    return text.safe(server.name) + ("" if asked is None else f":{asked}")


def _process(attempt: Attempt) -> str:
    return text.safe(attempt.process.executable_name or attempt.event.comm)


def _user(attempt: Attempt) -> str:
    owner = attempt.process.owner
    return str(attempt.event.uid) if owner is None else text.safe(owner)


def _reason(attempt: Attempt) -> str:
    if attempt.superseded:
        return "(superseded)"
    return "" if attempt.verdict.errno is None else errno_text(attempt.verdict.errno)


def _outcome_alone(attempt: Attempt) -> str:
    return "superseded" if attempt.superseded else attempt.verdict.outcome.value


def _address(address: str | None) -> str:
    return text.ABSENT if address is None else text.safe(address)


_TIME = "TIME"  # its value depends on the time zone, so it is made where that is known
_PROCESS = "PROCESS"
_OUTCOME = "OUTCOME"
_REASON = "ERRNO"
_LOCAL = "LOCAL"
_ADDRESS = "ADDRESS"
_PEER = "PEER"
_COLUMNS = (
    _Column("PID", 7, lambda attempt: str(attempt.event.pid), right=True),
    _Column(_PROCESS, 15, _process),
    _Column("COMM", 15, lambda attempt: text.safe(attempt.event.comm)),
    _Column("USER", 8, _user),
    _Column(_OUTCOME, 11, lambda attempt: attempt.verdict.outcome.value),
    _Column(_REASON, 13, _reason),
    _Column("DURATION", 8, lambda attempt: text.duration(attempt.event.duration_ns), right=True, gap=2),
    _Column(_LOCAL, 15, lambda attempt: _address(attempt.event.local_address), steps=_ADDRESS_CELLS, whole=True),
    _Column(_ADDRESS, 15, lambda attempt: _address(attempt.event.target[0]), steps=_ADDRESS_CELLS, whole=True),
    _Column(_PEER, 21, peer),
)
# What a terminal shows at least, 60 cells of it, and what it adds as it becomes wider, step by step.
_LEAST = {"PID": 7, _PROCESS: 10, _OUTCOME: 11, "DURATION": 8, _PEER: 19}
_STEPS = (
    *((_REASON, 13), (_PEER, 21), (_PROCESS, 12), (_TIME, 12), (_PROCESS, 15), (_PEER, 30)),
    *((_ADDRESS, 15), (_LOCAL, 15), ("USER", 8), ("COMM", 15)),
)


class ConsoleOutput:
    """Writes attempts as aligned lines, all of a batch at once.

    ``width`` tells how wide the terminal is at the moment, ``None`` for a pipe or file: then no column is left out, and
    the header is written only once. ``zone`` is the time zone shown, by default the local one.
    """

    def __init__(
        self, lines: Lines, *, colour: bool, width: Callable[[], int | None], zone: tzinfo | None = None
    ) -> None:
        self._lines = lines
        self._colour = colour
        self._width = width
        self._zone = zone
        self._possible = [_Column(_TIME, 12, self._time), *_COLUMNS]
        self._named = False
        self._columns: list[_Column] = []  # none before the header

    def write(self, attempts: Sequence[Attempt]) -> int:
        """Write one line for each attempt, and return how many attempts could not be shown.

        The first call, even with none, writes the header first. Many attempts without an end are one line together.
        """
        header = self._header(attempts)
        pending = [attempt for attempt in attempts if attempt.verdict.outcome is Outcome.PENDING]
        if len(pending) <= _PENDING_LINES:
            pending = []
        single = [attempt for attempt in attempts if attempt.verdict.outcome is not Outcome.PENDING or not pending]
        lines = [*header, *map(self._line, single), *([_together(pending)] if pending else [])]
        written = self._lines.write(lines) if lines else 0
        if written < len(header):
            self._columns = []  # it is due again
        shown = max(0, written - len(header))
        return len(attempts) - min(shown, len(single)) - (len(pending) if shown > len(single) else 0)

    def _header(self, attempts: Sequence[Attempt]) -> list[str]:
        """Fit the columns to the batch and the terminal; return the header where one is due."""
        self._possible = [_grown(column, attempts) for column in self._possible]
        self._named = self._named or any(attempt.named.server is not None for attempt in attempts)
        width = self._width()
        before, self._columns = self._columns, _fitting(self._possible, width, named=self._named)
        # A person is told of a new layout; a program reading a pipe expects one header.
        if before and (width is None or before[:-1] == self._columns[:-1]):
            return []
        titles = self._join([column.title for column in self._columns])
        return [f"{_BOLD}{titles}{_RESET}" if self._colour else titles]

    def _line(self, attempt: Attempt) -> str:
        values = [column.value(attempt) for column in self._columns]
        if attempt.named.server is not None:
            *_, room = self._columns
            values[-1] = values[-1] if room.whole else shortened(values[-1], room.cells)
        if not self._colour:
            return self._join(values)
        if attempt.superseded:
            return f"{_DIM}{self._join(values)}{_RESET}"
        return self._join(values, {_OUTCOME: _COLOURS[attempt.verdict.outcome], _TIME: _DIM})

    def _join(self, values: Sequence[str], colours: Mapping[str, str] | None = None) -> str:
        parts: list[str] = []
        for column, value in zip(self._columns, values, strict=True):
            shown = value if column.whole or column.title == _PEER else text.cut(value, column.cells)
            part = text.pad(shown, column.cells, right=column.right)
            if colours and column.title in colours:
                part = f"{colours[column.title]}{part}{_RESET}"
            parts.append(part + " " * column.gap)
        return "".join(parts).rstrip()

    def _time(self, attempt: Attempt) -> str:
        seconds, nanoseconds = divmod(attempt.event.start_unix_ns, 1_000_000_000)
        local = datetime.fromtimestamp(seconds, UTC).astimezone(self._zone)
        return f"{local:%H:%M:%S}.{nanoseconds // 1_000_000:03}"


def errno_text(number: int) -> str:
    """Return the name of an errno, or the number where it has none (``ECONNREFUSED``, ``999``)."""
    return errno_name(number) or str(number)


def colour_wanted(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether to colour: a terminal that can, and no wish to the contrary (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def terminal_width(stream: TextIO) -> int | None:
    """Return the width of the terminal behind the stream, in cells; ``None`` where there is no terminal."""
    if not stream.isatty():
        return None
    try:
        return get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH


def _grown(column: _Column, attempts: Sequence[Attempt]) -> _Column:
    """Widen a column that grows to the step that the longest value of the batch asks for."""
    if not column.steps or column.cells == column.steps[-1]:
        return column
    longest = max((len(column.value(attempt)) for attempt in attempts), default=0)
    step = next((cells for cells in column.steps if longest <= cells), column.steps[-1])
    return column._replace(cells=max(column.cells, step))


def _fitting(columns: Sequence[_Column], width: int | None, *, named: bool) -> list[_Column]:
    """Return the columns that the width has room for, in their order."""
    if width is None:
        return [column._replace(whole=True) if column.title == _PEER else column for column in columns]
    by_title = {column.title: column for column in columns}
    chosen = dict(_LEAST)
    room = width + 1 - sum(cells + by_title[title].gap for title, cells in chosen.items())
    for title, least in _STEPS:
        if title == _ADDRESS and not named:
            continue  # PEER has it
        cells = max(least, by_title[title].cells) if by_title[title].steps else least
        cost = cells - chosen[title] if title in chosen else cells + by_title[title].gap
        if cost > room:
            break  # or a wider terminal would lose what took its place
        chosen[title] = cells
        room -= cost
    chosen[_PEER] += max(0, room)
    if _REASON not in chosen:
        by_title[_OUTCOME] = by_title[_OUTCOME]._replace(value=_outcome_alone)
    return [by_title[title]._replace(cells=chosen[title]) for title in by_title if title in chosen]


def shortened(named: str, cells: int) -> str:
    """Shorten ``name:port``, or a name alone, to that many cells, by the end of the name."""
    if text.width(named) <= cells:
        return named
    name, colon, port = named.rpartition(":")
    if not port.isdigit():
        name, colon, port = named, "", ""
    return text.cut(name, max(1, cells - len(colon + port))) + colon + port


def _together(pending: Sequence[Attempt]) -> str:
    """Say in one line how many attempts have no end yet, and to where most of them are."""
    places = Counter(map(peer, pending)).most_common()
    parts = [f"{count} to {place}" for place, count in places[:_DESTINATIONS]]
    if rest := places[_DESTINATIONS:]:
        others = "1 other peer" if len(rest) == 1 else f"{len(rest)} other peers"
        parts.append(f"{sum(count for _, count in rest)} to {others}")
    return f"{len(pending)} attempts still {Outcome.PENDING}: {', '.join(parts)}"
