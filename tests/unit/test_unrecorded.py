"""What is counted without a record, and what is not counted either, by the rules of the operator."""

from collections.abc import Sequence
from typing import Any

import pytest

from otel_connect.config.filters import FilterConfig
from otel_connect.enrich.filters import Filters
from otel_connect.model import Detail, KernelCounters, Outcome, Tallied, Tally, ThrottleEvent, Withheld
from otel_connect.unrecorded import Unrecorded
from tests.support.enriching import make_enricher
from tests.support.events import make_attempt, make_event

ENRICHER = make_enricher(lambda _pid, _start: "/usr/bin/curl", lambda _uid: None)


class Kernel:
    """Has tallies, once."""

    def __init__(self, *tallies: Tally) -> None:
        self.tallies = list(tallies)

    def take_tallies(self) -> Sequence[Tally]:
        taken, self.tallies = self.tallies, []
        return taken

    def counters(self) -> KernelCounters:
        return KernelCounters(0, 0, 0, 0, 0, 0, 0)


class Metrics:
    """Keeps what is counted: port and number of attempts."""

    def __init__(self) -> None:
        self.counted: list[tuple[int | None, int]] = []
        self.events: list[ThrottleEvent] = []

    def count(self, tallied: Sequence[Tallied]) -> None:
        assert {one.verdict.outcome for one in tallied} <= {Outcome.REFUSED}
        self.counted += [(one.event.peer_port, one.attempts) for one in tallied]

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        self.events += events


def without(port: int, *, count: bool) -> Filters:
    return Filters(FilterConfig.model_validate({"deny": [{"port": port}], "count": count}))


def tally(withheld: Withheld, detail: Detail, port: int, attempts: int) -> Tally:
    return Tally(withheld, detail, make_event(peer_port=port), attempts, None, 1, 2)


@pytest.mark.parametrize(("count", "counted"), [(True, [(25, 1), (25, 1)]), (False, [])])
def test_what_is_left_out_is_counted_unless_that_is_not_wanted(count: bool, counted: list[Any]) -> None:
    metrics = Metrics()
    unrecorded = Unrecorded(Kernel(), metrics)
    attempts = [make_attempt(peer_port=port, event_id=str(port)) for port in (25, 443, 25, 80)]
    assert unrecorded.sift(attempts, ENRICHER) == attempts
    unrecorded.filters = without(25, count=count)
    assert unrecorded.sift(attempts, ENRICHER) == [attempts[1], attempts[3]]
    assert (metrics.counted, unrecorded.filtered) == (counted, 2)


def test_of_tallies_what_is_left_out_for_certain_is_not_counted_where_that_is_not_wanted() -> None:
    tallies = [
        tally(Withheld.FILTERED, Detail.WHOLE, 1, 1),
        tally(Withheld.FILTERED, Detail.WITHOUT_PROCESS, 2, 2),
        tally(Withheld.PROCESS_RATE, Detail.WHOLE, 25, 3),
        tally(Withheld.PROCESS_RATE, Detail.WHOLE, 443, 4),
        tally(Withheld.CGROUP_RATE, Detail.WITHOUT_PEER, 25, 5),
        tally(Withheld.RING_FULL, Detail.WITHOUT_PROCESS, 25, 6),
    ]
    for count, counted in ((True, [1, 2, 3, 4, 5, 6]), (False, [4, 5, 6])):
        metrics = Metrics()
        kernel = Kernel(*tallies)
        unrecorded = Unrecorded(kernel, metrics)
        unrecorded.filters = without(25, count=count)
        unrecorded.count(kernel.take_tallies(), ENRICHER, 0.0)
        unrecorded.count(kernel.take_tallies(), ENRICHER, 1.0)
        assert [attempts for _, attempts in metrics.counted] == counted
        # Whoever is limited is told of, also where that is not counted.
        assert sum(event.attempts for event in metrics.events if event.started) == 3 + 4 + 5
