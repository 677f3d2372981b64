"""docs/conformance.md is what its columns say, in the names of the cases that are made today."""

from typing import NamedTuple

import pytest

from otel_connect.capture.hooks import ProbeSet
from tests.conformance.decisions import REMOVALS as DECISIONS
from tests.conformance.decisions import changed
from tests.conformance.page import PAGE, render
from tests.conformance.removals import REMOVALS, WITHOUT, Removal, chosen, read
from tests.conformance.words import GROUPS
from tests.support.cases import CASES, SUBJECTS
from tests.support.conformance import NOT_APPLICABLE, NOT_VISIBLE, PASS, Column, differences, published, read_columns
from tests.support.outcome_cases import CASES as ROWS

COLUMNS = read_columns()


def test_the_page_is_drawn_of_its_columns() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(COLUMNS), "run: python -m tests.conformance --page"


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.path.stem)
def test_a_column_has_cells_of_cases_that_there_are(column: Column) -> None:
    assert column.cells.keys() - {case.name for case in CASES} == set()
    beginnings = (PASS, NOT_VISIBLE, NOT_APPLICABLE)
    assert [said for said in column.cells.values() if said != PASS and not said.startswith(beginnings[1:])] == []
    assert column.commit
    assert column.date
    assert column.path.exists()


def test_every_case_stands_in_one_table() -> None:
    names = [subject.what for subject in SUBJECTS]
    ends = [(names.index(group.first), names.index(group.last)) for group in GROUPS]
    assert [place for first, last in ends for place in range(first, last + 1)] == list(range(len(names)))


class Difference(NamedTuple):
    found: str
    said: str
    told: str


@pytest.mark.parametrize(
    "difference",
    [
        Difference("pass", "pass", ""),
        Difference("wrong: it says []", "wrong: it says []", "lite, a|b: wrong: it says []"),
        Difference("pass", "not visible: why", "docs/conformance.md says 'not visible: why', this run 'pass'"),
        Difference("not visible: why", "pass", "docs/conformance.md says 'pass', this run 'not visible: why'"),
        Difference("not visible: why", "not visible: else", "says 'not visible: else', this run 'not visible: why'"),
    ],
)
def test_a_cell_that_differs_is_told_with_what_to_do(difference: Difference) -> None:
    measured = Column("6.18.5", ProbeSet.LITE, "", "", {"a|b": difference.found})
    said = Column("6.18.44", ProbeSet.LITE, "abc", "2026-01-01", {"a|b": difference.said})
    told = "\n".join(differences(measured, said, ["a|b"]))
    assert difference.told in told
    assert bool(told) == bool(difference.told)
    assert ("make conformance" in told) == ("docs/conformance.md" in told)


def test_a_kernel_is_compared_with_its_series() -> None:
    here = COLUMNS[0]
    assert published(here._replace(kernel=".".join(here.kernel.split(".")[:2]) + ".99-1")) == here
    assert published(here._replace(kernel="1.0.3")) is None


@pytest.mark.parametrize("removal", REMOVALS, ids=[removal.was for removal in REMOVALS])
def test_what_is_to_be_removed_is_there_and_about_cases(removal: Removal) -> None:
    assert read(removal)
    assert all(chosen([case]) for case in removal.cases)


def test_every_case_is_about_something_that_can_be_removed() -> None:
    named = {name for removal in REMOVALS for name in chosen(removal.cases)}
    assert {subject.what for subject in SUBJECTS} - {name.split("|")[0] for name in named} == WITHOUT


@pytest.mark.parametrize("removal", DECISIONS, ids=[was for was, _ in DECISIONS])
def test_what_is_removed_from_the_decision_is_noticed(removal: tuple[str, str]) -> None:
    assert changed(*removal)


def test_every_row_of_evidence_is_decided_by_something_that_can_be_removed() -> None:
    assert set().union(*(changed(*removal) for removal in DECISIONS)) == {row.name for row in ROWS}
