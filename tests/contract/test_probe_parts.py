"""The parts of the probes, as the agent joins them for bcc, against what a compiler makes of their includes."""

import re
import shutil
import subprocess
from pathlib import Path

from otel_connect.capture.child import joined

PROBES = Path(__file__).resolve().parents[2] / "probes"
PREPROCESS = ("gcc", "-E", "-x", "c")


def test_the_program_has_every_part_once() -> None:
    included = re.findall(r'^#include "(.+)"', (PROBES / "connect.c").read_text(), re.MULTILINE)
    assert sorted(included) == sorted(path.name for path in PROBES.glob("*.h"))
    assert '#include "' not in joined(PROBES / "connect.c")


def test_the_joined_text_is_what_the_includes_mean() -> None:
    text = joined(PROBES / "connect.c")
    ours = subprocess.run([*PREPROCESS, "-P", "-"], input=text, check=True, capture_output=True, text=True).stdout
    program = subprocess.run([*PREPROCESS, "-P", PROBES / "connect.c"], check=True, capture_output=True, text=True)
    assert "BPF_HASH(calls" in ours
    assert ours == program.stdout


def test_errors_name_the_part_and_the_line(tmp_path: Path) -> None:
    shutil.copytree(PROBES, tmp_path, dirs_exist_ok=True)
    expected = set()
    for name in ("limits.h", "connect.c"):
        lines = [*(tmp_path / name).read_text().splitlines(), f"#error in {name}"]
        (tmp_path / name).write_text("\n".join([*lines, ""]))
        expected.add(f"{name}:{len(lines)}")
    ended = subprocess.run(
        [*PREPROCESS, "-"], input=joined(tmp_path / "connect.c"), check=False, capture_output=True, text=True
    )
    assert set(re.findall(r"^(\S+?:\d+):\d+: error", ended.stderr, re.MULTILINE)) == expected
