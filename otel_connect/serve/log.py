"""The agent's own log, on standard error: a line of text or a JSON object for each message.

Messages hold text that others chose: answers of backends, names of files and hosts. Whatever a terminal obeys
is escaped, and a message is one line. Where standard error cannot be written, messages are lost and nothing else
happens.
"""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType

from otel_connect.serve.text import safe

NAME = "otel_connect"
"""The logger of the house; all others are foreign, and only heard from warnings on."""


def start_log(form: str) -> None:
    """Write messages as ``text`` or ``json`` from now on; may be called again to change that."""
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(NAME).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_died
    sys.unraisablehook = _ignored


class TextFormatter(logging.Formatter):
    """``otel-connect: what happened``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line for a person."""
        foreign = "" if record.name.startswith(NAME) else f"{record.name}: "
        return f"otel-connect: {safe(foreign + record.getMessage())}"


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …}``; pure ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one object for a machine."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(fields)


class _Handler(logging.Handler):
    """Standard error as it is at the moment of writing."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if sys.stderr is not None:
                sys.stderr.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):  # full, closed, or a reader that has gone
            return


def _thread_died(args: threading.ExceptHookArgs) -> None:
    _fault(f"{args.thread.name if args.thread else 'a thread'} ended by a fault", args.exc_value, args.exc_traceback)


def _ignored(args: "sys.UnraisableHookArgs") -> None:
    _fault("a fault was ignored", args.exc_value, args.exc_traceback)


def _fault(what: str, error: BaseException | None, trace: TracebackType | None) -> None:
    logging.getLogger(NAME).error("%s: %r%s; please report this", what, error, _at(trace))


def _at(trace: TracebackType | None) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
