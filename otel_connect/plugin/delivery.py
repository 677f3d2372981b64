"""The one exporter of a process, shared by the three that the SDK makes, and its way through a fork."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from otel_connect.errors import OtelConnectError
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.forks import PerProcess, keep_forever
from otel_connect.export.ledger import Account, Reason
from otel_connect.export.sender import State
from otel_connect.model import Signal
from otel_connect.plugin.batches import Encoded
from otel_connect.plugin.heir import Heir
from otel_connect.plugin.last_words import say
from otel_connect.plugin.quiet import delivering
from otel_connect.plugin.worker import Worker

_log = logging.getLogger(__name__)

LONGEST_FLUSH_S = 5.0
"""What the end of an application waits for the backend, at the most."""
_NOTICE_EVERY_S = 60.0
_LOOK_EVERY_S = 0.01


class Station(NamedTuple):
    """What a process has open."""

    exporter: OtlpExporter
    heir: Heir | None = None
    tell: Callable[[], None] | None = None
    """Says, once it is closed, what was not delivered."""
    adapt: Callable[[], None] | None = None
    """Goes another way from now on, when another exporter has been given parameters."""
    durable: bool = True
    """False where a batch counts as taken only once the backend has it."""


class _Here:
    """What one process has of a delivery; all but ``users`` is changed by the worker alone."""

    def __init__(self, users: Iterable["Outlet"]) -> None:
        self.worker = Worker()
        self.users = set(users)
        self.station: Station | None = None
        self.failed = False


class Delivery:
    """Opened with its first user, closed with its last; every method may be called from any thread.

    ``opener`` is called at most once in each process: in a child made by fork on its first batch, and with
    ``idle`` so in any. When it cannot open, one line is logged and nothing is taken.

    A child leaves everything to its parent: its threads do not exist there, and its locks may be held by them.
    The calling thread takes no lock, as a signal handler may raise in it at any moment.
    """

    def __init__(self, opener: Callable[[], Station], *, idle: bool = False) -> None:
        self._opener = opener
        self._idle = idle
        self._here = PerProcess(_Here(()), lambda parent: _Here(parent.users), keep_forever)
        self._noticed: dict[Signal, float] = {}

    def acquire(self, user: "Outlet") -> None:
        """Start using it: what an earlier process left is sent from now on."""
        here = self._here.get()
        try:
            here.users.add(user)
            if not self._idle or here.station is not None:
                here.worker.run(partial(self._begin, here), None)
        except BaseException:  # of a signal handler: then nobody has the user, to end its use
            here.users.discard(user)
            raise

    def release(self, user: "Outlet", timeout_s: float) -> None:
        """Stop using it; the last user sends what waits, until the time is up."""
        here = self._here.get()
        here.users.discard(user)
        if here.station is not None or here.failed:
            here.worker.run(partial(_end, here, min(timeout_s, LONGEST_FLUSH_S)), None)

    def take(self, encode: Callable[[], Encoded]) -> bool:
        """Commit a batch; false when nothing of it could be taken."""
        if delivering():
            return False  # a log record about the delivery itself, from a processor that does not wait
        here = self._here.get()
        taken = here.worker.run(partial(self._take, here, encode), _NOT_TAKEN)
        return taken.kept if taken.awaited is None else _await_delivery(*taken.awaited)

    def flush(self, signal: Signal, timeout_s: float) -> bool:
        """Wait until everything of a signal that was taken so far has left; false when the time is up first."""
        deadline = time.monotonic() + timeout_s
        while (station := self._here.get().station) is not None:
            if not station.exporter.accounts()[signal].queued:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_EVERY_S)
        return False

    def accounts(self) -> Mapping[Signal, Account]:
        """Say where the records of each signal are; empty when nothing is open."""
        station = self._here.get().station
        return {} if station is None else station.exporter.accounts()

    def after_fork_in_child(self) -> None:
        """Leave everything to the parent now, also what would be collected at the end of the child."""
        self._here.get()

    def _begin(self, here: _Here) -> None:
        before = here.station
        if not self._idle:
            self._open(here)
        if before is not None and before.adapt is not None:
            before.adapt()

    def _take(self, here: _Here, encode: Callable[[], Encoded]) -> "_Taken":
        encoded = encode()  # the SDK's encoders would take what a signal handler raises for a fault of the record
        station = self._open(here)
        if station is None:
            return _NOT_TAKEN
        exporter = station.exporter
        request, left_out = encoded.request, encoded.left_out
        if left_out:
            exporter.ledger.accept(request.signal, left_out)
            exporter.ledger.drop(request.signal, Reason.ENCODE_ERROR, left_out)
            self._notice(request.signal, left_out, encoded.complaint)
        kept = exporter.put(request) if request.records else 0
        if kept and not station.durable:
            return _Taken(kept=True, awaited=(exporter, request.signal))
        return _Taken(bool(kept) or not (request.records or left_out))

    def _open(self, here: _Here) -> Station | None:
        if here.station is None and here.users and not here.failed:
            try:
                here.station = self._opener()
            except (OtelConnectError, OSError, RuntimeError) as error:
                here.failed = True
                say(f"nothing can be exported: {error}")
        return here.station

    def _notice(self, signal: Signal, records: int, complaint: str) -> None:
        now = time.monotonic()
        if now - self._noticed.get(signal, -_NOTICE_EVERY_S) >= _NOTICE_EVERY_S:
            self._noticed[signal] = now
            _log.warning("%s: %d records could not be encoded (%s) and are left out", signal, records, complaint)


class _Taken(NamedTuple):
    """What became of a batch."""

    kept: bool
    """Whether any of it waits, or there was nothing in it."""
    awaited: tuple[OtlpExporter, Signal] | None = None
    """Where it counts only once the backend has it."""


_NOT_TAKEN = _Taken(kept=False)


def _await_delivery(exporter: OtlpExporter, signal: Signal) -> bool:
    """Wait until nothing of a signal waits any more, as long as the backend takes requests."""
    deadline = time.monotonic() + LONGEST_FLUSH_S
    while exporter.accounts()[signal].queued:
        if time.monotonic() >= deadline or exporter.health()[signal].state is not State.DELIVERING:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _end(here: _Here, timeout_s: float) -> None:
    """Close what is open, unless somebody uses it."""
    if here.users:
        return
    try:
        if here.station is not None:
            _close(here.station, timeout_s)
    finally:
        here.station, here.failed = None, False


def _close(station: Station, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    if station.heir is not None:
        station.heir.close(timeout_s)
    station.exporter.close(max(deadline - time.monotonic(), 0.0))
    if station.tell is not None:
        station.tell()


class Outlet:
    """One exporter's share of a delivery."""

    def __init__(self, signal: Signal, delivery: Delivery) -> None:
        self._signal = signal
        self._delivery = delivery
        self._open = True
        delivery.acquire(self)

    def take(self, encode: Callable[[], Encoded]) -> bool:
        """Commit a batch; false after ``shutdown``, or when nothing of it could be taken."""
        return self._open and self._delivery.take(encode)

    def shutdown(self, timeout_s: float) -> None:
        """Take no more; may be called again, as after a signal handler has raised in the first call."""
        self._open = False
        self._delivery.release(self, timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait for the answers of the backend; false when they did not all come in time."""
        return self._open and self._delivery.flush(self._signal, timeout_s)
