"""Draws docs/conformance.md of its columns: words first, then tables of cells, then the reasons that they number."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.conformance.cells import Reasons, cell
from tests.conformance.words import AFTER, BEFORE, FIRST, GROUPS, Group
from tests.support.bench import Family
from tests.support.case import Case, Subject
from tests.support.cases import CASES, SUBJECTS
from tests.support.conformance import NOT_APPLICABLE, NOT_VISIBLE, PASS, Column
from tests.support.entries import Entry
from tests.support.outcome_cases import CASES as ROWS
from tests.support.outcome_cases import KERNEL

PAGE = Path(__file__).parents[2] / "docs/conformance.md"
SHORT = {Family.IPV4: "v4", Family.IPV6: "v6", Family.MAPPED: "mapped"}


def render(columns: Sequence[Column]) -> str:
    """Return the text of the page."""
    reasons = Reasons()
    tables = [line for group in GROUPS for line in _table(group, columns, reasons)]
    parts = [
        BEFORE,
        *_columns(columns),
        FIRST,
        *_sums(columns),
        *tables,
        *_reasons(reasons),
        *_left_out(),
        *_evidence(),
        AFTER,
    ]
    return "\n".join(parts) + "\n"


def _between(first: str, last: str) -> list[Subject]:
    names = [subject.what for subject in SUBJECTS]
    return list(SUBJECTS[names.index(first) : names.index(last) + 1])


def _columns(columns: Sequence[Column]) -> Iterator[str]:
    """List where the cells are from."""
    yield from ("| kernel | probes | cells | revision | date |", "|---|---|---|---|---|")
    for column in columns:
        yield f"| {column.kernel} | `{column.probes}` | {len(column.cells)} | {column.commit} | {column.date} |"
    yield ""


def _sums(columns: Sequence[Column]) -> Iterator[str]:
    """Count what each column has for each entry."""
    heads = [f"{column.kernel} `{column.probes}`" for column in columns]
    yield from (_line(["made by", *heads]), _line(["---"] * (len(heads) + 1)))
    for entry in Entry:
        names = [case.name for case in CASES if case.way.entry is entry]
        yield _line([f"`{entry}`", *(_sum(column.cells.get(name, "") for name in names) for column in columns)])
    yield ""


def _sum(found: Iterable[str]) -> str:
    counts = Counter(_kind(status) for status in found)
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("pass", "not visible", "n/a", "not run") if counts[kind])


def _kind(status: str) -> str:
    for beginning, kind in ((PASS, "pass"), (NOT_VISIBLE, "not visible"), (NOT_APPLICABLE, "n/a")):
        if status.startswith(beginning):
            return kind
    return "not run"


def _table(group: Group, columns: Sequence[Column], reasons: Reasons) -> Iterator[str]:
    yield from (f"## {group.title}", "", *textwrap.wrap(group.about, 120), "")
    yield _line(["case", "recorded as", "made", *(f"`{entry}`" for entry in Entry)])
    yield _line(["---"] * (len(Entry) + 3))
    for subject in _between(group.first, group.last):
        cases = list(subject.cases())
        by_entry = ([case for case in cases if case.way.entry is entry] for entry in Entry)
        cells = [cell(here, columns, reasons) if here else "n/a" for here in by_entry]
        yield _line([subject.what, _wanted(cases), _made(subject), *cells])
    yield ""


def _wanted(cases: Sequence[Case]) -> str:
    """Say what the record has, where that differs by family for each."""
    by_family: dict[str, list[Family]] = {}
    for case in cases:
        said = dict.fromkeys(f"{one.outcome} {one.errno_name or ''}".strip() for one in case.expected)
        families = by_family.setdefault(", ".join(said) or "nothing", [])
        if case.way.family not in families:
            families.append(case.way.family)
    if len(by_family) == 1:
        return next(iter(by_family))
    return "; ".join(f"{said} ({', '.join(SHORT[one] for one in families)})" for said, families in by_family.items())


def _made(subject: Subject) -> str:
    families = "all" if len(subject.families) == len(Family) else ", ".join(SHORT[one] for one in subject.families)
    sockets = {(True, False): "both", (True,): "blocking", (False,): "non-blocking"}[subject.sockets]
    return f"{families}; {sockets}"


def _reasons(reasons: Reasons) -> Iterator[str]:
    yield from ("## Why", "")
    yield from (f"{number}. {reason}" for number, reason in enumerate(reasons.found, 1))
    yield ""


def _left_out() -> Iterator[str]:
    """Say of each case in which ways it is not made."""
    yield from ("## Not applicable", "", "| case | is not made with |", "|---|---|")
    by_reason: dict[str, list[str]] = {}
    for subject in SUBJECTS:
        if subject.without:
            by_reason.setdefault("; ".join(subject.without), []).append(subject.what)
    yield from (_line([", ".join(names), reason]) for reason, names in by_reason.items())
    yield ""


def _evidence() -> Iterator[str]:
    """List the rows of the table of evidence that no case here makes."""
    made = {case.row for case in CASES}
    yield from ("## Evidence that cannot be made to order", "")
    yield from ("| evidence | outcome | takes |", "|---|---|---|")
    for row in ROWS:
        if row.name not in made:
            yield _line([row.name, row.outcome, "a test of its own" if row.shown_by == KERNEL else row.shown_by])
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
