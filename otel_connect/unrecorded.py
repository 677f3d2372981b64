"""Attempts without a record of their own: the kernel has only tallied them, or the operator wants them left out.

Of a tally the kernel says what its attempts had in common; of what is left out here the record is not made. The metrics
have both all the same, unless the operator wants that otherwise, and for whose limit there are tallies is told.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from otel_connect.capture.outcome import decide
from otel_connect.capture.throttles import Throttles
from otel_connect.encode.throttles import throttle_line
from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.filters import NO_FILTERS, Filters
from otel_connect.model import Attempt, Detail, KernelCounters, Named, Tallied, Tally, ThrottleEvent, Withheld
from otel_connect.serve.text import safe

_log = logging.getLogger(__name__)


class Tallies(Protocol):
    """Where tallies come from: the agent's source."""

    def take_tallies(self) -> Sequence[Tally]:
        """Take the attempts that got no record of their own."""

    def counters(self) -> KernelCounters:
        """Read what the probes have counted."""


class Counting(Protocol):
    """Where they are counted: the agent's output."""

    def count(self, tallied: Sequence[Tallied]) -> None:
        """Count attempts that have no record of their own."""

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        """Tell that attempts began to be withheld, or are no more."""


class Unrecorded:
    """Counts what has no record, and says what no metric has either. Names are the enricher's of the moment."""

    def __init__(self, source: Tallies, output: Counting) -> None:
        self._source = source
        self._output = output
        self._throttles = Throttles()
        self._untallied = 0
        self.filters: Filters = NO_FILTERS
        """What the operator wants left out."""
        self.filtered = 0
        """Attempts that were left out here, not by the probes."""

    def sift(self, attempts: list[Attempt], enricher: Enricher) -> list[Attempt]:
        """Return those that are wanted, and count the others."""
        if not self.filters:
            return attempts
        wanted: list[Attempt] = []
        others: list[Attempt] = []
        for attempt in attempts:
            left_out = self.filters.leave_out(attempt.event, attempt.process, enricher.surroundings)
            (others if left_out else wanted).append(attempt)
        self.filtered += len(others)
        if others and self.filters.counted:
            self._output.count([_counted(attempt, enricher) for attempt in others])
        return wanted

    def count(self, tallies: Sequence[Tally], enricher: Enricher, now: float) -> None:
        """Count what has been withheld since the last time, and see whose limits that were; ``now`` in seconds."""
        tallied = []
        told = []
        for tally in tallies:
            named = None if tally.detail is Detail.WITHOUT_PROCESS else enricher.name(tally.event)
            told.append((tally, None if named is None else named.process))
            if not self.filters.counted and self._unwanted(tally, named, enricher):
                continue
            verdict = decide(tally.event)
            event = enricher.conceal(tally.event)
            tallied.append(Tallied(event, verdict, named, tally.detail, tally.attempts, tally.duration_ns))
        if tallied:
            self._output.count(tallied)
        self._say_uncounted()
        self._tell(self._throttles.update(told, now))

    def end(self) -> None:
        """Nothing is withheld any more: tell that."""
        self._tell(self._throttles.end())

    def at_work(self) -> tuple[ThrottleEvent, ...]:
        """Return the starts of the limits that withhold attempts now, with what they have withheld."""
        return self._throttles.at_work()

    def _unwanted(self, tally: Tally, named: Named | None, enricher: Enricher) -> bool:
        """Say whether what was tallied would be left out; of what is not known whole, that is not known either."""
        if tally.withheld is Withheld.FILTERED:
            return True
        if named is None or tally.detail is not Detail.WHOLE:
            return False
        return self.filters.leave_out(tally.event, named.process, enricher.surroundings)

    def _say_uncounted(self) -> None:
        untallied = self._source.counters().untallied
        if untallied > self._untallied:
            _log.warning(
                "%d attempts without a record found no room to be counted in: the metrics lack them",
                untallied - self._untallied,
            )
            self._untallied = untallied

    def _tell(self, events: Sequence[ThrottleEvent]) -> None:
        for event in events:
            _log.warning("%s", safe(throttle_line(event)))
        if events:
            self._output.throttled(events)


def _counted(attempt: Attempt, enricher: Enricher) -> Tallied:
    event = enricher.conceal(attempt.event)
    return Tallied(event, attempt.verdict, attempt.named, Detail.WHOLE, 1, event.duration_ns)
