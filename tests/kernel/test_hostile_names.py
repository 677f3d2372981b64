"""Programs whose names are chosen to do harm: none is lost, none costs a neighbour, none reaches a terminal.

A process chooses its comm, its arguments and the name of its executable. Real programs with such names make
real attempts, and ordinary ones between them; what the agent writes is looked at byte by byte.
"""

import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import RunningAgent
from tests.support.collector import Collector
from tests.support.network import closed_port

pytestmark = pytest.mark.captures

COMMS = {
    "escape": b"\x1b[2J\x1b]0;owned",
    "bell and backspace": b"a\x07\x08\x08b",
    "carriage return": b"good\rbad",
    "newline": b"one\ntwo\nthree",
    "tab and vertical": b"a\tb\x0bc\x0cd",
    "delete": b"a\x7fb",
    "C1 control": "a\u009b31mb".encode(),
    "bidi override": "a\u202eb\u2066c".encode(),
    "invisible": "a\u200b\u2060\ufeffb".encode(),
    "invalid UTF-8": b"\xff\xfe\xc0\xaf",
    "cut UTF-8": "äöüäöüäö".encode()[:15],
    "lone surrogate": b"a\xed\xa0\x80b",
    "noncharacter": "a\uffff\U0010ffffb".encode(),
    "markup": b"[/]",
    "more markup": b"[red]x[/red]",
    "html": b"<script>x",
    "quotes": b"\"\\'`$(x)",
    "format": b"%s%n{0}{x}",
    "longest": b"0123456789abcde",
    "longer than there is room": b"0123456789abcdefghi",
    "empty": b"",
    "blank": b"   ",
}
"""What the kernel keeps: 15 bytes, anything but NUL."""

# Renames itself, then makes one attempt; its arguments are as hostile as the rest.
CLIENT = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[2]), 0, 0, 0)
with socket.socket() as client:
    client.connect_ex(("127.0.0.1", int(sys.argv[1])))
"""
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def executable(directory: Path, comm: bytes) -> Path:
    """Copy the interpreter to where its path is hostile, too; a name has no slash and is not empty."""
    name = (comm or b" ").replace(b"/", b"|")
    place = Path(os.fsdecode(bytes(directory) + b"/" + name + b".d"))
    place.mkdir()
    return Path(shutil.copy2(os.path.realpath(sys.executable), place / os.fsdecode(name)))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("programs")
    return {name: executable(folder, comm) for name, comm in COMMS.items()}


def run_all(programs: dict[str, Path], port: int) -> dict[str, int]:
    """Let each hostile program make an attempt, and an ordinary one after it; returns their pids."""
    pids = {}
    # The library is found from the executable's place, which is a strange one here.
    home = {"PYTHONHOME": sys.base_prefix, "PATH": os.environ["PATH"]}
    for name, program in programs.items():
        for who, path, comm in ((name, program, COMMS[name]), (f"after {name}", sys.executable, b"neighbour")):
            argv = [os.fsencode(path), b"-S", b"-c", CLIENT.encode(), str(port).encode(), comm.hex().encode()]
            process = subprocess.Popen([*argv, b"\x1b]0;owned\x07", b"\xff\xfe", "\u202e".encode()], env=home)
            assert process.wait(30) == 0, who
            pids[who] = process.pid
    return pids


def visible(text: str) -> bool:
    """Say whether a terminal shows all of a text, and obeys nothing in it."""
    return all(
        unicodedata.category(one) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        and unicodedata.bidirectional(one) not in BIDI
        for one in text
    )


def escaped(comm: bytes) -> str:
    """Spell what the kernel keeps of a comm as the attribute has it."""
    return comm[:15].decode("utf-8", "backslashreplace")


def test_nothing_reaches_a_terminal(programs: dict[str, Path]) -> None:
    with RunningAgent() as agent, closed_port() as port:
        pids = run_all(programs, port)
        shown = {str(pid) for pid in pids.values()}
        agent.until(lambda: shown <= {line.split()[1] for line in agent.output if len(line.split()) > 1}, 30)
    lines = Counter(line.split()[1] for line in agent.output if len(line.split()) > 1)
    assert {name: lines[str(pid)] for name, pid in pids.items()} == dict.fromkeys(pids, 1)
    assert [line for line in (*agent.output, *agent.errors) if not visible(line)] == []


def test_json_lines_stay_lines_and_lose_nothing(programs: dict[str, Path]) -> None:
    with RunningAgent("--output", "json") as agent, closed_port() as port:
        pids = run_all(programs, port)
        agent.until(lambda: len(agent.attempts(*pids.values())) == len(pids), 30)
    records = {record["attributes"]["process.pid"]: record for record in agent.attempts(*pids.values())}
    assert [line for line in (*agent.output, *agent.errors) if not visible(line)] == []
    assert_intact(pids, records)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_gets_every_name_intact(protocol: str, programs: dict[str, Path], tmp_path: Path) -> None:
    with Collector(tmp_path) as collector, closed_port() as port:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        with RunningAgent(environment=environment) as agent:
            pids = run_all(programs, port)

            def ours() -> list[dict[str, Any]]:
                found = collector.log_records()
                return [record for record in found if record["attributes"].get("process.pid") in pids.values()]

            collector.await_until(lambda: len(ours()) == len(pids), 30)
            assert agent.stop() == 0
        assert_intact(pids, {record["attributes"]["process.pid"]: record for record in ours()})
    assert [line for line in agent.errors if not visible(line)] == []


def assert_intact(pids: dict[str, int], records: dict[int, dict[str, Any]]) -> None:
    for name, pid in pids.items():
        comm = COMMS.get(name, b"neighbour")
        assert records[pid]["attributes"]["otel_connect.process.comm"] == escaped(comm), name
        assert records[pid]["attributes"]["otel_connect.outcome"] == "refused"
        assert "\n" not in records[pid]["body"]
        assert visible(records[pid]["body"]), name
