"""What servers, pools and daemons export arrives, backend away or not: as much as with the stock exporter."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.plugin.test_application import variables
from tests.plugin.test_forks import await_spans, environment
from tests.support.collector import await_until, free_ports
from tests.support.instrumented import Arrived
from tests.support.receiver import HttpReceiver
from tests.support.soak import LongRun, by_length

ROOT = Path(__file__).parents[2]
SERVED = ROOT / "tests" / "support" / "served.py"
PROGRAMS = Path(sys.executable).parent
COUNT = 6
WANTED = {f"span-{number}" for number in range(COUNT)}
OURS, STOCK = "otel_connect", "otlp_proto_http"
AT_ONCE = 6
UWSGI = [
    "uwsgi",
    "--master",
    "--processes=2",
    "--enable-threads",
    "--die-on-term",
    "--need-app",
    "--module=tests.support.served",
    f"--home={PROGRAMS.parent}",
]
GUNICORN = ["gunicorn", "--workers=2", "tests.support.served:application"]
CELERY = ["celery", "-A", "tests.support.served", "worker", "--pool=prefork", "--concurrency=2"]
SERVERS = {
    "uwsgi": (UWSGI, "simple"),
    "uwsgi-hooked": ([*UWSGI, "--py-call-uwsgi-fork-hooks"], "batch"),
    "uwsgi-lazy": ([*UWSGI, "--lazy-apps"], "batch"),
    "gunicorn-sync": (GUNICORN, "batch"),
    "gunicorn-gthread": ([*GUNICORN, "--worker-class=gthread"], "batch"),
    "gunicorn-gevent": ([*GUNICORN, "--worker-class=gevent"], "batch"),
    "gunicorn-preload": ([*GUNICORN, "--preload"], "batch"),
    "gunicorn-daemon": ([*GUNICORN, "--preload", "--daemon"], "batch"),
}
POOLS = {
    "celery-prefork": (CELERY, "simple"),
    "celery-one-task-a-child": ([*CELERY, "--max-tasks-per-child=1"], "simple"),
}
PLAIN = {
    "spawn": "simple",
    "forkserver": "simple",
    "fork": "simple",
    "posix_spawn": "batch",
    "daemon": "batch",
    "none": "batch",
}
KINDS = (*PLAIN, *POOLS, *SERVERS)  # those that take longest first
BESIDE_STOCK = by_length(full=KINDS, short=("gunicorn-sync", "fork", "none"))
"""The kinds that are also run with the stock exporter."""


class Case(NamedTuple):
    """One run of a program, with one of the two exporters; the backend is there, or away until the work is done."""

    kind: str
    exporter: str = OURS
    there: bool = False


class Ports(NamedTuple):
    """Where a case has its server and its backend."""

    server: int
    backend: int


BESIDE = [Case(kind, STOCK, there=True) for kind in BESIDE_STOCK]
BESIDE += by_length(
    full=[Case(kind, exporter, there) for kind in KINDS for exporter, there in ((STOCK, False), (OURS, True))], short=[]
)


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def running(command: list[str], environ: dict[str, str], pid_file: Path) -> Iterator[None]:
    """Run a server that writes a pid file; ask it to end, and wait until it has."""
    with subprocess.Popen(
        [PROGRAMS / command[0], *command[1:], f"--pid{'' if command[0] == 'gunicorn' else 'file'}={pid_file}"],
        env=environment(environ),
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        try:
            await_until(lambda: pid_file.exists() and pid_file.read_text().strip(), timeout=60)
            pid = int(pid_file.read_text())
            yield
            os.kill(pid, signal.SIGTERM)
            await_until(lambda: process.poll() is not None and not Path(f"/proc/{pid}").exists(), timeout=90)
        finally:
            for group in {process.pid, int(pid_file.read_text()) if pid_file.exists() else process.pid}:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@contextmanager
def server(command: list[str], environ: dict[str, str], port: int, place: Path) -> Iterator[None]:
    """Run a server that has done its work."""
    accepting = place / "accepting"
    if command[0] == "uwsgi":
        # Each worker says so: one that is told to end before may not notice, and then goes on for ever.
        command = [*command, f"--http-socket=127.0.0.1:{port}", f"--hook-accepting=append:{accepting} ."]
    else:
        command = [*command, f"--bind=127.0.0.1:{port}"]
    with running(command, environ, place / "pid"):
        await_until(lambda: answers(port, "ready"), timeout=60)
        if command[0] == "uwsgi":
            await_until(lambda: accepting.exists() and accepting.stat().st_size == 2, timeout=60)
        assert all(answers(port, name) for name in WANTED)
        yield


@contextmanager
def pool(command: list[str], environ: dict[str, str], place: Path) -> Iterator[None]:
    """Run workers that have done their work."""
    (place / "queue").mkdir()
    with running(command, environ, place / "pid"):
        await_until(lambda: (place / "ended").exists() and not list((place / "queue").glob("*celery.msg")), timeout=60)
        yield


@contextmanager
def program(kind: str, environ: dict[str, str], place: Path) -> Iterator[None]:
    """Run a program that ends when it has done its work."""
    subprocess.run([sys.executable, SERVED, kind, str(COUNT)], env=environment(environ), check=True, timeout=120)
    if kind == "daemon":
        await_until((place / "ended").exists, timeout=60)
    yield


def delivered(case: Case, ports: Ports, place: Path) -> set[str]:
    """Return the names of the spans that a case delivered."""
    command, processor = {**SERVERS, **POOLS}.get(case.kind) or ([], PLAIN[case.kind])
    environ = variables(place, f"http://127.0.0.1:{ports.backend}", PROCESSOR=processor, PYTHONPATH=str(ROOT))
    environ |= {"EXPORTER": case.exporter, "COUNT": str(COUNT)}
    environ |= {"QUEUE": str(place / "queue"), "ENDED": str(place / "ended")}
    with ExitStack() as stack:
        receiver = stack.enter_context(HttpReceiver(port=ports.backend)) if case.there else None
        with ExitStack() as working:
            if case.kind in SERVERS:
                working.enter_context(server(command, environ, ports.server, place))
            elif case.kind in POOLS:
                working.enter_context(pool(command, environ, place))
            else:
                working.enter_context(program(case.kind, environ, place))
            receiver = receiver or stack.enter_context(HttpReceiver(port=ports.backend))
            if case.exporter == OURS:
                await_spans(receiver, environ, WANTED)
        return set(Arrived(receiver).names)


Deliveries = Callable[[Case], set[str]]


@pytest.fixture(scope="module")
def deliveries(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deliveries]:
    """Run all cases of the tests that were chosen, several at a time: most of their time they wait."""
    chosen = [item for item in request.session.items if item.path == request.path]
    cases = [case for item in chosen if isinstance(item, pytest.Function) for case in cases_of(item)]
    cases = sorted(dict.fromkeys(cases), key=lambda case: KINDS.index(case.kind))
    ports = iter(free_ports(2 * len(cases)))
    with ThreadPoolExecutor(AT_ONCE) as at_once:
        futures: dict[Case, Future[set[str]]] = {
            case: at_once.submit(delivered, case, Ports(next(ports), next(ports)), tmp_path_factory.mktemp(case.kind))
            for case in cases
        }
        yield lambda case: futures[case].result()
        for future in futures.values():
            future.cancel()


def cases_of(item: pytest.Function) -> list[Case]:
    callspec = getattr(item, "callspec", None)
    return [Case(callspec.params["kind"])] if callspec else [*map(Case, BESIDE_STOCK), *BESIDE]


@pytest.mark.parametrize("kind", SERVERS)
def test_servers(kind: str, deliveries: Deliveries) -> None:
    assert deliveries(Case(kind)) == WANTED


@pytest.mark.parametrize("kind", POOLS)
def test_pools(kind: str, deliveries: Deliveries) -> None:
    assert deliveries(Case(kind)) == WANTED


@pytest.mark.parametrize("kind", PLAIN)
def test_programs(kind: str, deliveries: Deliveries) -> None:
    assert deliveries(Case(kind)) == WANTED


@pytest.mark.timeout(by_length(full=1800, short=300))
def test_no_kind_delivers_less_than_with_the_stock_exporter(deliveries: Deliveries, long_run: LongRun) -> None:
    arrived = {case: deliveries(case) for case in (*map(Case, BESIDE_STOCK), *BESIDE)}
    long_run(f"{COUNT} spans in each of {len(BESIDE_STOCK)} kinds of servers, pools and programs", describe(arrived))
    for case, names in arrived.items():
        if case.exporter == STOCK:
            assert arrived.get(case._replace(exporter=OURS), arrived[Case(case.kind)]) >= names, case
        else:
            assert names == WANTED, case


def describe(arrived: Mapping[Case, set[str]]) -> str:
    """Count what arrived, and name the kinds that lost some."""
    spans: Counter[str] = Counter()
    lossy: dict[str, list[str]] = {}
    for case, names in arrived.items():
        how = f"{'stock' if case.exporter == STOCK else 'ours'}, backend {'there' if case.there else 'away and back'}"
        spans[how] += len(names & WANTED)
        if names < WANTED:
            lossy.setdefault(how, []).append(case.kind)
    each = len(WANTED) * len(BESIDE_STOCK)
    return "; ".join(
        f"{how}: {count} of {each}" + (f" (fewer: {', '.join(lossy[how])})" if how in lossy else "")
        for how, count in sorted(spans.items())
    )
