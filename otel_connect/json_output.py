"""OTLP as JSON lines on standard output: a sink that accounts for every record. Joins encode with export."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from otel_connect.config import ExportConfig
from otel_connect.encode.json_lines import json_line
from otel_connect.export.delay import Delays
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.export.sender import Health
from otel_connect.export.spool import SpoolState
from otel_connect.model import Request, Signal

_log = logging.getLogger(__name__)

_NOTICE_EVERY_S = 60.0
_FULL_PAUSE_S = 0.02


class RawStream(Protocol):
    """A file without a buffer: what it says is written, is."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of the bytes, and say how many; ``None`` when it is full and does not wait itself."""


class JsonLines:
    """A sink that writes each request as one line of OTLP JSON to a raw stream, such as ``sys.stdout.buffer.raw``.

    A buffer would keep what could not be written, and nobody could say whether it ever was. What cannot be
    written is lost and counted; BrokenPipeError passes through, because nobody reads any more.
    """

    def __init__(
        self,
        stream: RawStream,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream = stream
        self._pause = pause
        self._clock = clock
        self._ledger = Ledger()
        self._torn = False
        self._quiet_until = 0.0

    def put(self, request: Request) -> None:
        """Write the request now."""
        self._ledger.accept(request.signal, request.records)
        try:
            # What was torn off before ends here, so that only that line is none.
            self._write((b"\n" if self._torn else b"") + json_line(request).encode() + b"\n")
        except BrokenPipeError:
            raise
        except OSError as error:
            self._ledger.drop(request.signal, Reason.OUTPUT_IO, request.records)
            if self._clock() >= self._quiet_until:
                self._quiet_until = self._clock() + _NOTICE_EVERY_S
                _log.warning("standard output cannot be written (%s); records are lost", error.strerror)
        else:
            self._ledger.export(request.signal, request.records)

    def accounts(self) -> Mapping[Signal, Account]:
        """Count what was written as exported."""
        return self._ledger.snapshot()

    def health(self) -> Mapping[Signal, Health]:
        """Nothing is delivered from here."""
        return {}

    def spool_state(self) -> SpoolState | None:
        """Nothing waits here."""
        return None

    def delays(self) -> Mapping[Signal, Delays]:
        """Nothing waits here."""
        return {}

    def reconfigure(self, config: ExportConfig) -> None:
        """Nothing of it can be configured."""

    def close(self, timeout_s: float) -> None:
        """Nothing waits here."""

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            written = self._stream.write(rest)
            if written is None:  # whoever shares it has made it non-blocking
                self._pause(_FULL_PAUSE_S)
                continue
            self._torn = True
            rest = rest[written:]
        self._torn = False
