"""The outcome is one pure function of the evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.capture.outcome import decide
from otel_connect.model import ConnectEvent, Ending, Outcome
from tests.support.events import make_event
from tests.support.outcome_cases import CASES, OutcomeCase

NO_EVIDENCE = {"sk_err": 0, "sk_err_soft": 0, "returned": 0, "socket_state": 0, "shutdown": 0, "flags": 0}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_case_of_the_table(case: OutcomeCase) -> None:
    verdict = decide(make_event(**{**NO_EVIDENCE, **case.evidence}))
    assert verdict == (case.outcome, case.errno)


def test_the_table_has_every_outcome() -> None:
    assert {case.outcome for case in CASES} == set(Outcome)


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
