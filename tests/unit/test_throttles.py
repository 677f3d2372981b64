"""From tallies to throttle events: one start and one stop for each limit at work."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from otel_connect.capture.throttles import Throttles, _forget_the_rare
from otel_connect.model import Detail, Process, Tally, Withheld
from tests.support.events import PROCESS, make_event

WGET = Process("wget", None, None)


def tally(withheld: Withheld, pid: int = 7, cgroup: int = 1, attempts: int = 10, at: int = 100) -> Tally:
    event = make_event(pid=pid, cgroup_id=cgroup)
    return Tally(withheld, Detail.WHOLE, event, attempts, None, at, at + 5)


def test_a_process_is_told_of_when_it_begins_and_when_it_has_been_quiet() -> None:
    throttles = Throttles(quiet_s=5)
    (started,) = throttles.update([(tally(Withheld.PROCESS_RATE), PROCESS)], 0.0)
    assert started.started
    assert (started.limit, started.cgroup_id, started.pid) == (Withheld.PROCESS_RATE, 1, 7)
    assert (started.executable_name, started.attempts, started.at_unix_ns) == ("curl", 10, 100)
    assert throttles.update([(tally(Withheld.PROCESS_RATE, at=300), PROCESS)], 4.0) == []
    assert throttles.at_work() == (started._replace(attempts=20),)
    assert throttles.update([], 8.9) == []
    (stopped,) = throttles.update([], 9.0)
    assert (stopped.started, stopped.pid, stopped.attempts, stopped.at_unix_ns) == (False, 7, 20, 305)
    assert throttles.end() == []
    assert throttles.at_work() == ()


def test_it_is_over_after_five_seconds_and_began_with_the_earliest_tally() -> None:
    throttles = Throttles()
    later, earlier = (tally(Withheld.PROCESS_RATE, at=at) for at in (300, 200))
    (started,) = throttles.update([(later, PROCESS), (earlier, PROCESS)], 1.0)
    assert started.at_unix_ns == 200
    assert throttles.update([], 5.9) == []
    (stopped,) = throttles.update([], 6.0)
    assert stopped.at_unix_ns == 305


def test_1024_limits_are_told_apart_and_100_shown() -> None:
    throttles = Throttles()
    turn = [(tally(Withheld.PROCESS_RATE, pid=pid, cgroup=pid), PROCESS) for pid in range(1, 1027)]
    started = throttles.update(turn, 0.0)
    assert [one.pid for one in started[:1024] if one.cgroup_id] == list(range(1, 1025))
    (rest,) = started[1024:]
    assert (rest.cgroup_id, rest.attempts) == (None, 20)
    assert len(throttles.at_work()) == 100


def test_of_many_programs_the_busy_half_is_remembered() -> None:
    """The program with most attempts is known, also if it had few of them each time."""
    throttles = Throttles(remembered=4)

    def busiest(*attempts: int) -> int | None:
        """Let programs make attempts, each by its pid."""
        turn = [(tally(Withheld.CGROUP_RATE, pid=pid, attempts=made), PROCESS) for pid, made in enumerate(attempts, 1)]
        throttles.update([one for one in turn if one[0].attempts], 0.0)
        (at_work,) = throttles.at_work()
        return at_work.pid

    assert busiest(1, 9, 8, 2) == 2  # four are remembered
    assert busiest(8) == 1
    assert busiest(0, 0, 0, 0, 1) == 1  # a fifth: 1 and 2 stay
    assert busiest(0, 0, 3) == 1  # 3 starts from nothing: it would have 11
    assert busiest(0, 1) == 2


def test_what_is_remembered_of_a_program_is_what_it_made() -> None:
    programs = Counter({(1, "a"): 9, (2, "b"): 8, (3, "c"): 7, (4, "d"): 6, (5, "e"): 5})
    _forget_the_rare(programs, 4)
    assert programs == {(1, "a"): 9, (2, "b"): 8}


def test_of_those_at_work_the_largest_are_shown() -> None:
    throttles = Throttles()
    throttles.update([(tally(Withheld.PROCESS_RATE, pid=pid, attempts=pid), PROCESS) for pid in range(1, 9)], 0.0)
    assert [(each.pid, each.attempts) for each in throttles.at_work(3)] == [(8, 8), (7, 7), (6, 6)]


def test_a_cgroup_is_told_of_once_with_its_busiest_program() -> None:
    throttles = Throttles()
    turn = [(tally(Withheld.CGROUP_RATE, pid=pid, attempts=1), WGET) for pid in range(1, 100)]
    turn.append((tally(Withheld.CGROUP_RATE, pid=500, attempts=2), PROCESS))
    (started,) = throttles.update(turn, 0.0)
    assert (started.pid, started.executable_name, started.attempts) == (500, "curl", 101)
    (stopped,) = throttles.end()
    assert (stopped.started, stopped.cgroup_id, stopped.attempts) == (False, 1, 101)


def test_the_ring_is_the_hosts_and_a_full_one_is_no_throttle() -> None:
    throttles = Throttles()
    turn = [(tally(Withheld.RING_PRESSURE, cgroup=cgroup), PROCESS) for cgroup in (1, 2)]
    (started,) = throttles.update([*turn, (tally(Withheld.RING_FULL), PROCESS)], 0.0)
    assert (started.limit, started.cgroup_id, started.attempts) == (Withheld.RING_PRESSURE, None, 20)


def test_without_a_process_nobody_is_named() -> None:
    coarse = tally(Withheld.PROCESS_RATE, pid=0, cgroup=0)._replace(detail=Detail.WITHOUT_PROCESS)
    (started,) = Throttles().update([(coarse, None)], 0.0)
    assert (started.cgroup_id, started.pid, started.executable_name) == (None, None, None)


limits = st.sampled_from([Withheld.PROCESS_RATE, Withheld.CGROUP_RATE, Withheld.RING_PRESSURE])
tallies = st.builds(tally, limits, pid=st.integers(1, 40), cgroup=st.integers(1, 3), attempts=st.integers(1, 9))


@given(st.lists(st.lists(tallies, max_size=20), max_size=10), st.integers(1, 8))
def test_what_is_told_adds_up_and_memory_is_bounded(turns: list[list[Tally]], remembered: int) -> None:
    throttles = Throttles(quiet_s=2, remembered=remembered)
    told = []
    for now, turn in enumerate(turns):
        told += throttles.update([(one, PROCESS) for one in turn], float(now))
        at_work = Counter(event.started for event in told)
        assert at_work[True] - at_work[False] <= remembered + len(Withheld)
    told += throttles.end()
    assert sum(event.attempts for event in told if not event.started) == sum(
        one.attempts for turn in turns for one in turn
    )
    assert Counter(event.started for event in told).total() == 2 * sum(event.started for event in told)
