"""OTLP as JSON lines on standard output: a sink that accounts for every record. Joins encode with export and serve."""

from collections.abc import Mapping

from otel_connect.config import ExportConfig
from otel_connect.encode.json_lines import json_line
from otel_connect.export.delay import Delays
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.export.sender import Health
from otel_connect.export.spool import SpoolState
from otel_connect.model import Request, Signal
from otel_connect.serve.lines import Lines


class JsonLines:
    """A sink that writes each request as one line of OTLP JSON; what cannot be written is lost and counted."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._ledger = Ledger()

    def put(self, request: Request) -> None:
        """Write the request now."""
        self._ledger.accept(request.signal, request.records)
        if self._lines.write([json_line(request)]):
            self._ledger.export(request.signal, request.records)
        else:
            self._ledger.drop(request.signal, Reason.OUTPUT_IO, request.records)

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
