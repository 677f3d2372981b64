"""Happy eyeballs: which abandoned attempts were overtaken."""

from typing import Any

import pytest

from otel_connect.capture.superseded import Overtakes
from otel_connect.model import ConnectEvent, Outcome, Verdict
from tests.support.events import make_event

WINNER = make_event(start_unix_ns=1_000, duration_ns=50)


def judge(abandoned: ConnectEvent, winner: ConnectEvent = WINNER) -> bool:
    overtakes = Overtakes()
    assert not overtakes.superseded(winner, Verdict(Outcome.ESTABLISHED, None))
    return overtakes.superseded(abandoned, Verdict(Outcome.ABANDONED, None))


@pytest.mark.parametrize(
    ("changes", "superseded"),
    [
        ({"start_unix_ns": 900}, True),
        ({"start_unix_ns": 1_050}, True),
        ({"start_unix_ns": 1_051}, False),
        ({"start_unix_ns": 900, "peer_port": 80}, False),
        ({"start_unix_ns": 900, "pid": 1}, False),
        ({"start_unix_ns": 900, "process_start_boot_ns": 1}, False),
    ],
)
def test_only_an_attempt_that_began_before_its_rival_was_established_is_superseded(
    changes: dict[str, Any], superseded: bool
) -> None:
    assert judge(make_event(**changes)) is superseded


def test_a_failure_is_never_superseded() -> None:
    overtakes = Overtakes()
    overtakes.superseded(WINNER, Verdict(Outcome.ESTABLISHED, None))
    assert not overtakes.superseded(make_event(start_unix_ns=900), Verdict(Outcome.REFUSED, 111))


def test_memory_is_bounded() -> None:
    overtakes = Overtakes(remembered=2)
    for pid in range(10):
        overtakes.superseded(make_event(pid=pid, start_unix_ns=1_000), Verdict(Outcome.ESTABLISHED, None))
    assert not overtakes.superseded(make_event(pid=0, start_unix_ns=900), Verdict(Outcome.ABANDONED, None))
    assert overtakes.superseded(make_event(pid=9, start_unix_ns=900), Verdict(Outcome.ABANDONED, None))
