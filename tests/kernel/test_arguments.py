"""How a process was called, told by the kernel: the first argument, all of them on demand, and its pid inside."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import RunningAgent
from tests.support.network import closed_port
from tests.support.redaction_corpus import harmless_lines, secret_lines
from tests.support.watch import USERS, Watching, once_program, open_watch

pytestmark = pytest.mark.captures

LONG = "long" * 64


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with once_program() as once:
        yield once


@pytest.fixture(scope="module")
def watching() -> Iterator[Watching]:
    with open_watch() as made:
        yield made


@pytest.fixture(scope="module")
def watching_arguments() -> Iterator[Watching]:
    with open_watch(command_args=True) as made:
        yield made


@pytest.mark.parametrize(
    ("first", "command"),
    [
        ("curl", "curl"),
        ("-sh", "-sh"),
        ("", ""),
        ("\udcff\x1b[31m \n", "\\xff\x1b[31m \n"),
        ("--password=hunter2", "--password=***"),
        ("n" * 300, "n" * 255),
    ],
    ids=repr,
)
def test_the_first_argument_alone_is_read(first: str, command: str, program: Path, watching: Watching) -> None:
    with watching() as (watch, port):
        with subprocess.Popen([first, str(port), "", "never-read"], executable=program) as client:
            pass
        [seen] = watch.take(client.pid)
    assert (seen.process.command, seen.process.command_args) == (command, (command,))
    assert seen.process.executable_path == str(program)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["", "x"], ["", "x"]),
        (["\udcff", "\x1b[31m\n", "é"], ["\\xff", "\x1b[31m\n", "é"]),
        (["-x", "--token", "hunter2", "last"], ["-x", "--token", "***", "last"]),
        ([LONG, LONG, LONG, "x" * 230, "AKIAIOSFODNN7EXAMPLE", "more"], [LONG, LONG, LONG]),
    ],
    ids=["empty ones", "any bytes", "a secret", "too many: those that are there whole"],
)
def test_all_arguments_are_read_on_demand(
    given: list[str], shown: list[str], program: Path, watching_arguments: Watching
) -> None:
    with watching_arguments() as (watch, port):
        with subprocess.Popen(["once", str(port), *given], executable=program) as client:
            pass
        [seen] = watch.take(client.pid)
    found = seen.process.command_args
    assert found is not None
    assert list(found[:2]) == ["once", str(port)]
    assert list(found[2 : 2 + len(shown)]) == shown
    assert "AKIA" not in str(found)


def test_no_secret_of_the_corpus_comes_out(program: Path, tmp_path: Path) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text("[enrich]\ncommand_args = true\n")
    harmless = harmless_lines()[:20]
    secrets = secret_lines()
    pids = []
    with RunningAgent("--config", str(settings), "--output", "json") as agent, closed_port() as port:
        for line in (*(line for *_, line in secrets), *harmless):
            name, *arguments = shlex.split(line)
            with subprocess.Popen([name, str(port), *arguments], executable=program) as client:
                pids.append(client.pid)
        agent.until(lambda: len(agent.attempts(*pids)) == len(pids), 60)
    by_pid = {record["attributes"]["process.pid"]: record["attributes"] for record in agent.attempts(*pids)}
    lines = [by_pid[pid]["process.command_args"] for pid in pids]
    assert [line[1] for line in lines] == [str(port)] * len(lines)
    for (kind, secret, _), shown in zip(secrets, lines, strict=False):
        assert secret not in " ".join(shown), kind
    assert lines[len(secrets) :] == [
        [words[0], str(port), *words[1:]] for words in (shlex.split(line) for line in harmless)
    ]


CALLS_ITSELF = """
import socket, sys
with open("/proc/self/comm", "w") as comm:
    comm.write("x --token abc7d")
socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1])))
"""


@pytest.mark.parametrize("output", ["json", "console"])
def test_a_secret_in_what_a_program_calls_itself_is_shown_nowhere(output: str) -> None:
    title = "sync  --password hunter2secret --verbose"
    with closed_port() as port:
        with RunningAgent("--output", output) as agent:
            argv = [title, "-c", CALLS_ITSELF, str(port)]
            with subprocess.Popen(argv, executable="/usr/bin/python3") as client:
                pass
            agent.until(lambda: any(f":{port} " in f"{line} " for line in agent.output))
        said = "\n".join((*agent.output, *agent.errors))
    assert "hunter2secret" not in said
    assert "abc7d" not in said
    if output == "json":
        [found] = [record["attributes"] for record in agent.attempts(client.pid)]
        assert found["process.command"] == "sync  --password *** --verbose"
        assert found["otel_connect.process.comm"] == "x --token ***"


@pytest.mark.parametrize(("prefix", "vpid"), [(["unshare", "--fork", "--pid"], 1), ([], None)], ids=["inside", "out"])
def test_the_pid_in_a_namespace(prefix: list[str], vpid: int | None, program: Path, watching: Watching) -> None:
    with watching() as (watch, port):
        with subprocess.Popen([*prefix, program, str(port), "thread"]) as client:
            pass
        [seen] = [one for one in watch.take() if client.pid in {one.event.pid, one.event.parent_pid}]
    assert seen.process.vpid == (vpid or client.pid)
    assert seen.event.pid != 1
    assert seen.process.executable_path == str(program)


def test_a_setuid_program(program: Path, watching: Watching) -> None:
    other = Path(shutil.copy(program, program.with_name("setuid")))
    os.chown(other, 1234, 5678)
    other.chmod(0o6755)
    with watching() as (watch, port):
        with subprocess.Popen([other, str(port)], user=65534, group=65534, env={"OTEL_SERVICE_NAME": "cart"}) as client:
            pass
        [(event, process, around)] = watch.take(client.pid)
    assert (event.uid, event.gid, process.owner) == (1234, 5678, USERS[1234])  # the effective ones
    assert (process.executable_path, process.command) == (str(other), str(other))
    assert around.environment == (("OTEL_SERVICE_NAME", "cart"),)
