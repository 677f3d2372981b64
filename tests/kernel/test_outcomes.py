"""Every way a connect attempt can end, made with real sockets by every entry of the kernel, and what the agent says.

Each case knows the outcome from how it was made; the client's own report and the SYNs that the other side
counted are the independent witnesses. What strace says of the same cases is in test_bench.py. All cases are made once,
while an agent of each set of probes that this host can have is at work. docs/conformance.md says what came of it.
"""

import os

import pytest

from tests.support.case import Subject
from tests.support.cases import CASES, SUBJECTS
from tests.support.conformance import Column, differences, kernel_name, published
from tests.support.hidden import HiddenEnds
from tests.support.measure import measure, sets_of_this_host
from tests.support.outcome_cases import CASES as TABLE
from tests.support.outcome_cases import KERNEL


@pytest.fixture(scope="module")
def measured(hidden_ends: HiddenEnds) -> list[Column]:
    kernel = kernel_name(os.uname().release)
    cells = measure(CASES, sets_of_this_host(), hidden=lambda: hidden_ends.peers)
    return [Column(kernel, probes, "", "", found) for probes, found in cells.items()]


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.what for subject in SUBJECTS])
def test_what_the_agent_says_is_right_and_what_the_page_says(subject: Subject, measured: list[Column]) -> None:
    names = {case.name for case in subject.cases()}
    found = [difference for column in measured for difference in differences(column, published(column), names)]
    assert not found, "\n".join(["", *found])


def test_every_row_of_the_table_that_this_kernel_can_show_is_shown() -> None:
    made = {case.row for case in CASES}
    rows = {row.name: row for row in TABLE}
    assert made - {""} <= rows.keys()
    # These are of the agent's own making: it stops first, or a program's thread makes them.
    elsewhere = {"the agent stops first", "the socket's own error counts before a soft one"}
    shown = {name for name, row in rows.items() if row.shown_by == KERNEL}
    assert shown - made - elsewhere == set()


def test_what_a_subject_leaves_out_has_its_reason() -> None:
    assert [subject.what for subject in SUBJECTS if subject.is_whole == bool(subject.without)] == []
