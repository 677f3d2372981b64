"""The bench keeps its word: each case ends as the table says, for the program itself and for strace."""

import errno
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bench import Bench, Family, Run
from tests.support.cases import CASES as EVERY_CASE
from tests.support.cases import SUBJECTS, Case, Where, error_route, run_all, scripted
from tests.support.entries import Entry
from tests.support.network import LOOPBACK, Listener, NetworkNamespace, closed_port
from tests.support.outcome_cases import CASES as OUTCOME_CASES
from tests.support.peer import Answer, Behaviour
from tests.support.runtimes import Runtime, available

# What strace cannot follow: calls side by side, or many; a socket that believes to be connected; and where a SYN takes
# along what sendto() sends, that it is over before the attempt is.
_BY_CONNECT = [
    subject.what
    for subject in SUBJECTS
    if not subject.per_syn
    and subject.what not in {"TCP_REPAIR", "errno taken at once", "ICMP error taken at once", "sendto() between calls"}
]
_BY_OTHERS = ["accepted there", "refused there", "given up by close", "given up by linger"]
TRACED = {Entry.CONNECT: _BY_CONNECT, Entry.MPTCP: _BY_OTHERS, Entry.SENDTO: _BY_OTHERS[:1]}
CASES = [case for case in EVERY_CASE if case.what in TRACED.get(case.way.entry, ())]

