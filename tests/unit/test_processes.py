"""Naming processes: what is remembered, and what the real /proc says."""

import os
import subprocess
import sys
from pathlib import Path

from otel_connect.enrich.processes import Processes
from otel_connect.enrich.procfs import executable, sees_host_processes, user_name
from otel_connect.model import Executable, Process
from tests.support.events import make_event


class Lookup:
    """Answers from a table, and remembers what it was asked."""

    def __init__(self, paths: dict[int, str]) -> None:
        self.paths = paths
        self.asked: list[int] = []

    def __call__(self, pid: int, _start: int) -> str | None:
        self.asked.append(pid)
        return self.paths.get(pid)


def processes(lookup: Lookup, remembered: int = 16) -> Processes:
    return Processes(lookup, {0: "root"}.get, remembered)


def test_a_process_is_looked_up_once() -> None:
    lookup = Lookup({7: "/usr/bin/python3.11"})
    named = processes(lookup)
    event = make_event(pid=7, uid=0, comm="python3")
    assert {named.name(event) for _ in range(3)} == {Process("python3.11", "/usr/bin/python3.11", "root")}
    assert lookup.asked == [7]


def test_another_start_time_user_or_comm_is_asked_again() -> None:
    lookup = Lookup({7: "/bin/sh"})
    named = processes(lookup)
    for change in ({}, {"process_start_boot_ns": 9}, {"comm": "sh"}, {"uid": 0}):
        named.name(make_event(pid=7, **change))
    assert lookup.asked == [7, 7, 7, 7]


def test_a_process_that_has_gone_is_called_by_its_comm() -> None:
    named = processes(Lookup({}))
    assert named.name(make_event(pid=7, uid=5, comm="curl")) == Process("curl", None, None)
    assert named.misses == 1


def told(path: str | None = "/usr/bin/curl", **changes: int) -> Executable:
    of = make_event(**changes)
    return Executable(of.pid, of.process_start_boot_ns, of.exec_id, "curl", path)


def test_what_the_kernel_told_is_not_looked_up() -> None:
    lookup = Lookup({7: "/bin/other"})
    named = processes(lookup)
    named.learn([told(pid=7)])
    assert named.name(make_event(pid=7, uid=0)) == Process("curl", "/usr/bin/curl", "root")
    assert (lookup.asked, named.misses) == ([], 0)


def test_each_exec_has_its_own_executable() -> None:
    named = processes(Lookup({}))
    named.learn([told(pid=7, exec_id=1), told("/bin/second", pid=7, exec_id=2)])
    paths = [named.name(make_event(pid=7, exec_id=number)).executable_path for number in (2, 1, 3)]
    assert paths == ["/bin/second", "/usr/bin/curl", None]


def test_attempts_that_were_only_counted_have_the_latest() -> None:
    named = processes(Lookup({}))
    named.learn([told(pid=7, exec_id=1), told("/bin/second", pid=7, exec_id=2)])
    assert named.name(make_event(pid=7, exec_id=0)).executable_path == "/bin/second"


def test_a_path_that_is_too_long_leaves_the_name_the_kernel_told() -> None:
    named = processes(Lookup({7: "/bin/other"}))
    named.learn([told(None, pid=7)])
    assert named.name(make_event(pid=7, uid=0)) == Process("curl", None, "root")


def test_what_was_told_outlives_a_reload() -> None:
    before, after = processes(Lookup({})), processes(Lookup({}))
    before.learn([told(pid=7)])
    after.inherit(before)
    assert after.name(make_event(pid=7)).executable_path == "/usr/bin/curl"


def test_memory_is_bounded() -> None:
    lookup = Lookup(dict.fromkeys(range(100), "/bin/x"))
    named = processes(lookup, remembered=2)
    for pid in (*range(100), 0):
        named.name(make_event(pid=pid))
    assert lookup.asked.count(0) == 2


def start_boot_ns(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(stat[19]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def test_proc_names_this_interpreter() -> None:
    assert executable(os.getpid(), start_boot_ns(os.getpid())) == os.path.realpath(sys.executable)


def test_a_pid_with_another_start_time_is_another_process() -> None:
    assert executable(os.getpid(), start_boot_ns(os.getpid()) + 1_000_000_000) is None


def test_a_pid_that_is_gone_has_no_executable() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert executable(child.pid, 0) is None


def test_a_deleted_executable_keeps_its_path(tmp_path: Path) -> None:
    program = tmp_path / "od (d) program"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as child:
        start = start_boot_ns(child.pid)
        program.unlink()
        try:
            assert executable(child.pid, start) == str(program)
        finally:
            child.kill()


def test_users() -> None:
    assert user_name(0) == "root"
    assert user_name(4_000_000_000) is None


def test_the_namespace_of_processes(tmp_path: Path) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    assert sees_host_processes(tmp_path)
    (tmp_path / "self/ns/pid").unlink()
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026532999]")
    assert not sees_host_processes(tmp_path)
    assert not sees_host_processes(tmp_path / "nothing")
