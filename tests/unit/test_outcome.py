"""The outcome is one pure function of the evidence."""

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.capture.outcome import decide
from otel_connect.model import ConnectEvent, Ending, EventFlag, Hook, Outcome
from tests.support.events import make_event
from tests.support.outcome_cases import CASES, OutcomeCase

NO_EVIDENCE = {"sk_err": 0, "sk_err_soft": 0, "returned": 0, "socket_state": 0, "shutdown": 0, "flags": 0}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_case_of_the_table(case: OutcomeCase) -> None:
    verdict = decide(make_event(**{**NO_EVIDENCE, **case.evidence}))
    assert verdict == (case.outcome, case.errno)


def test_the_table_has_every_outcome() -> None:
    assert {case.outcome for case in CASES} == set(Outcome)


@pytest.mark.parametrize("number", [errno.ENONET, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.EHOSTDOWN])
def test_what_icmp_codes_become_is_unreachable(number: int) -> None:
    """Each of them; the kernel's table is icmp_err_convert."""
    assert decide(make_event(**NO_EVIDENCE | {"ending": Ending.CLOSED, "sk_err": number})) == (
        Outcome.UNREACHABLE,
        number,
    )


@pytest.mark.parametrize(
    ("shutdown", "outcome"),
    [(0, Outcome.LOCAL_ERROR), (1, Outcome.LOCAL_ERROR), (2, Outcome.LOCAL_ERROR), (3, Outcome.ABANDONED)],
)
def test_only_close_shuts_both_directions_down(shutdown: int, outcome: Outcome) -> None:
    unconnected = {"flags": int(EventFlag.LOCKED), "socket_state": 1}
    event = make_event(**NO_EVIDENCE | {"ending": Ending.CLOSED, "shutdown": shutdown, **unconnected})
    assert decide(event) == (outcome, None)


@pytest.mark.parametrize(
    ("soft", "outcome"),
    [(-errno.ENETUNREACH, Outcome.UNKNOWN), (-1, Outcome.UNKNOWN), (0, Outcome.ABANDONED)],
)
def test_over_ipv6_a_close_is_doubted_only_if_an_earlier_attempt_left_an_error(soft: int, outcome: Outcome) -> None:
    closed = {"flags": int(EventFlag.LOCKED), "shutdown": 3, "family": socket.AF_INET6}
    event = make_event(**NO_EVIDENCE | {"ending": Ending.CLOSED, "sk_err_soft": soft, **closed})
    assert decide(event) == (outcome, None)


def test_a_connect_that_is_refused_before_its_syn_failed_here() -> None:
    evidence = NO_EVIDENCE | {"ending": Ending.RETURNED, "returned": -errno.ECONNREFUSED}
    assert decide(make_event(**evidence, hooks=int(Hook.ENTER | Hook.EXIT))).outcome is Outcome.LOCAL_ERROR
    assert decide(make_event(**evidence, hooks=int(Hook.SYN_SENT | Hook.END))).outcome is Outcome.REFUSED


@given(
    st.builds(
        make_event,
        ending=st.sampled_from(Ending),
        hooks=st.integers(0, 15),
        flags=st.integers(0, 31),
        sk_err=st.integers(0, 133),
        sk_err_soft=st.integers(0, 133),
        returned=st.integers(-516, 0),
        socket_state=st.integers(0, 4),
        shutdown=st.integers(0, 3),
    )
)
def test_established_needs_the_state_hook_and_an_errno_is_never_invented(event: ConnectEvent) -> None:
    verdict = decide(event)
    assert (verdict.outcome is Outcome.ESTABLISHED) == (event.ending is Ending.ESTABLISHED)
    seen = {event.sk_err, event.sk_err_soft, -event.returned}
    assert verdict.errno is None or verdict.errno in seen - {0}
