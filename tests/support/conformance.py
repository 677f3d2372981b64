"""What each set of probes shows of each way in which a connect attempt can end, on one kernel.

A cell is a case with one kind of socket, of one family, by one entry of the kernel: ``no route|blocking|IPv4|32-bit``.
What it says is one of

    pass                what the agent says is right
    not visible: WHY    the set cannot see it; the agent says nothing of it, or less
    n/a: WHY            this machine has not what the case takes

and anything else that a run finds is wrong, and says how. A column is what one set showed on one kernel. Columns are
files, in ``docs/conformance/kernels``; ``docs/conformance.md`` is made of them (``tests/conformance``).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from otel_connect.capture.hooks import ProbeSet

PASS, NOT_VISIBLE, NOT_APPLICABLE, WRONG = "pass", "not visible: ", "n/a: ", "wrong: "
FOLDER = Path(__file__).parents[2] / "docs/conformance/kernels"


class Column(NamedTuple):
    """What one set of probes showed on one kernel."""

    kernel: str
    probes: ProbeSet
    commit: str
    """The revision of the project, abbreviated."""
    date: str
    cells: Mapping[str, str]

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return FOLDER / f"{self.kernel}-{self.probes}.json"

    def written(self) -> str:
        """Return the text of the file."""
        about = {"kernel": self.kernel, "set": self.probes, "commit": self.commit, "date": self.date}
        return json.dumps(about | {"cells": dict(sorted(self.cells.items()))}, indent=1, ensure_ascii=False) + "\n"


def read_column(text: str) -> Column:
    """Read what ``written`` has made."""
    made = json.loads(text)
    return Column(made["kernel"], ProbeSet(made["set"]), made["commit"], made["date"], made["cells"])


def read_columns(folder: Path = FOLDER) -> list[Column]:
    """Read all there are, the newest kernel first, and of each kernel the set that sees most."""
    columns = [read_column(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(columns, key=lambda column: (_numbers(column.kernel), column.probes.calls), reverse=True)


def kernel_name(release: str) -> str:
    """Name a kernel by its version, and the number of a distribution's build: without flavour and local names."""
    found = re.match(r"\d+(\.\d+)*(-\d+)?", release)
    return found[0] if found else release


def series(kernel: str) -> tuple[int, ...]:
    """Return the two numbers by which a kernel's features go."""
    return _numbers(kernel)[:2]


def _numbers(kernel: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", kernel)))
