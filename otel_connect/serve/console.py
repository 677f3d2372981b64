"""The live view: one aligned line for each attempt, for a terminal or a pipe.

The columns keep the order of BCC's tcpv4connect (PID, COMM, SADDR, DADDR, DPORT) and add what it cannot
say: when, who else, what became of it and how long that took. The addresses come last, because they alone
vary much in length: 15 cells do for IPv4 and short IPv6 addresses, and when a longer one turns up the column
grows, for good. A terminal too narrow for everything loses the least telling columns; an address is never
cut, so at worst a long one moves the port behind it. The name of the server comes last of all, in a column that
appears with the first name and takes the room that is left.

Only SGR codes of this module reach the terminal; every name goes through :func:`text.safe`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from os import get_terminal_size
from typing import NamedTuple, TextIO

from otel_connect.errnos import errno_name
from otel_connect.model import Attempt, Outcome
from otel_connect.serve import text

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
_NAME_CELLS = (15,)


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


def _name(attempt: Attempt) -> str:
    server = attempt.named.server
    return "" if server is None else text.safe(server.name)


def _port(attempt: Attempt) -> str:
    _, port = attempt.event.target
    return text.ABSENT if port is None else str(port)


_TIME = "TIME"  # its value depends on the time zone, so it is made where that is known
_OUTCOME = "OUTCOME"
_REASON = "ERRNO"
_LOCAL = "LOCAL"
_PEER = "PEER"
_NAME = "NAME"
_COLUMNS = (
    _Column("PID", 7, lambda attempt: str(attempt.event.pid), right=True),
    _Column("PROCESS", 15, _process),
    _Column("COMM", 15, lambda attempt: text.safe(attempt.event.comm)),
    _Column("USER", 8, _user),
    _Column(_OUTCOME, 11, lambda attempt: attempt.verdict.outcome.value),
    _Column(_REASON, 13, _reason),
    _Column("DURATION", 8, lambda attempt: text.duration(attempt.event.duration_ns), right=True, gap=2),
    _Column(_LOCAL, 15, lambda attempt: _address(attempt.event.local_address), steps=_ADDRESS_CELLS, whole=True),
    _Column(_PEER, 15, lambda attempt: _address(attempt.event.target[0]), steps=_ADDRESS_CELLS, whole=True),
    _Column("PORT", 5, _port),
    _Column(_NAME, 0, _name, steps=_NAME_CELLS),
)
_INDISPENSABLE = frozenset({"PID", "PROCESS", _OUTCOME, "DURATION", _PEER, "PORT"})
_BY_USE = (_TIME, _NAME, _REASON, _PEER, _LOCAL, "USER", "COMM")  # the peer: its growth


class ConsoleOutput:
    """Writes attempts as aligned lines to a text stream, flushed once per batch.

    ``width`` is the terminal's, ``None`` for a pipe or file: then no column is left out, and the header is
    written only once. ``zone`` is the time zone shown, by default the local one.
    A closed pipe is the caller's to handle: BrokenPipeError passes through.
    """

    def __init__(self, stream: TextIO, *, colour: bool, width: int | None, zone: tzinfo | None = None) -> None:
        self._stream = stream
        self._colour = colour
        self._width = width
        self._zone = zone
        self._possible = [_Column(_TIME, 12, self._time), *_COLUMNS]
        self._columns: list[_Column] = []  # none before the header

    def write(self, attempts: Sequence[Attempt]) -> None:
        """Write one line for each attempt; the first call, even with none, writes the header first."""
        lines = [*self._header(attempts), *map(self._line, attempts)]
        if lines:
            self._stream.write(self._encodable("\n".join(lines) + "\n"))
            self._stream.flush()

    def _header(self, attempts: Sequence[Attempt]) -> list[str]:
        """Fit the columns to the batch; return the header where one is due."""
        possible = [_grown(column, attempts) for column in self._possible]
        if self._columns and possible == self._possible:
            return []
        before, self._columns = self._columns, _fitting(possible, self._width)
        self._possible = possible
        # A person is told of a new layout; a program reading a pipe expects one header.
        if before and (self._width is None or before == self._columns):
            return []
        titles = self._join([column.title for column in self._columns])
        return [f"{_BOLD}{titles}{_RESET}" if self._colour else titles]

    def _line(self, attempt: Attempt) -> str:
        values = [column.value(attempt) for column in self._columns]
        if not self._colour:
            return self._join(values)
        if attempt.superseded:
            return f"{_DIM}{self._join(values)}{_RESET}"
        return self._join(values, {_OUTCOME: _COLOURS[attempt.verdict.outcome], _TIME: _DIM})

    def _join(self, values: Sequence[str], colours: Mapping[str, str] | None = None) -> str:
        parts: list[str] = []
        for column, value in zip(self._columns, values, strict=True):
            shown = value if column.whole else text.cut(value, column.cells)
            part = text.pad(shown, column.cells, right=column.right)
            if colours and column.title in colours:
                part = f"{colours[column.title]}{part}{_RESET}"
            parts.append(part + " " * column.gap)
        return "".join(parts).rstrip()

    def _time(self, attempt: Attempt) -> str:
        seconds, nanoseconds = divmod(attempt.event.start_unix_ns, 1_000_000_000)
        local = datetime.fromtimestamp(seconds, UTC).astimezone(self._zone)
        return f"{local:%H:%M:%S}.{nanoseconds // 1_000_000:03}"

    def _encodable(self, lines: str) -> str:
        """Escape what the stream's encoding has no bytes for, rather than fail in the middle of a line."""
        encoding = getattr(self._stream, "encoding", None)
        return lines if encoding is None else lines.encode(encoding, "backslashreplace").decode(encoding)


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
        return get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None


def _grown(column: _Column, attempts: Sequence[Attempt]) -> _Column:
    """Widen a column that grows to the step that the longest value of the batch asks for."""
    if not column.steps or column.cells == column.steps[-1]:
        return column
    longest = max((len(column.value(attempt)) for attempt in attempts), default=0)
    step = next((cells for cells in column.steps if longest <= cells), column.steps[-1]) if longest else 0
    return column._replace(cells=max(column.cells, step))


def _fitting(columns: Sequence[_Column], width: int | None) -> list[_Column]:
    """Return the columns that the width has room for, in their order."""
    if width is None:
        return [column._replace(whole=True) if column.title == _NAME else column for column in columns]
    by_title = {column.title: column for column in columns if column.cells}
    chosen = {title: by_title[title] for title in _INDISPENSABLE}
    chosen[_PEER] = chosen[_PEER]._replace(cells=_ADDRESS_CELLS[0])
    room = width + 1 - sum(map(_span, chosen.values()))
    for title in filter(by_title.__contains__, _BY_USE):
        cost = _span(by_title[title]) - (_span(chosen[title]) if title in chosen else 0)
        if cost <= room:
            chosen[title] = by_title[title]
            room -= cost
    if _NAME in chosen:
        chosen[_NAME] = chosen[_NAME]._replace(cells=chosen[_NAME].cells + room)
    if _REASON not in chosen:
        chosen[_OUTCOME] = chosen[_OUTCOME]._replace(value=_outcome_alone)
    return [chosen[column.title] for column in columns if column.title in chosen]


def _span(column: _Column) -> int:
    return column.cells + column.gap
