"""Lines on standard output, of which it is known whether they are out.

A buffer would keep what could not be written, and nobody could say whether it ever was. So lines go to a raw stream,
and the caller learns how many of them are there whole.
"""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

_log = logging.getLogger(__name__)

_NOTICE_EVERY_S = 60.0
_FULL_PAUSE_S = 0.02


class RawStream(Protocol):
    """A file without a buffer: what it says is written, is."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of the bytes, and say how many; ``None`` when it is full and does not wait itself."""

    def isatty(self) -> bool:
        """Say whether it is a terminal."""


class Lines:
    """Writes lines to a raw stream; characters that ``encoding`` lacks are escaped.

    A line that was torn off is ended before the next one begins, so that no other line is spoilt. BrokenPipeError
    passes through, because nobody reads any more; so it does when the terminal is gone.
    """

    def __init__(
        self,
        stream: RawStream,
        *,
        encoding: str = "utf-8",
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._encoding = encoding
        self._clock = clock
        self._pause = pause
        self._torn = False
        self._quiet_until = 0.0
        self.problem = ""
        """Why lines could not be written, the last time; empty if all are out."""

    def write(self, lines: Sequence[str]) -> int:
        """Write the lines now, and return how many of them are out, the first ones."""
        before = b"\n" if self._torn else b""
        data = before + "".join(f"{line}\n" for line in lines).encode(self._encoding, "backslashreplace")
        written = 0
        try:
            while written < len(data):
                count = self._stream.write(memoryview(data)[written:])
                if count is None:  # whoever shares it has made it non-blocking
                    self._pause(_FULL_PAUSE_S)
                else:
                    written += count
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._terminal and error.errno == errno.EIO:
                raise BrokenPipeError from error  # the terminal is gone, and with it whoever read
            self._complain(error.strerror or str(error))
        if written:
            self._torn = data[written - 1 : written] != b"\n"
        return data.count(b"\n", len(before), max(written, len(before)))

    def _complain(self, problem: str) -> None:
        self.problem = problem
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + _NOTICE_EVERY_S
            _log.warning("standard output cannot be written (%s); what is missing there is counted as lost", problem)
