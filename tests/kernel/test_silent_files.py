"""Files and memory that never answer: who has them costs others nothing, and the agent ends in time all the same."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from otel_connect.capture.privileges import CAPABILITIES
from otel_connect.config import parse_listen
from otel_connect.serve.listener import ask_livez
from tests.support.agent import RunningAgent
from tests.support.collector import await_until
from tests.support.network import closed_port
from tests.support.publisher import Publisher
from tests.support.status import Status, unix_listen

pytestmark = pytest.mark.captures

_SILENT = Path(__file__).parents[1] / "support/clients/silent.c"
IN_ROOT = """
import os, socket, sys
os.chroot(sys.argv[1])
socket.socket().connect_ex(("127.0.0.1", int(sys.argv[2])))
sys.stdin.read()
"""
HOW = ("unread", "held", "memory")
AS_MANY_AS_BLOCK_ALL = 10
ENDS_S = 8.0
"""What an agent may need to end on a busy machine."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("silent") / "silent"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", built, _SILENT], check=True)
    return built


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with closed_port() as number:
        yield number


@contextmanager
def silent(program: Path, how: str, folder: Path, port: int) -> Iterator[int]:
    """Run such a process until the context is left; gives its pid once it has connected."""
    (folder / "etc").mkdir(parents=True)
    with subprocess.Popen([program, how, folder, str(port)], stdin=-1, stdout=-1) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"connected\n"
            yield child.pid
        finally:
            child.kill()  # its server may be waited for by its own memory


@contextmanager
def in_root(root: Path, port: int) -> Iterator[int]:
    """Run an ordinary process with a root directory, and a user database, of its own."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("captain:x:0:0::/:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\n")
    with subprocess.Popen([sys.executable, "-I", "-c", IN_ROOT, root, str(port)], stdin=-1) as child:
        try:
            yield child.pid
        finally:
            child.communicate(timeout=30)


def assert_others_are_named(agent: RunningAgent, root: Path, port: int) -> None:
    with in_root(root, port) as pid, Publisher() as publisher:
        publisher.order("publish harbour 7")
        publisher.order(f"connect {port}")
        agent.until(lambda: bool(agent.attempts(pid)) and bool(agent.attempts(publisher.pid)))
        (record,), (published,) = agent.attempts(pid), agent.attempts(publisher.pid)
    assert record["attributes"]["process.owner"] == "captain"
    assert published["resource"]["service.name"] == "harbour"


def capabilities(pid: int) -> set[str]:
    """Return the effective capabilities of the threads of a process, each as /proc writes it."""
    states = [one.read_text() for one in Path(f"/proc/{pid}/task").glob("*/status")]
    return {line.split()[1] for state in states for line in state.splitlines() if line.startswith("CapEff")}


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def descriptors(pid: int) -> list[str]:
    return [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]


def children(pid: int) -> list[int]:
    return [int(one) for task in Path(f"/proc/{pid}/task").glob("*/children") for one in task.read_text().split()]


def test_the_privilege_to_read_others_is_the_readers_alone(port: int) -> None:
    with RunningAgent("--output", "json") as agent:
        with Publisher() as publisher:
            publisher.order(f"connect {port}")
            agent.until(lambda: bool(agent.attempts(publisher.pid)))
        [reader] = [one for one in children(agent.process.pid) if b"otel_connect.reader" in command_line(one)]
        assert capabilities(agent.process.pid) == {f"{0:016x}"}
        workers = children(reader)
        assert workers
        for one in (reader, *workers):
            assert capabilities(one) == {f"{1 << CAPABILITIES['CAP_SYS_PTRACE']:016x}"}
            assert not [link for link in descriptors(one) if "bpf" in link or "/spool" in link]
        agent.process.kill()
        await_until(lambda: not any(Path(f"/proc/{one}/exe").exists() for one in (reader, *workers)))
        agent.kill()


def test_a_reader_that_was_killed_is_said_once_and_what_is_not_read_is_counted(port: int, tmp_path: Path) -> None:
    listen, settings = unix_listen(tmp_path), tmp_path / "agent.toml"
    settings.write_text(f'[serve]\nlisten = "{listen}"\n')
    with RunningAgent("--output", "json", "--config", str(settings)) as agent:
        [reader] = [one for one in children(agent.process.pid) if b"otel_connect.reader" in command_line(one)]
        os.kill(reader, signal.SIGKILL)
        with Publisher() as publisher:
            publisher.order(f"connect {port}")
            agent.until(lambda: bool(agent.attempts(publisher.pid)))
        await_until(lambda: Status(listen).document()["enrichment"]["unread_processes"])
        assert agent.stop() == 0, agent.errors
        assert "".join(agent.errors).count("the process that reads what belongs to others has ended") == 1


@pytest.mark.parametrize(("how", "many"), [*((how, 1) for how in HOW), ("held", AS_MANY_AS_BLOCK_ALL)])
def test_who_never_answers_is_given_up_and_others_are_named(
    how: str, many: int, program: Path, port: int, tmp_path: Path
) -> None:
    listen, settings = unix_listen(tmp_path), tmp_path / "agent.toml"
    settings.write_text(f'[serve]\nlisten = "{listen}"\n')
    with ExitStack() as stack:
        agent = stack.enter_context(RunningAgent("--output", "json", "--config", str(settings)))
        pids = [
            stack.enter_context(silent(program, how, tmp_path / f"silent-{number}", port)) for number in range(many)
        ]
        assert_others_are_named(agent, tmp_path / "first", port)
        agent.until(lambda: len(agent.attempts(*pids)) == many)
        assert all(record["attributes"]["process.executable.name"] == "silent" for record in agent.attempts(*pids))
        assert_others_are_named(agent, tmp_path / "second", port)
        assert "ok" in ask_livez(parse_listen(listen))
        said = [line for line in agent.errors if "keeps the reader waiting" in line]
        assert len(said) == (0 if how == "memory" else 1), "said once; such a message is not even asked for"
        began = time.monotonic()
        assert agent.stop() == 0, agent.errors
        assert time.monotonic() - began < ENDS_S
