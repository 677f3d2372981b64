"""Standard streams that are full, closed, slow or gone: nothing is called shown that is not, and the totals add up."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.agent import COMMAND
from tests.support.collector import await_until
from tests.support.ledger import exit_ledgers
from tests.support.network import closed_port
from tests.support.otlp_json import log_records
from tests.support.status import Status, unix_listen

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
SUMMARY = re.compile(r"seen (\d+) = shown (\d+) \+ in progress (\d+) \+ lost (\d+)$", re.MULTILINE)
SELF = os.getpid()


def connect(port: int) -> None:
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", port))


class Ended(NamedTuple):
    """How an agent ended, and what it said on standard error."""

    code: int
    errors: str


class Streams:
    """An agent with standard streams of a shell's making."""

    def __init__(self, redirection: str, listen: str, output: str, settings: Path) -> None:
        script = f'exec "$0" "$@" {redirection}'
        self.status = Status(listen)
        self.process = subprocess.Popen(
            ["sh", "-c", script, str(COMMAND), "run", "--output", output, "--config", str(settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=CLEAN | {"OTEL_CONNECT_LISTEN": listen},
        )

    def connect(self, port: int, count: int) -> None:
        """Make refused attempts, and wait until the agent has dealt with all of them."""
        before = self.dealt_with()
        for _ in range(count):
            connect(port)
        await_until(lambda: self.dealt_with() >= before + count, 30)

    def balance(self) -> dict[str, int]:
        balance = self.status.document()["balance"]
        assert balance["difference"] == 0, balance
        return {"shown": balance["shown"], "output_io": balance["lost"]["output_io"]}

    def dealt_with(self) -> int:
        """Count the attempts that were shown, or could not be."""
        return sum(self.balance().values())

    def stop(self) -> Ended:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        assert "Traceback" not in errors
        assert "Exception ignored" not in errors
        return Ended(self.process.returncode, errors)


@contextmanager
def agent(redirection: str, folder: Path, output: str = "console", port: int | None = None) -> Iterator[Streams]:
    """Run an agent that shows attempts towards a port alone, if one is given: others would fill a small disk, too."""
    settings = folder / "agent.toml"
    settings.write_text("" if port is None else f"[[filter.allow]]\nport = {port}\n")
    one = Streams(redirection, unix_listen(folder), output, settings)
    try:
        await_until(one.status.reachable, 60)
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


FULL = "No space left on device"
CLOSED = "Bad file descriptor"


@pytest.mark.parametrize(
    ("output", "redirection", "reason"),
    [
        ("console", ">/dev/full", FULL),
        ("json", ">/dev/full", FULL),
        ("console", ">&-", CLOSED),
        ("json", ">&-", CLOSED),
        ("console", "<&- >&-", CLOSED),
    ],
)
def test_what_standard_output_does_not_take_is_lost_and_said(
    output: str, redirection: str, reason: str, tmp_path: Path
) -> None:
    with agent(redirection, tmp_path, output) as one, closed_port() as port:
        one.connect(port, 3)
        code, errors = one.stop()
    assert code == 74
    lines = errors.splitlines()
    assert lines[-1] == (
        f"otel-connect: standard output could not be written ({reason}): what is missing there is counted as lost"
    )
    assert errors.count("standard output cannot be written") == 1
    if output == "json":
        ledgers = exit_ledgers(lines)
        assert ledgers["logs"].dropped["output_io"] >= 3
        assert all(ledger.exported == 0 for ledger in ledgers.values())
        return
    (found,) = SUMMARY.findall(errors)
    seen, shown, in_progress, lost = map(int, found)
    assert (shown, seen) == (0, in_progress + lost)
    assert lost >= 3


@pytest.mark.parametrize(
    ("output", "redirection"), [("console", "2>/dev/full"), ("json", "2>/dev/full"), ("json", "2>&-")]
)
def test_a_log_that_cannot_be_written_costs_nothing_else(output: str, redirection: str, tmp_path: Path) -> None:
    written = tmp_path / "output"
    with agent(f"{redirection} >{written}", tmp_path, output) as one, closed_port() as port:
        one.connect(port, 3)
        code, _ = one.stop()
    assert code == 0
    assert written.read_text().count(f"127.0.0.1:{port}") >= 3


def test_no_streams_at_all(tmp_path: Path) -> None:
    with agent("<&- >&- 2>&-", tmp_path) as one, closed_port() as port:
        one.connect(port, 1)
        assert one.stop() == (74, "")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("output", ["console", "json"])
def test_a_disk_that_fills_up_holds_what_is_called_shown_and_no_more(output: str, tmp_path: Path) -> None:
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    with (
        small_disk(mountpoint, 96) as disk,
        closed_port() as port,
        agent(f">{disk}/output", tmp_path, output, port) as one,
    ):
        filler = disk / "filler"
        filler.write_bytes(b"x" * 65536)
        while one.process.poll() is None and not missing(one, output):
            one.connect(port, 20)
        filler.unlink()  # room again
        one.connect(port, 1)
        code, errors = one.stop()
        written = (disk / "output").read_text()
    assert code == 74
    assert f"standard output cannot be written ({FULL})" in errors
    if output == "json":
        ledgers = exit_ledgers(errors.splitlines())
        records = log_records(document for line in written.splitlines() if (document := whole_logs(line)))
        attempts = [record for record in records if "otel_connect.outcome" in record["attributes"]]
        assert len(attempts) == ledgers["logs"].exported > 0
        assert ledgers["logs"].dropped["output_io"] > 0
        return
    ((seen, shown, in_progress, lost),) = [map(int, found) for found in SUMMARY.findall(written)]
    whole = [
        line
        for line in written.split("\n\n")[0].splitlines()
        if re.match(r"\d\d:\d\d:\d\d\.\d{3} +\d+ .* \S+:\d+$", line)
    ]
    # A line that was torn off within its last word looks whole.
    assert shown in {len(whole), len(whole) - 1}
    assert seen == shown + in_progress + lost
    (unwritten,) = re.findall(r"^  output_io +(\d+)$", written, re.MULTILINE)
    assert lost >= int(unwritten) > 0


def whole_logs(line: str) -> dict[str, Any] | None:
    """Read a line of log records; what was torn off is none."""
    try:
        document: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return document if "resourceLogs" in document else None


def missing(one: Streams, output: str) -> int:
    if output == "console":
        return one.balance()["output_io"]
    return int(one.status.document()["ledger"]["logs"]["dropped"].get("output_io", 0))


@pytest.mark.parametrize("output", ["console", "json"])
def test_a_pipe_that_does_not_block_is_waited_for(output: str, tmp_path: Path) -> None:
    """Whoever shares a pipe may make it non-blocking, for all who write into it."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    read: list[bytes] = []
    slow = threading.Event()

    def reader() -> None:
        slow.wait(30)
        while piece := os.read(reading, 65536):
            read.append(piece)

    thread = threading.Thread(target=reader)
    thread.start()
    listen = unix_listen(tmp_path)
    process = subprocess.Popen(
        [COMMAND, "run", "--output", output],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN | {"OTEL_CONNECT_LISTEN": listen},
    )
    try:
        os.close(writing)
        await_until(Status(listen).reachable, 60)
        with closed_port() as port:
            for _ in range(100):  # more than the pipe holds
                connect(port)
            slow.set()
            await_until(lambda: b"".join(read).count(f":{port}".encode()) >= 100)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        slow.set()
        process.kill()
        process.communicate()
        thread.join(30)
        os.close(reading)
    assert process.returncode == 0, errors
    text = b"".join(read).decode()
    if output == "console":
        assert sum(line.split()[1:2] == [str(SELF)] and line.endswith(f":{port}") for line in text.splitlines()) == 100
        assert SUMMARY.search(text)
    else:
        records = log_records(json.loads(line) for line in text.splitlines() if line.startswith('{"resourceLogs"'))
        assert sum(record["attributes"].get("server.port") == port for record in records) == 100
    assert "cannot be written" not in errors


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    listen = unix_listen(tmp_path)
    script = f"{COMMAND} run | head -1; echo ${{PIPESTATUS[0]}}"
    pipe = subprocess.Popen(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN | {"OTEL_CONNECT_LISTEN": listen},
    )
    try:
        await_until(Status(listen).reachable, 60)
        with closed_port() as port:
            while pipe.poll() is None:
                connect(port)
                time.sleep(0.01)
        output, errors = pipe.communicate(timeout=30)
    finally:
        pipe.kill()
        pipe.communicate()
    header, code = output.splitlines()
    assert (header.split()[0], code) == ("TIME", "0")
    assert [line for line in errors.splitlines() if "capturing" not in line] == []


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["--help"], [], ["doctor"]])
@pytest.mark.parametrize(("redirection", "reason"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_an_answer_that_cannot_be_written_is_an_error(arguments: list[str], redirection: str, reason: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', str(COMMAND), *arguments],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (74, f"otel-connect: standard output cannot be written ({reason})\n")
