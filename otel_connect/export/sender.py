"""One signal's way out: a thread that takes the oldest request, sends it, and acts on the answer.

A request leaves the queue in one of three ways: delivered, dropped for a reason, or replaced by its
halves. Until then it is tried again, with growing pauses and without an end but its age: records that
wait for a day are dropped as expired. Only whoever takes an entry out of the queue counts it, so that a
late answer after ``close`` cannot count anything twice.
"""

import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from otel_connect.export.answer import Action, Answer
from otel_connect.export.ledger import Ledger, Reason
from otel_connect.export.pending import Entry, Pending
from otel_connect.export.split import halve
from otel_connect.export.transport import Transport
from otel_connect.model import Request, Signal

_log = logging.getLogger(__name__)

_NOTICE_EVERY_S = 60.0


class Backoff(NamedTuple):
    """How long to wait between tries, all in seconds."""

    first_s: float = 1.0
    longest_s: float = 30.0
    slow_s: float = 30.0
    """The pause while only an operator can help."""
    expire_s: float = 24 * 3600.0
    """The age at which a record is given up."""

    def pause_s(self, failures: int, random: float) -> float:
        """Exponential with full jitter; ``failures`` in a row from 1 on, ``random`` in [0, 1)."""
        # The exponent is bounded because a float is.
        return random * min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def slow_pause_s(self, random: float) -> float:
        """Between half of the slow pause and all of it, so that a fleet does not knock in step."""
        return self.slow_s * (1 + random) / 2


DEFAULT_BACKOFF = Backoff()


class State(StrEnum):
    """How delivery is going."""

    DELIVERING = "delivering"
    """The backend takes requests, or has not been tried yet."""
    RETRYING = "retrying"
    """A trouble that passes."""
    UNHEALTHY = "unhealthy"
    """Credentials, certificates or the address are wrong: an operator is needed."""


class Health(NamedTuple):
    """How delivery is going, and since when."""

    state: State
    message: str
    """What the backend, or the way to it, last complained of; empty if it never did."""
    since_s: float
    """When the state began, in the seconds of the clock that was passed in (monotonic)."""


