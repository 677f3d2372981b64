"""What becomes of the batches of a request, by the answer to it.

OTLP requests are lists, so that several batches, joined byte for byte, are one. A batch leaves the spool in one of
three ways: delivered, dropped for a reason, or replaced by its halves. What a backend refuses as a whole, too large
or never to be taken, is sent again batch by batch: one bad batch costs no neighbour. Every loss is said.
"""

import logging
from collections.abc import Callable, Sequence

from otel_connect.export.answer import Action, Answer
from otel_connect.export.dead_letters import DeadLetters
from otel_connect.export.delay import DelayHistogram
from otel_connect.export.ledger import Reason
from otel_connect.export.lines import ANY_HANDLER
from otel_connect.export.split import halve
from otel_connect.export.spool import Spool
from otel_connect.export.store import Batch
from otel_connect.model import Signal

_log = logging.getLogger(__name__)

_NOTICE_EVERY_S = 60.0
_GROW_AFTER = 64


class Fates:
    """Leases the batches of one signal, and settles them; ``clock`` gives monotonic seconds.

    Several threads may call it at once: the spool has its lock, and the little that is remembered beside it, which
    size fits and what was said, may miss a step.
    """

    def __init__(
        self,
        signal: Signal,
        spool: Spool,
        delays: DelayHistogram,
        dead_letters: DeadLetters | None,
        *,
        request_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """Make requests of several batches up to so many bytes."""
        self._signal = signal
        self._spool = spool
        self._delays = delays
        self._dead_letters = dead_letters
        self._clock = clock
        self._fitting = _Fitting(request_bytes)
        self._noticed: dict[str, float] = {}

    def limit(self, request_bytes: int) -> None:
        """Make requests up to so many bytes from now on, whatever an earlier backend had to say to that."""
        self._fitting = _Fitting(request_bytes)

    def lease(self) -> Sequence[Batch]:
        """Wait for the batches of the next request; none when the signal is finished and nothing is left of it."""
        return self._spool.lease(self._signal, self._fitting.now_bytes)

    def drop_expired(self, batches: Sequence[Batch], age_s: float, message: str) -> Sequence[Batch]:
        """Drop those that have waited so long, and return the others."""
        ages = {batch.head.key: self._spool.age_s(batch) for batch in batches}
        expired = [batch for batch in batches if ages[batch.head.key] >= age_s]
        if expired:
            self._drop(expired, Reason.EXPIRED, message)
        return [batch for batch in batches if ages[batch.head.key] < age_s]

    def settle(self, batches: Sequence[Batch], answer: Answer, place: str) -> None:
        """Do what an answer asks for that says more than "later"; ``place`` is where it came from."""
        if answer.action is Action.DELIVERED:
            self._delivered(batches, answer, place)
        elif len(batches) > 1:
            if answer.action is Action.SPLIT:
                self._fitting.too_large(sum(len(batch.body) for batch in batches))
            self._spool.give_back(batches, alone=True)
        elif answer.action is Action.REJECTED:
            self._reject(batches[0], answer)
        elif parts := halve(batches[0].request):
            self._spool.replace(batches[0], parts)
        else:
            self._drop(batches, Reason.TOO_LARGE, answer.message)

    def say_lost(self, reason: Reason, records: int, message: str) -> None:
        """Say that records of this signal were dropped, and why."""
        text = "%s: dropped %d records (%s): %s"
        self._notice(reason, text, self._signal, records, reason, message or "no reason given")

    def _delivered(self, batches: Sequence[Batch], answer: Answer, place: str) -> None:
        delays = [(self._spool.age_s(batch), batch.head.records) for batch in batches]
        if not self._spool.delivered(batches, answer.rejected):
            return
        self._fitting.delivered()
        for delay_s, records in delays:
            self._delays.observe(self._signal, delay_s, records)
        if rejected := min(answer.rejected, sum(batch.head.records for batch in batches)):
            self.say_lost(Reason.REJECTED_PARTIAL, rejected, answer.message)
        elif answer.message:
            self._notice("warning", "%s: %s warns: %s", self._signal, place, answer.message)

    def _reject(self, batch: Batch, answer: Answer) -> None:
        letters = self._dead_letters
        if letters is not None and (problem := letters.write(batch.request, answer.message)) is not None:
            self._notice("letters", "%s: a refused request is not kept as a dead letter: %s", self._signal, problem)
        self._drop([batch], Reason.REJECTED_PERMANENT, answer.message)

    def _drop(self, batches: Sequence[Batch], reason: Reason, message: str) -> None:
        if self._spool.drop(batches, reason):
            self.say_lost(reason, sum(batch.head.records for batch in batches), message)

    def _notice(self, kind: str, text: str, *arguments: object) -> None:
        """Log at most once a minute for each kind; the ledger has the numbers."""
        now = self._clock()
        if now - self._noticed.get(kind, -_NOTICE_EVERY_S) >= _NOTICE_EVERY_S:
            self._noticed[kind] = now
            with ANY_HANDLER:
                _log.warning(text, *arguments)


class _Fitting:
    """How large a request of several batches may be; learns from a backend that has a limit of its own."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._since = 0
        self.now_bytes = most_bytes

    def too_large(self, size_bytes: int) -> None:
        """Make no request of this size again, for a while."""
        self.now_bytes, self._since = max(size_bytes // 2, 1), 0

    def delivered(self) -> None:
        """Try larger ones again after a number of requests."""
        self._since += 1
        if self._since >= _GROW_AFTER and self.now_bytes < self._most_bytes:
            self.now_bytes, self._since = min(self.now_bytes * 2, self._most_bytes), 0
