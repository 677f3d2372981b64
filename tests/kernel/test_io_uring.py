"""Attempts that are asked for by io_uring one after another; what becomes of single ones is in test_outcomes.py."""

import errno
from collections.abc import Callable
from typing import NamedTuple

import pytest

from otel_connect.model import Hook
from tests.support.bench import Bench, Family, Target
from tests.support.captured import Captured, said
from tests.support.ends import PATIENT_MS
from tests.support.entries import RINGS, Entry
from tests.support.peer import Answer, Behaviour

pytestmark = pytest.mark.captures

NEAR = 0.002  # seconds: the request waits already
ROUNDS = 200
MODES = ("plain", "async", "sqpoll")


class Case(NamedTuple):
    target: Callable[[Bench, Family], Target]
    returned: int
    said: tuple[str, int | None]


WITH_SYN = {
    "accepted": Case(lambda bench, family: bench.listener(family), 0, ("established", None)),
    "refused": Case(
        lambda bench, family: bench.scripted(family, Behaviour(Answer.REFUSE)),
        errno.ECONNREFUSED,
        ("refused", errno.ECONNREFUSED),
    ),
}


def without(kind: str, number: int, outcome: str) -> Case:
    return Case(lambda bench, family: bench.error_route(family, kind), number, (outcome, number))


WITHOUT = {
    "none": without("none", errno.ENETUNREACH, "local_error"),
    "unreachable": without("unreachable", errno.EHOSTUNREACH, "local_error"),
    "prohibit": without("prohibit", errno.EACCES, "denied"),
}


def run(bench: Bench, mode: str, *targets: Target) -> tuple[int, list[int]]:
    """Connect to these one after another on one socket; return the pid of the client, and the errno of each."""
    where = [word for target in targets for word in (target.host, str(target.port))]
    with bench.namespace.popen([str(bench.program("ring")), mode, *where]) as client:
        told, _ = client.communicate(timeout=30)
    assert client.returncode == 0
    return client.pid, [-int(line) for line in told.splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_requests_one_after_another_on_one_socket(bench: Bench, seen: Captured, mode: str) -> None:
    cases = [*WITHOUT.values(), WITH_SYN["refused"], *WITHOUT.values(), WITH_SYN["accepted"]]
    pid, returned = run(bench, mode, *(case.target(bench, Family.IPV4) for case in cases))
    assert returned == [case.returned for case in cases]
    events = seen.of_process(pid, len(cases))
    assert said(events) == [case.said for case in cases]


@pytest.mark.parametrize("entry", RINGS)
@pytest.mark.parametrize("family", [Family.IPV4, Family.MAPPED])
def test_a_request_that_is_told_before_its_socket_has_ended_has_one_record_and_that_is_of_the_end(
    bench: Bench, seen: Captured, family: Family, entry: Entry
) -> None:
    """An ICMP error wakes the request before the state changes, on another processor perhaps."""
    target = bench.scripted(family, Behaviour(Answer.HOST_UNREACHABLE, NEAR))
    run = bench.dial(target, entry, {"rounds": ROUNDS, "timeout": PATIENT_MS})
    assert len(run.reports) == ROUNDS
    events = seen.of_process(run.pid, ROUNDS)
    assert said(events) == [("unreachable", errno.EHOSTUNREACH)] * ROUNDS
    assert all(event.hooks & Hook.END for event in events)
