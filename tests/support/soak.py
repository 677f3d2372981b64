"""Long forms of tests: the full length with OTEL_CONNECT_SOAK=1 (`make soak`), else one that CI has time for."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

SOAK = os.environ.get("OTEL_CONNECT_SOAK") == "1"
PROPERTY = "long_run"
_TABLE = re.compile(r"(?<=<!-- soak: begin -->\n).*?(?=<!-- soak: end -->)", re.DOTALL)
_HEAD = "| test | what was done | result | took |\n|---|---|---|---|\n"


def by_length(*, full: T, short: T) -> T:
    """Choose the value for the full length of a test, or for the short form of it."""
    return full if SOAK else short


class LongRun(Protocol):
    """Says what a test with a long form did, and what came of it; called before it is asserted."""

    def __call__(self, done: str, result: str) -> None:
        """Take both as text for one row of a table."""


class Row(NamedTuple):
    """One row of the table of long runs in docs/reliability.md."""

    test: str
    done: str
    result: str
    took: str

    def __str__(self) -> str:
        return f"| `{self.test}` | {self.done} | {self.result} | {self.took} |"


def row(test: str, properties: Iterable[tuple[str, object]], *, passed: bool, seconds: float) -> Row | None:
    """Make the row of a test that has ended, from what it said last; ``None`` if it said nothing of a long run."""
    for name, value in reversed(list(properties)):
        if name == PROPERTY and isinstance(value, tuple):
            done, result = value
            return Row(test, done, result if passed else f"**failed**: {result}", f"{seconds:.0f} s")
    return None


def with_rows(page: str, rows: Iterable[Row]) -> str:
    """Put rows into the table of a page, in the place of earlier ones of the same tests."""
    found = _TABLE.search(page)
    assert found is not None
    lines: Mapping[str, str] = {line.split("`")[1]: line for line in found[0].splitlines() if line.startswith("| `")}
    lines = {**lines, **{one.test: str(one) for one in rows}}
    table = _HEAD + "".join(f"{lines[test]}\n" for test in sorted(lines))
    return page[: found.start()] + table + page[found.end() :]
