"""Happy eyeballs: which abandoned attempts were superseded, and how long they wait for that to be known."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.superseded import Course, Races, overtakes
from otel_connect.model import Attempt, Outcome, ServerName
from tests.support.events import make_attempt

MS = 1_000_000
SECOND = 1000 * MS
EPOCH_NS = 10**18
NAME = ServerName("dual.test", "dns", "process")
OTHER = ServerName("other.test", "dns", "process")
V6, V4, V4_TOO = "2001:db8::9", "10.1.2.80", "10.1.2.81"


def course(began_ms: float, ended_ms: float, address: str = V6) -> Course:
    return Course(address, EPOCH_NS + int(began_ms * MS), EPOCH_NS + int(ended_ms * MS))


@pytest.mark.parametrize(
    ("winner", "loser", "superseded"),
    [
        # Side by side, the loser begun first: closed at once when the winner had answered, or not.
        (course(250, 260), course(0, 260.1), True),
        (course(250, 260), course(0, 360), True),
        (course(250, 260), course(0, 361), False),
        (course(250, 260), course(0, 1260), False),
        # The winner begun first, answered late.
        (course(0, 1030), course(250, 1031), True),
        (course(0, 1030), course(250, 1250), False),
        # One after another: the next address is tried as soon as one is given up.
        (course(250.6, 280), course(0, 250), True),
        (course(350, 380), course(0, 250), True),
        (course(351, 380), course(0, 250), False),
        # The next address was tried later than in any race.
        (course(2000, 2001), course(0, 2000), True),
        (course(2001, 2002), course(0, 2001), False),
        (course(2001, 2002), course(0, 2002.1), False),
        (course(0, 2500), course(2001, 2501), False),
        # Given up while the winner was on its way: not for its sake.
        (course(250, 600), course(0, 400), False),
    ],
)
def test_an_attempt_loses_a_race_when_it_ends_with_the_answer_or_with_the_next_begin(
    winner: Course, loser: Course, superseded: bool
) -> None:
    assert overtakes(winner._replace(address=V4), loser, winner.began) is superseded
    assert not overtakes(winner._replace(address=V6), loser, winner.began), "to one address there is no race"


def made(outcome: Outcome, address: str, began_ms: float, ended_ms: float, **changes: Any) -> Attempt:
    asked = {"peer_address": address, "requested_address": address, "server": NAME} | changes
    times = {"start_unix_ns": EPOCH_NS + int(began_ms * MS), "duration_ns": int((ended_ms - began_ms) * MS)}
    return make_attempt(outcome=outcome, errno=None, **times, **asked)


def winner(began_ms: float, ended_ms: float, address: str = V4, **changes: Any) -> Attempt:
    return made(Outcome.ESTABLISHED, address, began_ms, ended_ms, **changes)


def loser(began_ms: float, ended_ms: float, address: str = V6, **changes: Any) -> Attempt:
    return made(Outcome.ABANDONED, address, began_ms, ended_ms, **changes)


def judged(attempts: Sequence[Attempt]) -> list[bool]:
    """Hand the attempts over one by one, and say which abandoned ones were superseded, in the order they began."""
    races = Races()
    shown = [one for attempt in attempts for one in races.judge([attempt], 0)] + races.end()
    assert sorted(one.event for one in shown) == sorted(one.event for one in attempts)
    assert races.waiting == 0
    assert not any(one.superseded for one in shown if one.verdict.outcome is not Outcome.ABANDONED)
    abandoned = [one for one in shown if one.verdict.outcome is Outcome.ABANDONED]
    return [one.superseded for one in sorted(abandoned, key=lambda one: one.event.start_unix_ns)]


SIDE_BY_SIDE = winner(250, 260), loser(0, 260.1)
IN_TURN = loser(0, 250), winner(250.6, 280)


@pytest.mark.parametrize("race", [SIDE_BY_SIDE, IN_TURN], ids=["side by side", "in turn"])
@pytest.mark.parametrize(
    ("changes", "superseded"),
    [
        ({}, True),
        ({"server": NAME._replace(matched_by="namespace")}, True),
        ({"server": OTHER}, False),
        ({"server": None}, False),
        ({"pid": 1}, False),
        ({"process_start_boot_ns": 1}, False),
        ({"peer_port": 80}, False),
        # Between the program and the peer is a load balancer of sockets: what was asked for is one server.
        ({"peer_port": 8443, "server": NAME._replace(port=443)}, True),
    ],
)
def test_only_another_address_of_the_same_server_supersedes(
    race: Sequence[Attempt], changes: dict[str, Any], superseded: bool
) -> None:
    event = {name: value for name, value in changes.items() if name != "server"}
    changed = [
        one._replace(event=one.event._replace(**event), named=one.named._replace(server=changes.get("server", NAME)))
        if one.verdict.outcome is Outcome.ESTABLISHED
        else one
        for one in race
    ]
    assert judged(changed) == [superseded]


def test_without_any_name_nothing_is_superseded() -> None:
    for race in (SIDE_BY_SIDE, IN_TURN):
        assert judged([one._replace(named=one.named._replace(server=None)) for one in race]) == [False]


@pytest.mark.parametrize(
    ("dead", "alive", "superseded"),
    [("::1", "127.0.0.1", True), ("127.0.0.1", "::1", True), ("127.0.0.2", "127.0.0.1", False), (V6, "::1", False)],
)
def test_the_two_addresses_of_localhost_are_one_host(dead: str, alive: str, superseded: bool) -> None:
    assert judged([winner(250, 260, alive, server=None), loser(0, 260.1, dead, server=None)]) == [superseded]
    assert judged([loser(0, 250, dead, server=None), winner(250.6, 280, alive, server=None)]) == [superseded]


def test_localhost_is_one_server_for_one_process_and_port() -> None:
    for changes in ({"pid": 1}, {"process_start_boot_ns": 1}, {"peer_port": 80}):
        race = winner(250, 260, "127.0.0.1", server=None, **changes), loser(0, 260.1, "::1", server=None)
        assert judged(race) == [False]


def test_what_was_asked_for_tells_addresses_apart_where_a_load_balancer_made_one_peer_of_them() -> None:
    race = winner(250, 260, requested_address=V4, peer_address="10.9.0.7"), loser(0, 260.1, peer_address="10.9.0.7")
    assert judged(race) == [True]


def test_several_addresses_are_tried_one_after_another_until_one_answers() -> None:
    race = [loser(0, 250), loser(250.6, 501, V4_TOO), winner(501.6, 540)]
    assert judged(race) == [True, True]
    late = [loser(0, 250), loser(450, 700, V4_TOO), winner(700.6, 740)]
    assert judged(late) == [False, True]


def test_a_winner_ends_the_race_of_all_that_ran_beside_it() -> None:
    assert judged([winner(300, 310), loser(0, 310.2), loser(200, 310.3, V4_TOO)]) == [True, True]


def test_a_race_that_another_address_won_is_found_beside_a_later_one() -> None:
    second = winner(251, 261, V6)
    assert judged([winner(250, 260), second, loser(0, 260.1)]) == [True]


def test_the_last_winners_of_four_addresses_are_remembered() -> None:
    others = [f"10.1.3.{number}" for number in range(4)]
    race = [winner(250, 260), *(winner(250, 260, V6) for _ in range(9)), *(winner(0, 10, one) for one in others[:2])]
    assert judged([*race, loser(0, 260.1)]) == [True]
    races = Races()
    races.judge([winner(250, 260), *(winner(0, 10, one) for one in others)], 0)
    assert races.judge([loser(0, 260.1)], 0) == [], "the winner of four addresses ago is forgotten"


def test_what_a_winner_leaves_waiting_keeps_its_order_and_its_time() -> None:
    races = Races()
    early, late = loser(0, 10, sequence=1), loser(0, 20, sequence=2)
    assert races.judge([early], 0) == []
    assert races.judge([loser(0, 250, sequence=3)], SECOND // 2) == []
    assert races.judge([late], SECOND) == []
    beaten, *others = reversed(races.judge([winner(250.6, 280)], SECOND))
    assert (beaten.event.sequence, beaten.superseded, len(others)) == (3, True, 1)
    assert races.waiting == 2
    assert races.judge([], 2 * SECOND) == [early]
    assert races.judge([], 3 * SECOND) == [late]


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {Outcome.ABANDONED}))
def test_only_what_was_given_up_is_ever_superseded(outcome: Outcome) -> None:
    races = Races()
    failed = made(outcome, V6, 0, 260.1)
    assert races.judge([winner(250, 260), failed], 0) == [winner(250, 260), failed]


def test_an_attempt_waits_two_seconds_for_the_answer_of_the_next_address() -> None:
    races = Races()
    assert races.judge([loser(0, 250)], 5 * SECOND) == []
    assert races.judge([loser(0, 2000)], 6 * SECOND) == []
    assert races.judge([], 7 * SECOND - 1) == []
    assert races.waiting == 2
    assert races.judge([], 7 * SECOND) == [loser(0, 250)]
    assert races.judge([], 8 * SECOND) == [loser(0, 2000)]
    assert races.waiting == 0
    assert races.judge([winner(250.6, 280)], 7 * SECOND) == [winner(250.6, 280)]


@pytest.mark.parametrize(
    "attempt",
    [
        loser(0, 250, server=None),
        loser(0, 2001),
        loser(0, 250)._replace(event=loser(0, 250).event._replace(duration_ns=None)),
    ],
    ids=["no name", "longer than any race", "no end"],
)
def test_what_nothing_can_supersede_does_not_wait(attempt: Attempt) -> None:
    assert Races().judge([attempt], 0) == [attempt]


def test_a_flood_holds_a_bounded_number_and_loses_none() -> None:
    races = Races()
    of_one = [loser(0, 250, sequence=number) for number in range(1000)]
    shown = races.judge(of_one, 0)
    assert races.waiting == 64
    of_many = [loser(0, 250, sequence=number, pid=number) for number in range(1000, 9000)]
    shown += races.judge(of_many, 0)
    assert races.waiting == 1024
    shown += races.judge([], 2 * SECOND)
    assert races.waiting == 0
    assert sorted(one.event.sequence for one in shown) == list(range(9000))


def test_winners_are_remembered_for_a_bounded_number_of_servers() -> None:
    races = Races()
    for pid in range(4097):
        races.judge([winner(250, 260, pid=pid)], 0)
    forgotten, known = (races.judge([loser(0, 260.1, pid=pid)], 0) for pid in (0, 1))
    assert forgotten == []
    assert [one.superseded for one in known] == [True]


@given(
    st.lists(
        st.builds(
            made,
            st.sampled_from([Outcome.ESTABLISHED, Outcome.ABANDONED, Outcome.REFUSED]),
            st.sampled_from([V6, V4, V4_TOO]),
            st.integers(0, 500),
            st.integers(500, 3000),
            server=st.sampled_from([NAME, OTHER, None]),
            pid=st.sampled_from([1, 2]),
        )
    ),
    st.integers(1, 5),
)
def test_whatever_comes_everything_is_shown_once_and_the_account_adds_up(attempts: list[Attempt], step: int) -> None:
    races = Races()
    shown: list[Attempt] = []
    for at in range(0, len(attempts), step):
        shown += races.judge(attempts[at : at + step], at * SECOND)
        assert len(shown) + races.waiting == min(at + step, len(attempts))
    shown += races.end()
    assert sorted(one.event for one in shown) == sorted(one.event for one in attempts)
