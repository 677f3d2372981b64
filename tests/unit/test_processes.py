"""Naming processes: what is remembered, and what the real /proc says."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from otel_connect.enrich.processes import Lookups, Processes, Shown
from otel_connect.enrich.procfs import (
    arguments,
    executable,
    first_argument,
    sees_host_processes,
    surroundings,
    user_name,
)
from otel_connect.model import About, Process, Surroundings, Told
from tests.support.cgroups import own_cgroups
from tests.support.collector import await_until
from tests.support.events import make_event


class Lookup:
    """Answers from a table, and remembers what it was asked."""

    def __init__(self, paths: dict[int, str], around: Surroundings | None = None) -> None:
        self.paths = paths
        self.around = around
        self.asked: list[int] = []
        self.asked_around: list[int] = []
        self.line: tuple[str, ...] | None = None

    def executable(self, pid: int, _start: int) -> str | None:
        self.asked.append(pid)
        return self.paths.get(pid)

    def arguments(self, _pid: int, _start: int) -> tuple[str, ...] | None:
        return self.line

    def surroundings(self, pid: int, _start: int) -> Surroundings | None:
        self.asked_around.append(pid)
        return self.around


def processes(lookup: Lookup, remembered: int = 16, shown: Shown | None = None) -> Processes:
    lookups = Lookups(lookup.executable, lookup.surroundings, lookup.arguments)
    return Processes(lookups, lambda owner: {0: "root"}.get(owner.uid), remembered, shown)


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


def told(*texts: str, about: About = About.EXECUTABLE, whole: bool = True, **changes: Any) -> Told:
    of = make_event(**changes)
    texts = texts or ("curl", "bin", "usr")
    return Told(of.pid, of.process_start_boot_ns, of.exec_id, about, texts, whole, None)


def told_surroundings(**changes: Any) -> list[Told]:
    return [
        told("app.scope", "shop", "", about=About.CGROUP, **changes),
        told("", about=About.CGROUP_V1, **changes)._replace(texts=()),
        told("OTEL_SERVICE_NAME=cart", about=About.ENVIRONMENT, **changes),
    ]


def test_what_the_kernel_told_is_not_looked_up() -> None:
    lookup = Lookup({7: "/bin/other"})
    named = processes(lookup)
    named.learn([told(pid=7)])
    assert named.name(make_event(pid=7, uid=0)) == Process("curl", "/usr/bin/curl", "root")
    assert (lookup.asked, named.misses) == ([], 0)


def test_each_exec_has_its_own_executable() -> None:
    named = processes(Lookup({}))
    named.learn([told(pid=7, exec_id=1), told("second", "bin", pid=7, exec_id=2)])
    paths = [named.name(make_event(pid=7, exec_id=number)).executable_path for number in (2, 1, 3)]
    assert paths == ["/bin/second", "/usr/bin/curl", None]


def test_attempts_that_were_only_counted_have_the_latest() -> None:
    named = processes(Lookup({}))
    named.learn([told(pid=7, exec_id=1), told("second", "bin", pid=7, exec_id=2)])
    assert named.name(make_event(pid=7, exec_id=0)).executable_path == "/bin/second"


def test_a_path_that_is_too_long_leaves_the_name_the_kernel_told() -> None:
    named = processes(Lookup({7: "/bin/other"}))
    named.learn([told("curl", "very", "long", whole=False, pid=7)])
    assert named.name(make_event(pid=7, uid=0)) == Process("curl", None, "root")


def test_what_was_told_outlives_a_reload() -> None:
    before, after = processes(Lookup({})), processes(Lookup({}))
    before.learn([told(pid=7)])
    after.inherit(before)
    assert after.name(make_event(pid=7)).executable_path == "/usr/bin/curl"


def test_surroundings_that_the_kernel_told_are_not_looked_up() -> None:
    lookup = Lookup({}, Surroundings("/other"))
    named = processes(lookup)
    named.learn(told_surroundings(pid=7))
    around = named.surroundings(make_event(pid=7))
    assert around == Surroundings("/shop/app.scope", None, (("OTEL_SERVICE_NAME", "cart"),))
    assert named.surroundings(make_event(pid=7)) is around
    assert lookup.asked_around == []


def test_what_was_lost_or_cut_of_the_surroundings_is_looked_up_once() -> None:
    found = Surroundings("/looked", "/up", (("OTEL_SERVICE_NAME", "found"),))
    for number, lost in enumerate(told_surroundings()):
        lookup = Lookup({}, found)
        named = processes(lookup)
        kept = [one for one in told_surroundings(pid=7) if one.about is not lost.about]
        named.learn([*kept, lost._replace(pid=7, whole=False)] if number % 2 else kept)
        around = {named.surroundings(make_event(pid=7)) for _ in range(2)}
        expected = Surroundings("/shop/app.scope", None, (("OTEL_SERVICE_NAME", "cart"),))
        assert around == {(*expected[:number], found[number], *expected[number + 1 :])}
        assert lookup.asked_around == [7]


def test_where_nothing_can_be_looked_up_what_was_told_of_the_variables_counts() -> None:
    named = processes(Lookup({}))
    named.learn([told("OTEL_SERVICE_NAME=cart", about=About.ENVIRONMENT, whole=False, pid=7)])
    assert named.surroundings(make_event(pid=7)) == Surroundings(None, None, (("OTEL_SERVICE_NAME", "cart"),))
    assert named.surroundings(make_event(pid=8)) == Surroundings()


def test_what_was_lost_on_the_way_counts_when_it_is_told_again() -> None:
    named = processes(Lookup({}))
    assert named.surroundings(make_event(pid=7)) == Surroundings()
    named.learn(told_surroundings(pid=7))
    assert named.surroundings(make_event(pid=7)).cgroup == "/shop/app.scope"


def test_a_root_is_a_path_too() -> None:
    named = processes(Lookup({}))
    named.learn([told("", about=about, pid=7) for about in (About.CGROUP, About.CGROUP_V1)])
    assert named.surroundings(make_event(pid=7))[:2] == ("/", "/")


def test_a_process_that_moves_to_another_cgroup_is_found_there() -> None:
    named = processes(Lookup({}))
    named.learn(told_surroundings(pid=7))
    before = named.surroundings(make_event(pid=7, cgroup_id=1))
    named.learn([told("else", "", about=About.CGROUP, pid=7)])
    after = [named.surroundings(make_event(pid=7, cgroup_id=number)) for number in (1, 2)]
    assert after == [before, before._replace(cgroup="/else")]


def test_only_what_names_a_service_is_kept_of_an_environment_and_the_first_of_a_name() -> None:
    named = processes(Lookup({}))
    variables = (
        "OTEL_SERVICE_NAME=a=b",
        "OTEL_SERVICE_NAME=c",
        "OTEL_RESOURCE_ATTRIBUTES=",
        "OTEL_SERVICE_NAMES=d",
        "E",
    )
    named.learn([told(*variables, about=About.ENVIRONMENT, pid=7)])
    around = named.surroundings(make_event(pid=7))
    assert around.environment == (("OTEL_SERVICE_NAME", "a=b"), ("OTEL_RESOURCE_ATTRIBUTES", ""))


def test_the_command_is_the_first_argument_and_the_others_are_shown_when_asked_for() -> None:
    line = ("./curl", "-u", "alice:wonder", "https://example.com")
    for shown, expected in ((Shown(), None), (Shown(command_args=True), ("./curl", "-u", "alice:***", line[3]))):
        for kernel_told in (True, False):
            lookup = Lookup({7: "/usr/bin/curl"})
            named = processes(lookup, shown=shown)
            if kernel_told:
                named.learn([told(*line, about=About.ARGUMENTS, pid=7)])
            else:
                lookup.line = line
            process = named.name(make_event(pid=7))
            assert (process.command, process.command_args) == ("./curl", expected)


def test_secrets_are_not_even_remembered() -> None:
    before, after = processes(Lookup({})), processes(Lookup({}), shown=Shown(command_args=True))
    before.learn([told("x", "--token", "hunter2", about=About.ARGUMENTS, pid=7)])
    after.inherit(before)
    assert after.name(make_event(pid=7)).command_args == ("x", "--token", "***")


def test_vpid_and_cgroup_are_shown_when_asked_for() -> None:
    facts = [one._replace(vpid=1) for one in (*told_surroundings(pid=7), told(pid=7))]
    for shown, expected in (
        (Shown(), (None, None)),
        (Shown(vpid=True), (1, None)),
        (Shown(cgroup=True), (None, "0::/shop/app.scope")),
    ):
        named = processes(Lookup({}), shown=shown)
        named.learn(facts)
        assert named.name(make_event(pid=7))[-2:] == expected
    again = processes(Lookup({}), shown=Shown(cgroup=True))
    again.learn([*facts, told("v1", "", about=About.CGROUP_V1, pid=7)])
    assert again.name(make_event(pid=7)).cgroup == "pids:/v1"


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


def test_proc_says_where_a_process_lives() -> None:
    environment = {"A": "OTEL_SERVICE_NAME=no", "OTEL_SERVICE_NAME": "cart", "OTEL_RESOURCE_ATTRIBUTES": "a=\udcff"}
    with subprocess.Popen(
        ["sh", "-c", "echo; read _"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()  # before, it may be about to become the shell, without an environment
            found = surroundings(child.pid, start_boot_ns(child.pid))
            other = surroundings(child.pid, start_boot_ns(child.pid) + 1_000_000_000)
        finally:
            child.kill()
    cgroups = own_cgroups()
    variables = (("OTEL_SERVICE_NAME", "cart"), ("OTEL_RESOURCE_ATTRIBUTES", "a=\\xff"))
    assert found == Surroundings(cgroups.get(""), cgroups.get("pids"), variables)
    assert other is None
    assert surroundings(child.pid, 0) is None


def test_proc_says_how_a_process_was_called() -> None:
    assert arguments(os.getpid(), start_boot_ns(os.getpid())) == tuple(sys.orig_argv)
    assert arguments(os.getpid(), start_boot_ns(os.getpid()) + 1_000_000_000) is None


def test_the_first_argument_can_be_read_alone(tmp_path: Path) -> None:
    own = start_boot_ns(os.getpid())
    assert first_argument(os.getpid(), own) == (sys.orig_argv[0],)
    assert first_argument(os.getpid(), own + 1_000_000_000) is None
    here = tmp_path / str(os.getpid())
    here.mkdir()
    (here / "stat").write_bytes(Path("/proc/self/stat").read_bytes())
    for line, first in (
        (b"curl\0-u\0secret\0", ("curl",)),
        (b"written over", ("written over",)),
        (b"\xff\0", ("\\xff",)),
        (b"\0x\0", ("",)),
        (b"n" * 255 + b"\0", ("n" * 255,)),
        (b"n" * 256 + b"\0", None),
    ):
        (here / "cmdline").write_bytes(line)
        assert first_argument(os.getpid(), own, tmp_path) == first


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


def test_who_may_not_read_an_environment_learns_the_cgroup_all_the_same() -> None:
    with subprocess.Popen(["sleep", "60"], env={"OTEL_SERVICE_NAME": "shop"}) as child:
        try:
            start = start_boot_ns(child.pid)
            await_until(lambda: (around := surroundings(child.pid, start)) is not None and around.environment)
            whole = surroundings(child.pid, start)
            os.seteuid(65534)
            try:
                around = surroundings(child.pid, start)
            finally:
                os.seteuid(0)
        finally:
            child.kill()
    assert whole is not None
    assert whole.environment == (("OTEL_SERVICE_NAME", "shop"),)
    assert around == whole._replace(environment=())
