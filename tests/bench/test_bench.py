"""The bench runs to its end, shows every table, and loses nothing; how fast this machine is proves nothing."""

import re
import subprocess
import sys
from pathlib import Path

from tests.bench.plan import QUICK
from tests.bench.probes import WORKS

ROOT = Path(__file__).resolve().parents[2]


def test_the_quick_bench_shows_its_tables_and_its_totals_balance() -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for title in (
        "one core makes",
        "one core, no kernel",
        "where a record's time goes",
        "by a bare commit",
        "the agent takes",
        "redacting a command line",
    ):
        assert title in result.stdout
    for work in WORKS:
        for variant in QUICK.variants:
            assert re.search(rf"^{re.escape(work.label)} +{variant.name} .*\(\d.*\)$", result.stdout, re.MULTILINE)
    assert "the totals balance" in result.stdout
    assert "lost 0: balances" in result.stdout
    assert "NOT BALANCE" not in result.stdout
