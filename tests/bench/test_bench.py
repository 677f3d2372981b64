"""The bench runs to its end, shows every table, and loses nothing; how fast this machine is proves nothing."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.bench.load import Load, compiled_load
from tests.bench.plan import QUICK
from tests.bench.probes import CONNECTING, OTHERS, Work

ROOT = Path(__file__).resolve().parents[2]
CYCLES = 200
PING_PONG = {("sendto", "64"): 2 * CYCLES, ("recvfrom", "64"): 2 * CYCLES}
CALLS: Mapping[str, Mapping[tuple[str, str], int]] = {
    "accepted": {("socket", "fd"): CYCLES + 1, ("connect", "0"): CYCLES, ("accept", "fd"): CYCLES},
    "refused": {("socket", "fd"): CYCLES + 1, ("connect", "-1 ECONNREFUSED"): CYCLES},
    "tcp": PING_PONG | {("socket", "fd"): 2, ("connect", "0"): 1, ("accept", "fd"): 1},
    "stream": {
        ("sendto", "65536"): CYCLES,
        ("recvfrom", "65536"): CYCLES,
        ("socket", "fd"): 2,
        ("connect", "0"): 1,
        ("accept", "fd"): 1,
    },
    "udp": PING_PONG | {("socket", "fd"): 2, ("connect", "0"): 2},
    "unconnected": PING_PONG | {("socket", "fd"): 2},
    "files": {("openat", "fd"): CYCLES},
    "getppid": {("getppid", "pid"): CYCLES},
}
CALL = re.compile(r"(\w+)\((.*)\) += (-1 \w+|\d+)")


def test_the_quick_bench_shows_its_tables_and_its_totals_balance() -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for title in (
        "one core makes  ",
        "one core makes, not connecting",
        "one core, no kernel",
        "where a record's time goes",
        "by a bare commit",
        "the agent takes",
        "redacting a command line",
    ):
        assert title in result.stdout
    for work in (*CONNECTING, *OTHERS):
        for variant in QUICK.variants:
            assert re.search(rf"^{re.escape(work.label)} +{variant.name} .*\(\d.*\)$", result.stdout, re.MULTILINE)
    assert "the totals balance" in result.stdout
    assert "lost 0: balances" in result.stdout
    assert "NOT BALANCE" not in result.stdout


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    with compiled_load(QUICK.load_core) as compiled:
        yield compiled


@pytest.mark.parametrize("work", [*CONNECTING, *OTHERS], ids=lambda work: work.mode)
def test_the_load_makes_the_calls_that_its_row_names(load: Load, work: Work, tmp_path: Path) -> None:
    log = tmp_path / "strace"
    traced = "socket,connect,accept,sendto,recvfrom,openat,getppid"
    command = ["strace", "-o", str(log), "-e", f"trace={traced}", *load.command(work.program, work.mode, CYCLES)]
    subprocess.run(command, cwd=load.files, check=True, stdout=subprocess.DEVNULL, timeout=60)
    calls = [call.groups() for call in map(CALL.match, log.read_text().splitlines()) if call]
    calls = [(name, arguments, result) for name, arguments, result in calls if "/" not in arguments]  # no libraries
    assert Counter((name, _kind(name, result)) for name, _, result in calls) == CALLS[work.mode]
    opened = [arguments for name, arguments, _ in calls if name == "openat"]
    assert len(set(opened)) == len(opened)


def _kind(name: str, result: str) -> str:
    return {"socket": "fd", "accept": "fd", "openat": "fd", "getppid": "pid"}.get(name, result)