BY_NAME = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class End(NamedTuple):
    """One end that every runtime can tell."""

    where: Where
    family: Family
    result: str
    errno_name: str | None
    attempts: int = 1
    timeout_ms: int = 0


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Make every case once, under strace; tests/kernel/test_outcomes.py makes them without it, under the agent."""
    with Bench(traced=True) as bench:
        return run_all(bench, CASES)


@BY_NAME
def test_the_program_sees_the_end_that_the_table_says(case: Case, runs: dict[str, Run]) -> None:
    run = runs[case.name]
    if run.exit_code == -signal.SIGKILL:
        assert run.reports == ()
        return
    assert run.exit_code == 0
    assert [(report.pid, report.result) for report in run.reports] == [
        (run.pid, expected.result) for expected in case.expected
    ]
    for report, expected in zip(run.reports, case.expected, strict=True):
        assert report.host == run.target.host
        assert report.blocking == expected.blocking
        if expected.errno_name:
            assert report.errno_name == expected.errno_name
        if expected.result == "ok":
            assert report.errno is None


@BY_NAME
def test_strace_sees_the_same_attempts(case: Case, runs: dict[str, Run]) -> None:
    run = runs[case.name]
    assert run.observed is not None
    assert [(seen.pid, seen.result, seen.errno_name) for seen in run.observed] == [
        (run.pid, expected.result, expected.errno_name) for expected in case.expected
    ]
    for seen in run.observed if len(case.expected) == 1 else ():
        if seen.errno_name not in {"EFAULT", "EAFNOSUPPORT"} and run.target.port:
            assert (seen.address, seen.port) == (run.target.host, run.target.port)


def test_the_names_of_the_cases_are_unique() -> None:
    assert len({case.name for case in EVERY_CASE}) == len(EVERY_CASE)


def test_a_thread_is_not_its_process(runs: dict[str, Run]) -> None:
    (report,) = runs["thread|blocking|IPv4|connect()"].reports
    assert report.tid != report.pid
    (seen,) = runs["thread|blocking|IPv4|connect()"].observed or ()
    assert seen.tid != seen.pid


def test_the_killed_are_killed(runs: dict[str, Run]) -> None:
    killed = {name for name, run in runs.items() if run.exit_code == -signal.SIGKILL}
    assert killed == {case.name for case in CASES if case.what == "killed"}


def test_cases_and_rows_agree() -> None:
    rows = {row.name: row.outcome for row in OUTCOME_CASES}
    for case in EVERY_CASE:
        if case.row and "goes on" not in case.row:
            assert rows[case.row] in {expected.outcome for expected in case.expected}, case.name


@pytest.fixture(scope="module")
def runtimes() -> list[Runtime]:
    return available()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench(traced=True) as made:
        yield made


ENDS = {
    "accepted": End(Bench.listener, Family.IPV6, "ok", None, attempts=3),
    "accepted there": End(scripted(Answer.ACCEPT), Family.IPV4, "ok", None, timeout_ms=15_000),
    "refused": End(Bench.closed, Family.IPV4, "error", "ECONNREFUSED", attempts=2),
    "reset": End(scripted(Answer.RESET), Family.IPV6, "error", "ECONNRESET", timeout_ms=15_000),
    "prohibited": End(error_route("prohibit"), Family.IPV4, "error", "EACCES"),
    "given up": End(scripted(Answer.SILENT), Family.IPV4, "abandoned", None, timeout_ms=300),
}


def test_the_runtimes_that_must_be_there_are(runtimes: list[Runtime]) -> None:
    assert {"python", "perl", "go", "curl"} <= {runtime.name for runtime in runtimes}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_every_runtime_tells_its_ends_and_strace_agrees(end: End, bench: Bench, runtimes: list[Runtime]) -> None:
    def run(runtime: Runtime) -> Run:
        target = end.where(bench, end.family)
        return bench.run_runtime(runtime, target, attempts=end.attempts, timeout_ms=end.timeout_ms)

    with ThreadPoolExecutor() as pool:
        runs = dict(zip((runtime.name for runtime in runtimes), pool.map(run, runtimes), strict=True))
    told = {name: [(report.pid, report.result) for report in run.reports] for name, run in runs.items()}
    assert told == {name: [(run.pid, end.result)] * end.attempts for name, run in runs.items()}
    named = {report.errno_name for name, run in runs.items() if name != "curl" for report in run.reports}
    assert named == {end.errno_name}
    seen = {
        name: [(attempt.pid, attempt.result, attempt.errno_name) for attempt in run.observed or ()]
        for name, run in runs.items()
    }
    assert seen == {name: [(run.pid, end.result, end.errno_name)] * end.attempts for name, run in runs.items()}


def test_the_listener_knows_who_came(bench: Bench, runtimes: list[Runtime]) -> None:
    listener = bench.listeners[Family.IPV6.wire]
    for runtime in runtimes:
        run = bench.run_runtime(runtime, bench.listener(Family.IPV6), attempts=2)
        ports = [report.local_port or 0 for report in run.reports]
        for port in ports:
            listener.wait_for(port)
        assert len(set(ports)) == 2


def test_the_executable_path_is_what_proc_shows(runtimes: list[Runtime]) -> None:
    with Bench() as bench:
        for runtime in runtimes:
            target = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
            argv = runtime.argv(target.host, target.port, 1, 10_000)
            with bench.namespace.popen(argv) as process:
                bench.peer.wait_for_syn(target.port)
                shown = Path(f"/proc/{process.pid}/exe").readlink()
                process.kill()
            assert str(shown) == runtime.executable_path


def test_a_namespace_is_gone_afterwards_also_after_a_failure() -> None:
    namespace = NetworkNamespace()
    with pytest.raises(ZeroDivisionError), namespace:
        1 / namespace.run(["true"]).returncode
    assert (
        namespace.name
        not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    )


def test_programs_run_inside_the_namespace() -> None:
    with NetworkNamespace() as namespace:
        own = namespace.run(["readlink", "/proc/self/ns/net"]).stdout.strip()
        assert own == f"net:[{namespace.inode}]"
        assert own != str(Path("/proc/self/ns/net").readlink())


def test_the_pid_of_a_started_program_is_its_own() -> None:
    with NetworkNamespace() as namespace, namespace.popen(["sh", "-c", "echo $$"]) as process:
        assert int(process.communicate(timeout=10)[0]) == process.pid


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listener_and_a_closed_port_of_the_machine(family: socket.AddressFamily) -> None:
    with Listener(family) as listener, socket.create_connection((listener.address, listener.port)) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # the listener closes what it has accepted, and by then has recorded it
        assert listener.accepted == [(listener.address, client.getsockname()[1])]
    with closed_port(family) as port, socket.socket(family) as client:
        assert client.connect_ex((LOOPBACK[family], port)) == errno.ECONNREFUSED
