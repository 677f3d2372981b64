"""Signals that come while the command starts: they are kept until it can handle them, and none shows a traceback."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.agent import COMMAND
from tests.support.collector import await_until

BY_NAME = [str(COMMAND)]
BY_MODULE = [sys.executable, "-m", "otel_connect"]


def importing(pid: int) -> bool:
    """Whether a process imports the libraries of the command line already."""
    try:
        return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


@contextmanager
def signalled(number: signal.Signals, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and send it a signal while it imports."""
    environment = os.environ | {"OTEL_CONNECT_LISTEN": "off"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            await_until(lambda: importing(process.pid))
            process.send_signal(number)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("command", [BY_NAME, BY_MODULE])
def test_a_reload_is_not_lost_and_ends_nothing(command: list[str]) -> None:
    with signalled(signal.SIGHUP, [*command, "run"]) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert said[0].startswith("otel-connect: capturing ")
    assert said[1] == "otel-connect: configuration reloaded\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_comes_before_anything_is_captured(number: signal.Signals) -> None:
    with signalled(number, [*BY_NAME, "run"]) as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGHUP, -signal.SIGHUP, ""),
        (signal.SIGINT, 130, "otel-connect: interrupted"),
    ],
)
def test_other_commands_end_as_ever(number: signal.Signals, code: int, says: str) -> None:
    with signalled(number, [*BY_NAME, "doctor"]) as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors.strip()) == (code, "", says)


def test_no_signal_is_held_back_from_what_the_agent_starts_or_is() -> None:
    with subprocess.Popen([*BY_NAME, "run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            await_until(lambda: "capturing" in (process.stderr.readline() if process.stderr else ""), 60)
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            (blocked,) = re.findall(r"^SigBlk:\s+([0-9a-f]+)$", status, re.MULTILINE)
            assert int(blocked, 16) == 0
        finally:
            process.terminate()
            assert process.wait(30) == 0