class Sender:
    """Delivers one signal.

    ``place`` names the endpoint in log lines; ``clock`` gives monotonic seconds, ``random`` numbers in
    [0, 1). The thread starts at once and is a daemon: a hanging backend never keeps the process alive.
    """

    def __init__(
        self,
        signal: Signal,
        transport: Transport,
        pending: Pending,
        ledger: Ledger,
        *,
        place: str,
        backoff: Backoff,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._signal = signal
        self._transport = transport
        self._pending = pending
        self._ledger = ledger
        self._place = place
        self._backoff = backoff
        self._clock = clock
        self._random = random
        self._health = Health(State.DELIVERING, "", clock())
        self._failures = 0
        self._noticed: dict[str, float] = {}
        self._stopping = threading.Condition()
        self._deadline: float | None = None
        self._hurried = False
        self._thread = threading.Thread(target=self._run, name=f"export-{signal}", daemon=True)
        self._thread.start()

    @property
    def health(self) -> Health:
        """How delivery is going."""
        if not self._thread.is_alive() and self._deadline is None:
            return Health(State.UNHEALTHY, "the sending thread ended by a fault of the agent", self._health.since_s)
        return self._health

    def put(self, request: Request) -> None:
        """Queue a request; counts what has to go for it. After ``close`` that is the request itself."""
        self._ledger.accept(self._signal, request.records)
        for dropped in self._pending.put(request):
            reason = Reason.SHUTDOWN if self._pending.closed else Reason.QUEUE_FULL
            self._lose(reason, dropped.records, "the backend does not keep up")

    def finish(self, deadline: float) -> None:
        """Begin to stop: a pause is cut short, and no try begins that could not begin before the deadline."""
        with self._stopping:
            self._deadline = deadline
            self._stopping.notify_all()
        self._pending.finish()

    def close(self, deadline: float) -> None:
        """Flush until the deadline of the clock, then count what is left as lost by shutdown."""
        self.finish(deadline)
        self._thread.join(max(deadline - self._clock(), 0.0))
        left = self._pending.close()
        self._lose(Reason.SHUTDOWN, sum(request.records for request in left), "the agent stops")
        self._transport.close()

    def _run(self) -> None:
        while (entry := self._pending.lease()) is not None:
            if self._clock() - entry.since >= self._backoff.expire_s:
                self._drop(entry, Reason.EXPIRED, self._health.message)
                continue
            answer = self._transport.send(entry.request.body)
            if self._pending.closed or not self._act(entry, answer):
                return

    def _act(self, entry: Entry, answer: Answer) -> bool:
        """Do what the answer asks for; false when there is no time left for another try."""
        match answer.action:
            case Action.RETRY | Action.RETRY_UNHEALTHY:
                self._pending.release()
                return self._back_off(answer)
            case Action.DELIVERED:
                self._delivered(entry, answer)
            case Action.SPLIT:
                if parts := halve(entry.request):
                    self._pending.replace(entry.key, parts)
                else:
                    self._drop(entry, Reason.TOO_LARGE, answer.message)
            case Action.REJECTED:
                self._drop(entry, Reason.REJECTED_PERMANENT, answer.message)
        self._failures = 0
        self._enter(State.DELIVERING, answer.message)
        return True

    def _delivered(self, entry: Entry, answer: Answer) -> None:
        if not self._pending.settle(entry.key):
            return
        rejected = min(answer.rejected, entry.request.records)
        self._ledger.export(self._signal, entry.request.records - rejected)
        self._lose(Reason.REJECTED_PARTIAL, rejected, answer.message)
        if answer.message and not rejected:
            self._notice("warning", "%s: %s warns: %s", self._signal, self._place, answer.message)

    def _drop(self, entry: Entry, reason: Reason, message: str) -> None:
        if self._pending.settle(entry.key):
            self._lose(reason, entry.request.records, message)

    def _lose(self, reason: Reason, records: int, message: str) -> None:
        if records:
            self._ledger.drop(self._signal, reason, records)
            self._notice(
                reason, "%s: dropped %d records (%s): %s", self._signal, records, reason, message or "no reason given"
            )

    def _notice(self, kind: str, text: str, *arguments: object) -> None:
        """Log at most once a minute for each kind; the ledger has the numbers."""
        now = self._clock()
        if now - self._noticed.get(kind, -_NOTICE_EVERY_S) >= _NOTICE_EVERY_S:
            self._noticed[kind] = now
            _log.warning(text, *arguments)

    def _back_off(self, answer: Answer) -> bool:
        self._failures += 1
        if answer.action is Action.RETRY_UNHEALTHY:
            self._enter(State.UNHEALTHY, answer.message)
            return self._pause(self._backoff.slow_pause_s(self._random()))
        self._enter(State.RETRYING, answer.message)
        pause = self._backoff.pause_s(self._failures, self._random())
        if answer.retry_after_s is None:
            return self._pause(pause)
        return self._pause(max(pause, answer.retry_after_s), asked_for=True)

    def _pause(self, seconds: float, *, asked_for: bool = False) -> bool:
        """Wait; false when the next try would come after the deadline of ``close``.

        The first pause that ``close`` meets is cut short for one last try, unless the backend asked for it.
        """
        until = self._clock() + seconds
        with self._stopping:
            if self._left_s() is None:
                self._stopping.wait(seconds)
            if (left := self._left_s()) is None:
                return True
            seconds = max(until - self._clock(), 0.0)
            if not (self._hurried or asked_for):
                self._hurried, seconds = True, 0.0
            if seconds >= left:
                return False
            self._stopping.wait(seconds)
            return True

    def _left_s(self) -> float | None:
        """Seconds until the deadline of ``close``; ``None`` while nobody wants to stop."""
        return None if self._deadline is None else self._deadline - self._clock()

    def _enter(self, state: State, message: str) -> None:
        """Remember the state; log its change in one line."""
        before = self._health
        now = self._clock()
        since = before.since_s if state is before.state else now
        self._health = Health(state, message or before.message, since)
        if state is before.state:
            return
        if state is State.DELIVERING:
            _log.warning("%s: %s takes requests again after %.0f s", self._signal, self._place, now - before.since_s)
        else:
            _log.warning("%s: %s does not take requests (%s): %s", self._signal, self._place, state, message)
