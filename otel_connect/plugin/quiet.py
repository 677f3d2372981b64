"""No telemetry about the delivery of telemetry: else every request sent would make the next one.

The sending threads run in a context in which instrumentation is switched off. That covers spans and metrics
of an instrumented HTTP client, gRPC or SQLite; it does not cover plain logging, so what urllib3 says at DEBUG
of every single request is held back, too, but only there.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import partial

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

_Lines = deque[Callable[[], object]]

_ours: ContextVar[bool] = ContextVar("otel_connect_delivery", default=False)
_held: ContextVar[_Lines | None] = ContextVar("otel_connect_lines", default=None)

# A filter counts for the logger it is set on, not for those below it: so all by name.
_CHATTY = tuple(f"urllib3.{name}" for name in ("connectionpool", "connection", "response", "util.retry", "poolmanager"))


def quiet_context() -> Context:
    """Make the context in which the delivery of telemetry runs."""
    context = Context()
    context.run(_enter)
    return context


def delivering() -> bool:
    """Whether the code that asks runs in a quiet context."""
    return _ours.get()


def hold_lines_in(lines: deque[Callable[[], object]]) -> None:
    """Have what is said in this context kept, as calls that say it."""
    _held.set(lines)


def said_later(line: Callable[[], object]) -> bool:
    """Keep a line if what is said in this context is kept."""
    if (lines := _held.get()) is None:
        return False
    lines.append(line)
    return True


def is_said_now(record: logging.LogRecord) -> bool:
    """Filter out of a logger what is kept."""
    return not said_later(partial(_handle, record))


def hush_clients() -> None:
    """Hold back the HTTP client's DEBUG lines about deliveries; may be called any number of times."""
    for name in _CHATTY:
        logging.getLogger(name).addFilter(_about_others)


def _enter() -> None:
    attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - the key's own value
    _ours.set(True)


def _handle(record: logging.LogRecord) -> None:
    logging.getLogger(record.name).handle(record)


def _about_others(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not delivering()
