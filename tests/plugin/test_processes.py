"""What servers, pools and daemons export arrives though the backend was away: as much as any exporter delivers."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.plugin.test_application import variables
from tests.plugin.test_forks import await_spans, environment
from tests.support.collector import await_until, free_ports
from tests.support.receiver import HttpReceiver

ROOT = Path(__file__).parents[2]
SERVED = ROOT / "tests" / "support" / "served.py"
PROGRAMS = Path(sys.executable).parent
WANTED = {f"span-{number}" for number in range(6)}
UWSGI = [
    "uwsgi",
    "--master",
    "--processes=2",
    "--enable-threads",
    "--die-on-term",
    "--need-app",
    "--module=tests.support.served",
]
GUNICORN = ["gunicorn", "--workers=2", "tests.support.served:application"]
SERVERS = {
    "uwsgi": (UWSGI, "simple"),
    "uwsgi-hooked": ([*UWSGI, "--py-call-osafterfork"], "batch"),
    "uwsgi-lazy": ([*UWSGI, "--lazy-apps"], "batch"),
    "gunicorn-sync": (GUNICORN, "batch"),
    "gunicorn-gthread": ([*GUNICORN, "--worker-class=gthread"], "batch"),
    "gunicorn-gevent": ([*GUNICORN, "--worker-class=gevent"], "batch"),
    "gunicorn-preload": ([*GUNICORN, "--preload"], "batch"),
    "gunicorn-daemon": ([*GUNICORN, "--preload", "--daemon"], "batch"),
}


def served(tmp_path: Path, port: int, processor: str) -> dict[str, str]:
    environ = variables(tmp_path, f"http://127.0.0.1:{port}", PROCESSOR=processor, PYTHONPATH=str(ROOT))
    return environ | {"QUEUE": str(tmp_path / "queue"), "ENDED": str(tmp_path / "ended")}


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def running(command: list[str], environ: dict[str, str], pid_file: Path) -> Iterator[None]:
    """Run a server that writes a pid file; ask it to end, and wait until it has."""
    with subprocess.Popen(
        [PROGRAMS / command[0], *command[1:]], env=environment(environ), cwd=ROOT, start_new_session=True
    ) as process:
        try:
            await_until(lambda: pid_file.exists() and pid_file.read_text().strip(), timeout=30)
            pid = int(pid_file.read_text())
            yield
            os.kill(pid, signal.SIGTERM)
            await_until(lambda: process.poll() is not None and not Path(f"/proc/{pid}").exists(), timeout=60)
        finally:
            for group in {process.pid, int(pid_file.read_text()) if pid_file.exists() else process.pid}:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@pytest.mark.parametrize("kind", SERVERS)
def test_servers(kind: str, tmp_path: Path) -> None:
    (command, processor), [port, backend] = SERVERS[kind], free_ports(2)
    environ = served(tmp_path, backend, processor)
    pid_file = tmp_path / "pid"
    if command[0] == "uwsgi":
        more = [f"--http-socket=127.0.0.1:{port}", f"--home={PROGRAMS.parent}", f"--pidfile={pid_file}"]
    else:
        more = [f"--bind=127.0.0.1:{port}", f"--pid={pid_file}"]
    with running([*command, *more], environ, pid_file):
        await_until(lambda: answers(port, "ready"), timeout=30)
        assert all(answers(port, name) for name in WANTED)
        with HttpReceiver(port=backend) as receiver:
            await_spans(receiver, environ, WANTED)


SEND = """
from tests.support.served import tasks
for number in range(6):
    tasks.send_task("served.work", [number])
"""


def test_celery_with_one_task_for_each_child(tmp_path: Path) -> None:
    [backend] = free_ports(1)
    environ = served(tmp_path, backend, "simple")
    (tmp_path / "queue").mkdir()
    pid_file, app = tmp_path / "pid", ["celery", "-A", "tests.support.served"]
    command = [*app, "worker", "--pool=prefork", "--concurrency=2", "--max-tasks-per-child=1", f"--pidfile={pid_file}"]
    subprocess.run([sys.executable, "-c", SEND], env=environment(environ), cwd=ROOT, check=True, timeout=60)
    with running(command, environ, pid_file):
        await_until(lambda: not list((tmp_path / "queue").glob("*celery.msg")), timeout=30)
        with HttpReceiver(port=backend) as receiver:
            await_spans(receiver, environ, WANTED)


@pytest.mark.parametrize("kind", ["daemon", "fork", "spawn", "forkserver", "posix_spawn", "none"])
def test_programs(kind: str, tmp_path: Path) -> None:
    [backend] = free_ports(1)
    processor = "batch" if kind in {"daemon", "posix_spawn", "none"} else "simple"
    environ = served(tmp_path, backend, processor)
    command = [sys.executable, str(SERVED), kind, "6"]
    subprocess.run(command, env=environment(environ), check=True, timeout=60)
    ended: Callable[[], bool] = (tmp_path / "ended").exists if kind == "daemon" else lambda: True
    await_until(ended, timeout=30)
    with HttpReceiver(port=backend) as receiver:
        await_spans(receiver, environ, WANTED)
