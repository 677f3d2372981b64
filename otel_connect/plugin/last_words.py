"""What an application's operator reads about records that were not delivered when its process ends.

Many applications have no logging configured, or only one that goes where the records do not get to. What is
important enough is then written to standard error, so that it is not lost with them.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial

from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.ledger import Account
from otel_connect.model import Signal
from otel_connect.plugin.quiet import said_later

_NAME = "otel_connect"
_log = logging.getLogger(__name__)


def last_words(accounts: Mapping[Signal, Account], place: str, reasons: Mapping[Signal, str]) -> str:
    """Say how many records of each signal wait or were dropped, where they wait, why; empty when there are none.

    ``place`` is the directory they wait in, empty for memory; ``reasons`` are what deliveries last complained of.
    """
    concerned = {signal: account for signal, account in accounts.items() if account.queued or account.dropped}
    if not concerned:
        return ""
    counts = ", ".join(f"{signal} {' and '.join(_counts(account))}" for signal, account in concerned.items())
    text = f"not delivered when the application ended: {counts}"
    if place and any(account.queued for account in concerned.values()):
        text += f"; what waits is in {place}, and the next process of the application sends it, within 24 hours"
    reason = next((reasons[signal] for signal in concerned if reasons.get(signal)), "")
    return f"{text} (last trouble: {reason})" if reason else text


def tell(exporter: OtlpExporter, place: str) -> None:
    """Say what an exporter that was closed has not delivered, if there is any; its spool is in ``place``."""
    reasons = {signal: health.message for signal, health in exporter.health().items()}
    if line := last_words(exporter.accounts(), place, reasons):
        say(line)


def say(line: str) -> None:
    """Log a warning; write it to standard error when no handler of the application would show it."""
    if said_later(partial(say, line)):
        return
    if _is_heard():
        _log.warning("%s", line)
    elif not _is_silenced():
        with suppress(OSError, ValueError, AttributeError):  # closed, or None: then nobody reads it
            print(f"otel-connect: {line}", file=sys.stderr, flush=True)


def _counts(account: Account) -> Iterator[str]:
    if account.queued:
        yield f"{account.queued} waiting"
    if dropped := sum(account.dropped.values()):
        yield f"{dropped} dropped"


def _is_heard() -> bool:
    """Whether a handler takes a warning of ours that does not carry it to where the records cannot go."""
    return _log.isEnabledFor(logging.WARNING) and any(
        handler.level <= logging.WARNING
        and not isinstance(handler, logging.NullHandler)
        and not type(handler).__module__.startswith("opentelemetry.")
        for handler in _handlers()
    )


def _is_silenced() -> bool:
    """Whether somebody has said that nothing of ours is to be shown; a level of the root is about all others."""
    return any(
        logger.disabled or logger.level > logging.WARNING or not logger.propagate
        for logger in (logging.getLogger(_NAME), _log)
    )


def _handlers() -> Iterator[logging.Handler]:
    logger: logging.Logger | None = _log
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
