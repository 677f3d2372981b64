"""docs/reliability.md keeps its word: each row of its matrix names a test that exists, and no case is missing."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
REQUIRED = {"R1", "R2", "R4", "R5", "R6", "R7", "R8", "R10", "R11", "R12", "R13", "S1", "S2", "S4"}
FEWEST_ROWS = 30
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


class Row(NamedTuple):
    """One fault."""

    case: str
    fault: str
    happens: str
    counted: str
    proof: str


def matrix(page: str) -> list[Row]:
    """Read the rows of the table under "What can go wrong"."""
    part = page.split("\n## What can go wrong\n")[1].split("\n## ", maxsplit=1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    header, _, *rows = cells
    assert header == ["case", "fault", "what happens", "counted", "proven by"]
    return [Row(*row) for row in rows]


@cache
def names_in(file: Path) -> set[str]:
    """Name the tests that pytest finds in a file: functions, and test cases that are made by assignment."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if name.lower().startswith("test")}


def problems(page: str, root: Path) -> list[str]:
    """Say what is wrong with a page."""
    rows = matrix(page)
    found = [f"no row for {case}" for case in sorted(REQUIRED - {row.case for row in rows})]
    for row in rows:
        proof = _TEST.fullmatch(row.proof)
        if not row.fault or not row.happens:
            found.append(f"not told: {row}")
        elif proof is None:
            found.append(f"names no test: {row.fault}")
        elif not (file := root / proof[1]).is_file() or proof[2] not in names_in(file):
            found.append(f"there is no {proof[0]}: {row.fault}")
    return found


def test_every_fault_has_its_proof() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert problems(page, ROOT) == []
    assert len(matrix(page)) >= FEWEST_ROWS


def test_no_fault_is_told_twice() -> None:
    rows = matrix(PAGE.read_text(encoding="utf-8"))
    assert sorted(row.fault for row in rows) == sorted({row.fault for row in rows})


ROW = "| S4 | no BTF | refused, 78 | | `tests/kernel/test_refusals.py::test_no_btf` |"


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("", "names no test"),
        ("`tests/kernel/test_refusals.py::test_no_bft`", "there is no"),
        ("`tests/kernel/test_refusal.py::test_no_btf`", "there is no"),
        ("`tests/kernel/test_refusals.py::RUN`", "there is no"),
        ("by hand", "names no test"),
    ],
)
def test_a_row_without_a_test_is_found(instead: str, said: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert ROW in page
    (problem,) = problems(page.replace(ROW, re.sub("`.*`", instead, ROW)), ROOT)
    assert said in problem


def test_a_missing_case_is_found() -> None:
    page = "\n".join(line for line in PAGE.read_text(encoding="utf-8").splitlines() if not line.startswith("| R13 "))
    assert problems(page, ROOT) == ["no row for R13"]
