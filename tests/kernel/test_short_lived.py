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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.config import CaptureConfig
from otel_connect.enrich.processes import Processes
from otel_connect.model import ConnectEvent, Process
from tests.support.network import closed_port

SOURCE = Path(__file__).parents[1] / "support/clients/once.c"
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
USERS = {0: "root", 1234: None, 65534: "nobody"}


class Watch:
    """The kernel side at work, and the processes of its events named without any look-up."""

    def __init__(self, capture: KernelCapture) -> None:
        self._capture = capture
        self.processes = Processes(lambda _pid, _start: None, USERS.get, 4096)

    def take(self) -> list[tuple[ConnectEvent, Process]]:
        """Take what there is now, as the agent does."""
        taken = []
        more = True
        while more:
            drained = self._capture.drain()
            self.processes.learn(drained.executables)
            taken += [(event, self.processes.name(event)) for event in drained.events]
            more = drained.more
        return taken


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # other users run it, too
        once = Path(folder) / "once"
        subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", once, SOURCE], check=True)
        yield once


@contextmanager
def watching() -> Iterator[tuple[Watch, int]]:
    with closed_port() as port, KernelCapture(CaptureConfig(), 0) as capture:
        yield Watch(capture), port


def paths_of(taken: Sequence[tuple[ConnectEvent, Process]], pid: int) -> list[str | None]:
    return [process.executable_path for event, process in taken if event.pid == pid]


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])


def test_of_200_processes_that_connect_once_and_end_200_are_known(program: Path) -> None:
    copies = [Path(shutil.copy(program, program.with_name(name))) for name in ("curl", "psql", "redis-cli", "x")]
    expected = {}
    with watching() as (watch, port):
        with ExitStack() as zombies:
            for number in range(200):
                path, user = copies[number % len(copies)], list(USERS)[number % len(USERS)]
                client = zombies.enter_context(subprocess.Popen([path, str(port)], user=user))
                os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)
                expected[client.pid] = (str(path), path.name, USERS[user], user, os.getpid(), start_ticks(client.pid))
        taken = [(event, process) for event, process in watch.take() if event.pid in expected]
    assert len(taken) == 200
    assert {
        event.pid: (
            process.executable_path,
            process.executable_name,
            process.owner,
            event.uid,
            event.parent_pid,
            event.process_start_boot_ns // TICK_NS,
        )
        for event, process in taken
    } == expected


def test_of_1000_processes_with_pids_used_again_1000_are_known(program: Path, tmp_path: Path) -> None:
    copies = [Path(shutil.copy(program, tmp_path / name)) for name in ("even", "odd", "third")]
    expected = []
    with watching() as (watch, port):
        wanted = 0
        taken = []
        for number in range(1000):
            path = copies[number % len(copies)]
            if wanted:
                LAST_PID.write_text(str(wanted - 1))
            with subprocess.Popen([path, str(port)]) as client:
                pass
            wanted = wanted or client.pid
            expected.append((client.pid, str(path)))
            if number % 100 == 99:
                taken += watch.take()
        ours = {pid for pid, _ in expected}
        named = [(event.pid, process.executable_path) for event, process in taken if event.pid in ours]
    assert Counter(named) == Counter(expected)
    assert Counter(pid for pid, _ in expected).most_common(1)[0][1] > 500


@pytest.mark.parametrize("how", ["thread", "rename"])
def test_threads_and_other_names_change_nothing(how: str, program: Path) -> None:
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port), how]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [str(program)]


def test_a_child_that_was_only_forked_runs_what_its_parent_does(program: Path) -> None:
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port), "fork"]) as client:
            pass
        children = [process for event, process in watch.take() if event.parent_pid == client.pid]
    assert [process.executable_path for process in children] == [str(program)]


def test_an_exec_between_two_attempts_tells_them_apart(program: Path, tmp_path: Path) -> None:
    other = shutil.copy(program, tmp_path / "other")
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port), "exec", other]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [str(program), str(other)]


def test_what_was_deleted_is_called_what_it_was(program: Path, tmp_path: Path) -> None:
    gone = Path(shutil.copy(program, tmp_path / "gone"))
    with watching() as (watch, port):
        shell = f'exec 9<"{gone}"; rm "{gone}"; exec /proc/self/fd/9 {port}'
        with subprocess.Popen(["sh", "-c", shell]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [str(gone)]


def test_a_program_in_memory(program: Path) -> None:
    become = (
        "import os, sys; descriptor = os.memfd_create('unseen'); os.write(descriptor, open(sys.argv[1], 'rb').read());"
        " os.execv(f'/proc/self/fd/{descriptor}', sys.argv[1:])"
    )
    with watching() as (watch, port):
        with subprocess.Popen([sys.executable, "-c", become, program, str(port)]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == ["/memfd:unseen"]


def test_a_link_and_an_interpreter_are_followed(program: Path, tmp_path: Path) -> None:
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


def test_paths_are_those_that_the_process_sees(program: Path, tmp_path: Path) -> None:
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


def test_any_bytes_in_a_path(program: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\x1b[31m\xff\xfe \n["
    shutil.copy(program, os.fsdecode(path))
    with watching() as (watch, port):
        with subprocess.Popen([path, str(port)]) as client:
            pass
        taken = watch.take()
    assert paths_of(taken, client.pid) == [path.decode("utf-8", "backslashreplace")]


def test_a_path_that_is_too_long_leaves_the_name(program: Path, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["long" * 50] * 4)
    folder.mkdir(parents=True)
    path = shutil.copy(program, folder / "client")
    with watching() as (watch, port):
        with subprocess.Popen([path, str(port)]) as client:
            pass
        [(_, process)] = [one for one in watch.take() if one[0].pid == client.pid]
    assert (process.executable_name, process.executable_path) == ("client", None)
