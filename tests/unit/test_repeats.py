"""Repeats: every attempt is stood for by exactly one record, whatever comes when."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from otel_connect.config import EncodeConfig
from otel_connect.encode.repeats import Repeats
from otel_connect.model import Attempt, Outcome
from tests.support.events import attempts, make_attempt

ALIKE = [make_attempt(event_id=f"1-0-{number}", local_port=number + 1) for number in range(25)]


def counts(sent: list[Attempt]) -> list[int]:
    return [attempt.repeat_count for attempt in sent]


def collapsing(every: int = 10, remembered: int = 100) -> Repeats:
    return Repeats(EncodeConfig(collapse_repeats=every, collapse_window_ms=1000), remembered)


def test_by_default_every_attempt_has_a_record() -> None:
    repeats = Repeats(EncodeConfig())
    assert repeats.select(ALIKE, 0.0) == (ALIKE, [])
    assert repeats.ended(None) == []


def test_the_first_and_every_tenth_are_sent_and_the_last_for_the_rest() -> None:
    repeats = collapsing()
    selected = repeats.select(ALIKE, 0.0)
    assert [attempt.event_id for attempt in selected.sent] == ["1-0-0", "1-0-10", "1-0-20"]
    assert counts(selected.sent) == [1, 10, 10]
    assert len(selected.unsent) == 22
    assert not repeats.over(0.9)
    assert repeats.ended(0.9) == []
    assert repeats.over(1.0)
    (last,) = repeats.ended(1.0)
    assert (last.event_id, last.repeat_count) == ("1-0-24", 4)
    # The window begins anew with the next.
    assert counts(repeats.select(ALIKE[:1], 1.0).sent) == [1]


def test_attempts_that_differ_are_never_collapsed() -> None:
    different = [
        make_attempt(),
        make_attempt(pid=1),
        make_attempt(process_start_boot_ns=1),
        make_attempt(peer_address="10.0.0.9"),
        make_attempt(peer_port=80),
        make_attempt(errno=110),
        make_attempt(outcome=Outcome.ESTABLISHED, errno=None),
        make_attempt(outcome=Outcome.ABANDONED, errno=None),
        make_attempt(outcome=Outcome.ABANDONED, errno=None, superseded=True),
    ]
    assert collapsing().select(different, 0.0) == (different, [])


def test_a_new_group_ends_the_oldest_when_there_are_too_many() -> None:
    repeats = collapsing(remembered=2)
    repeats.select([make_attempt(pid=1), make_attempt(pid=1)], 0.0)
    repeats.select([make_attempt(pid=2), make_attempt(pid=3)], 0.0)
    (left,) = repeats.ended(0.0)
    assert (left.event.pid, left.repeat_count) == (1, 1)


a_few_kinds = st.builds(make_attempt, pid=st.integers(1, 3), outcome=st.sampled_from(Outcome), errno=st.none())
batches = st.lists(st.tuples(st.lists(st.one_of(a_few_kinds, attempts), max_size=30), st.floats(0, 2)), max_size=8)


@given(batches, st.integers(0, 7), st.integers(1, 4))
def test_the_counts_add_up_to_the_attempts(given: list[tuple[list[Attempt], float]], every: int, room: int) -> None:
    repeats = collapsing(every, room)
    now = 0.0
    sent: list[Attempt] = []
    came: Counter[tuple[int, Outcome]] = Counter()
    for batch, pause in given:
        now += pause
        sent += repeats.ended(now)
        selected = repeats.select(batch, now)
        assert len(selected.sent) + len(selected.unsent) == len(batch)
        sent += selected.sent
        came.update((attempt.event.pid, attempt.verdict.outcome) for attempt in batch)
    sent += repeats.ended(None)
    stood_for: Counter[tuple[int, Outcome]] = Counter()
    for attempt in sent:
        stood_for[attempt.event.pid, attempt.verdict.outcome] += attempt.repeat_count
    assert stood_for == came
    assert repeats.ended(None) == []
