"""Attempts that are asked for by io_uring, in each of the ways in which a request may be carried out."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bench import Bench, Family, Target
from tests.support.captured import Captured, compiled, said
from tests.support.peer import Answer, Behaviour

pytestmark = pytest.mark.captures

FAMILIES = (Family.IPV4, Family.MAPPED, Family.IPV6)
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


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("ring", tmp_path_factory.mktemp("clients"))


def run(bench: Bench, ring: Path, mode: str, *targets: Target) -> tuple[int, list[int]]:
    """Connect to these one after another on one socket; return the pid of the client, and the errno of each."""
    where = [word for target in targets for word in (target.host, str(target.port))]
    with bench.namespace.popen([str(ring), mode, *where]) as client:
        told, _ = client.communicate(timeout=30)
    assert client.returncode == 0
    return client.pid, [-int(line) for line in told.splitlines()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", [*WITH_SYN.values(), *WITHOUT.values()], ids=[*WITH_SYN, *WITHOUT])
def test_an_attempt_with_a_syn_or_a_failure_before_it(
    bench: Bench, seen: Captured, ring: Path, case: Case, family: Family, mode: str
) -> None:
    target = case.target(bench, family)
    pid, returned = run(bench, ring, mode, target)
    assert returned == [case.returned]
    events = seen.of_process(pid, 1)
    assert said(events) == [case.said]
    assert [event.target for event in events] == [(target.address, target.port)]


@pytest.mark.parametrize("mode", MODES)
def test_requests_one_after_another_on_one_socket(bench: Bench, seen: Captured, ring: Path, mode: str) -> None:
    cases = [*WITHOUT.values(), WITH_SYN["refused"], *WITHOUT.values(), WITH_SYN["accepted"]]
    pid, returned = run(bench, ring, mode, *(case.target(bench, Family.IPV4) for case in cases))
    assert returned == [case.returned for case in cases]
    events = seen.of_process(pid, len(cases))
    assert said(events) == [case.said for case in cases]
