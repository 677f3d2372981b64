"""Write docs/conformance.md of a run on this machine: ``python -m tests.conformance``; takes a minute and needs root.

With ``--page`` only the page is written, of the columns that are there.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.conformance.page import PAGE, render
from tests.support.cases import CASES
from tests.support.conformance import FOLDER, Column, differences, kernel_name, read_columns, series
from tests.support.hidden import HiddenEnds
from tests.support.measure import measure, sets_of_this_host


def measure_here() -> list[Column]:
    """Return a column for each set of probes that this machine can have."""
    kernel, date = kernel_name(os.uname().release), f"{datetime.now(UTC):%Y-%m-%d}"
    described = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    with HiddenEnds() as hidden:
        cells = measure(CASES, sets_of_this_host(), hidden=lambda: hidden.peers)
    return [Column(kernel, probes, commit, date, found) for probes, found in cells.items()]


def replace(columns: list[Column]) -> None:
    """Write columns in the place of those of the same set on a kernel of the same series."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for column in columns:
        for old in read_columns():
            if (old.probes, series(old.kernel)) == (column.probes, series(column.kernel)):
                old.path.unlink()
        column.path.write_text(column.written(), encoding="utf-8")


def main() -> int:
    """Write all, unless something is wrong; returns the exit code."""
    if "--page" not in sys.argv[1:]:
        columns = measure_here()
        names = {case.name for case in CASES}
        if wrong := [line for column in columns for line in differences(column, None, names)]:
            print(*wrong, sep="\n", file=sys.stderr)
            return 1
        replace(columns)
    PAGE.write_text(render(read_columns()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
