"""docs/quickstart.md, run line by line in a network of its own by one shell, as a person would type it."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.collector import collector_binary
from tests.support.jaeger import jaeger_binary
from tests.support.network import NetworkNamespace
from tests.support.prometheus import prometheus_programs

pytestmark = pytest.mark.timeout(1500)  # the first use of the backends builds them

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
LINE_S = 120


class Step(NamedTuple):
    """One command, and what it must print; ``…`` stands for anything."""

    command: str
    printed: list[str]


def steps() -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line.removeprefix("$ ").removeprefix("sudo "), []))
            else:
                found[-1].printed.append(line.strip())
    return found


class Shell:
    """A bash that takes one line after the other."""

    def __init__(self, namespace: NetworkNamespace, path: Path) -> None:
        # Without what make tells the makes that it starts: nobody types these lines inside of one.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "MAKE", "MFLAGS"))}
        self._process = subprocess.Popen(
            namespace.command(["bash"]),
            cwd=ROOT,
            env=clean | {"PATH": f"{path}:{os.environ['PATH']}", "STATE_DIRECTORY": str(path.parent / "state")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> list[str]:
        """Run a line, and return what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho end-of-line\n")
        self._process.stdin.flush()
        lines: list[str] = []
        patience = threading.Timer(LINE_S, self._process.kill)
        patience.start()
        try:
            while (line := self._process.stdout.readline()).strip() != "end-of-line":
                assert line, f"the shell ended, or waited for {LINE_S} s, in: {command}"
                lines.append(line.rstrip("\n"))
        finally:
            patience.cancel()
        return lines

    def close(self) -> None:
        """End the shell and all that it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "otelcol-contrib").symlink_to(collector_binary())
    (programs / "jaeger").symlink_to(jaeger_binary())
    (programs / "prometheus").symlink_to(prometheus_programs() / "prometheus")
    with NetworkNamespace() as namespace:
        shell = Shell(namespace, programs)
        try:
            yield shell
        finally:
            shell.close()


def test_quickstart_delivers(shell: Shell) -> None:
    page = steps()
    assert len(page) > 10
    for step in page:
        printed = [line for line in shell.run(step.command) if "Terminated" not in line]
        if not step.printed:
            continue
        assert len(printed) == len(step.printed), (step.command, printed)
        for line, pattern in zip(printed, step.printed, strict=True):
            assert re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line), (step.command, line)
