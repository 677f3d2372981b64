"""What a process runs is told by the kernel, also of one that connects once and ends at once.

Nothing here asks /proc for an executable: the look-up of the agent is switched off. The oracle are the programs
that the test itself has put where they are, and of the rest what the kernel shows of a zombie.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_connect.model import Surroundings
from tests.support.cgroups import cgroup, own_cgroups
from tests.support.watch import USERS, Seen, Watching, once_program, open_watch

pytestmark = pytest.mark.captures

PID_MAX = Path("/proc/sys/kernel/pid_max")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with once_program() as once:
        yield once


@pytest.fixture(scope="module")
def watching() -> Iterator[Watching]:
    with open_watch() as made:
        yield made


def paths_of(taken: Sequence[Seen], pid: int) -> list[str | None]:
    return [seen.process.executable_path for seen in taken if seen.event.pid == pid]


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])


def environment(number: int) -> dict[str, str]:
    """Two variables that count, among others."""
    return {
        "PATH": "/bin",
        "OTEL_SERVICE_NAME": f"service-{number}",
        "HOME": "/",
        "OTEL_RESOURCE_ATTRIBUTES": f"number={number}",
        "PASSWORD": "OTEL_SERVICE_NAME=no",
    }


def surroundings(number: int) -> Surroundings:
    cgroups = own_cgroups()
    variables = {name: value for name, value in environment(number).items() if name.startswith("OTEL_")}
    return Surroundings(cgroups.get(""), cgroups.get("pids"), tuple(variables.items()))


def test_of_200_processes_that_connect_once_and_end_200_are_known(program: Path, watching: Watching) -> None:
    copies = [Path(shutil.copy(program, program.with_name(name))) for name in ("curl", "psql", "redis-cli", "x")]
    expected = {}
    with watching() as (watch, port):
        with ExitStack() as zombies:
            for number in range(200):
                path, user = copies[number % len(copies)], list(USERS)[number % len(USERS)]
                with cgroup(f"otc-{os.getpid()}-{number}/inner"):
                    around = surroundings(number)
                    client = zombies.enter_context(
                        subprocess.Popen([path, str(port)], user=user, env=environment(number))
                    )
                    os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)
                expected[client.pid] = (
                    (str(path), str(path), path.name, USERS[user], user, os.getpid(), start_ticks(client.pid)),
                    around,
                )
        taken = [seen for seen in watch.take() if seen.event.pid in expected]
    assert len(taken) == 200
    assert {
        event.pid: (
            (
                process.executable_path,
                process.command,
                process.executable_name,
                process.owner,
                event.uid,
                event.parent_pid,
                event.process_start_boot_ns // TICK_NS,
            ),
            around,
        )
        for event, process, around in taken
    } == expected
    assert len({around for _, around in expected.values()}) == 200


def test_of_1000_processes_with_one_pid_1000_are_known(program: Path, tmp_path: Path, watching: Watching) -> None:
    copies = [Path(shutil.copy(program, tmp_path / name)) for name in ("even", "odd", "third")]
    pid = int(PID_MAX.read_text()) - 1
    expected, taken = [], []
    with watching() as (watch, port):
        for number in range(1000):
            path = copies[number % len(copies)]
            subprocess.run([program, str(port), "with-pid", str(pid), path], env=environment(number), check=True)
            expected.append((str(path), surroundings(number)))
            if number % 100 == 99:
                taken += watch.take()
    ours = [seen for seen in taken if (seen.event.pid, seen.event.peer_port) == (pid, port)]
    named = [(process.executable_path, around) for _, process, around in ours]
    assert Counter(named) == Counter(expected)


@pytest.mark.parametrize("how", ["thread", "rename"])
def test_threads_and_other_names_change_nothing(how: str, program: Path, watching: Watching) -> None:
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port), how]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [str(program)]


def test_a_child_that_was_only_forked_runs_what_its_parent_does(program: Path, watching: Watching) -> None:
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port), "fork"]) as client:
            pass
        children = [seen.process for seen in watch.take() if seen.event.parent_pid == client.pid]
    assert [process.executable_path for process in children] == [str(program)]


def test_an_exec_between_two_attempts_tells_them_apart(program: Path, tmp_path: Path, watching: Watching) -> None:
    other = shutil.copy(program, tmp_path / "other")
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port), "exec", other]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [str(program), str(other)]


def test_what_was_deleted_is_called_what_it_was(program: Path, tmp_path: Path, watching: Watching) -> None:
    gone = Path(shutil.copy(program, tmp_path / "gone"))
    with watching() as (watch, port):
        shell = f'exec 9<"{gone}"; rm "{gone}"; exec /proc/self/fd/9 {port}'
        with subprocess.Popen(["sh", "-c", shell]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [str(gone)]


def test_a_program_in_memory(program: Path, watching: Watching) -> None:
    become = (
        "import os, sys; descriptor = os.memfd_create('unseen'); os.write(descriptor, open(sys.argv[1], 'rb').read());"
        " os.execv(f'/proc/self/fd/{descriptor}', sys.argv[1:])"
    )
    with watching() as (watch, port):
        with subprocess.Popen([sys.executable, "-c", become, program, str(port)]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == ["/memfd:unseen"]


def test_a_link_and_an_interpreter_are_followed(program: Path, tmp_path: Path, watching: Watching) -> None:
    link = tmp_path / "link"
    link.symlink_to(program)
    script = tmp_path / "script"
    script.write_text(f"#!{program} \n")
    script.chmod(0o755)
    with watching() as (watch, port):
        for path in (link, script):
            with subprocess.Popen([path, str(port)]) as client:
                pass
            assert paths_of(watch.take(), client.pid) == [str(program)]


def test_paths_are_those_that_the_process_sees(program: Path, tmp_path: Path, watching: Watching) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(program, root / "bin/client")
    (tmp_path / "tree").mkdir()
    mounted = (
        f"mount -t tmpfs none {tmp_path}/tree && mkdir -p {tmp_path}/tree/a/b && cp {program} {tmp_path}/tree/a/b/c"
        f' && exec {tmp_path}/tree/a/b/c "$0"'
    )
    commands: dict[str, list[str]] = {
        "/bin/client": ["chroot", str(root), "/bin/client"],
        f"{tmp_path}/tree/a/b/c": ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted],
    }
    with watching() as (watch, port):
        for path, command in commands.items():
            with subprocess.Popen([*command, str(port)]) as client:
                pass
            assert paths_of(watch.take(), client.pid) == [path]


def test_any_bytes_in_a_path(program: Path, tmp_path: Path, watching: Watching) -> None:
    path = os.fsencode(tmp_path) + b"/\x1b[31m\xff\xfe \n["
    shutil.copy(program, os.fsdecode(path))
    with watching() as (watch, port):
        with subprocess.Popen([path, str(port)]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [path.decode("utf-8", "backslashreplace")]


def test_a_path_that_is_too_long_leaves_the_name(program: Path, tmp_path: Path, watching: Watching) -> None:
    folder = tmp_path.joinpath(*["long" * 50] * 6)
    folder.mkdir(parents=True)
    path = shutil.copy(program, folder / "client")
    with watching() as (watch, port):
        with subprocess.Popen([path, str(port)]) as client:
            pass
        [(_, process, _)] = watch.take(client.pid)
    assert (process.executable_name, process.executable_path) == ("client", None)
