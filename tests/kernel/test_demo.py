"""The demo is its own check: here, that it passes, and that it says what it could not show."""

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"


def run_demo(path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO],
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_end_is_shown_for_both_families() -> None:
    result = run_demo(os.environ["PATH"])
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    shown = [line.split()[1:3] for line in result.stdout.splitlines()[1:-1]]
    for outcome in ("established", "refused", "timed_out", "abandoned", "unreachable"):
        peers = [peer for end, peer in shown if end == outcome]
        assert any(peer.startswith("[") for peer in peers), f"{outcome} by IPv6: {result.stdout}"
        assert any(not peer.startswith("[") for peer in peers), f"{outcome} by IPv4: {result.stdout}"
    assert "(superseded)" in result.stdout


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    refusal = "unshare: unshare failed: Operation not permitted"
    unshare = tmp_path / "unshare"
    unshare.write_text(f"#!/bin/sh\necho '{refusal}' >&2\nexit 1\n")
    unshare.chmod(0o755)
    result = run_demo(str(tmp_path))
    assert result.returncode == 0
    assert f"demo: not shown: unreachable ({refusal}" in result.stdout
    assert not any(line.startswith("demo: unreachable") for line in result.stdout.splitlines())
