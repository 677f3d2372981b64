"""No child hangs, and what an exporter took arrives, however and whenever the process was forked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.test_application import KINDS, variables
from tests.support.collector import await_until, free_ports
from tests.support.instrumented import Arrived
from tests.support.receiver import HttpReceiver, Receiver, Reply
from tests.support.soak import LongRun, by_length

FORKER = Path(__file__).parents[1] / "support" / "forker.py"
FORKS = by_length(full=3500, short=25)
WAYS = {
    "http/protobuf": ["python", "c", "twice", "thread", "handler"],
    "grpc": ["python", "twice", "thread", "handler"],
}
BACKENDS = {"there": Reply(), "slow": Reply(delay_s=0.05), "away": None}
HEIR = """
import sys
from otel_connect.plugin.exporters import DurableSpanExporter
exporter = DurableSpanExporter()
sys.stdin.read()
exporter.shutdown()
"""


def environment(more: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | more


def run(program: str, environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment(environ), capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done


def await_spans(receiver: Receiver, environ: dict[str, str], wanted: set[str]) -> None:
    """Wait for spans, sent by another process of the application if need be."""
    command = [sys.executable, "-c", HEIR]
    with subprocess.Popen(command, env=environment(environ), stdin=subprocess.PIPE) as heir:
        await_until(lambda: wanted <= set(Arrived(receiver).names), timeout=60)
        assert heir.stdin is not None
        heir.stdin.close()
        assert heir.wait(30) == 0


@pytest.mark.timeout(by_length(full=3600, short=120))
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("protocol", KINDS)
def test_forks_under_load(protocol: str, backend: str, fork_in_c: str, tmp_path: Path, long_run: LongRun) -> None:
    [port] = free_ports(1)
    make: Callable[..., Receiver] = KINDS[protocol]
    environ = variables(tmp_path, f"http://localhost:{port}", protocol)
    reply = BACKENDS[backend]
    said = tmp_path / "said"
    command = [sys.executable, str(FORKER), str(FORKS), "otel_connect", str(said), *WAYS[protocol]]
    with ExitStack() as stack:
        receiver = stack.enter_context(make(repeat(reply), port=port)) if reply else None
        environ["FORK_IN_C"] = fork_in_c
        done = subprocess.run(command, env=environment(environ), stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout)
        long_run(f"{FORKS} forks with {protocol}, backend {backend}", describe(result))
        assert result["hung"] == 0
        receiver = receiver or stack.enter_context(make(port=port))
        receiver.answer()
        await_spans(receiver, environ, set(said.read_text().split()))


def describe(result: dict[str, Any]) -> str:
    middle, most, longest = result["took_ms"]
    return (
        f"{result['hung']} children hung, {result['in_memory']} kept to memory; os.fork() took {middle} ms (p50), "
        f"{most} ms (p99), {longest} ms (max)"
    )


IN_C = """
import ctypes, os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

library = ctypes.PyDLL(sys.argv[1])
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter := DurableSpanExporter()))
tracer = provider.get_tracer("shop")
tracer.start_span("parent-before").end()
children = []
for child in "ab":
    if (pid := library.fork_in_c()) == 0:
        for number in range(5):
            tracer.start_span(f"{child}-{number}").end()
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
tracer.start_span("parent-after").end()
provider.shutdown()
"""
FROM_C = sorted([*(f"{child}-{number}" for child in "ab" for number in range(5)), "parent-after", "parent-before"])


@pytest.fixture(scope="module")
def fork_in_c(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a library that forks as uWSGI does: not a line of Python is run between the fork and the hook of the child.

    Without that hook the interpreter itself may wait in the child for threads that are not there.
    """
    library = tmp_path_factory.mktemp("fork") / "fork_in_c.so"
    source = """
#include <unistd.h>
void PyOS_AfterFork_Child(void);
int fork_in_c(void) { int pid = fork(); if (!pid) PyOS_AfterFork_Child(); return pid; }
"""
    subprocess.run(["gcc", "-shared", "-fPIC", "-xc", "-", "-o", library], input=source, text=True, check=True)
    return str(library)


@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_children_of_a_fork_in_c_export_for_themselves_and_nothing_twice(
    away: bool, fork_in_c: str, tmp_path: Path
) -> None:
    [port] = free_ports(1)
    environ = variables(tmp_path, f"http://127.0.0.1:{port}")
    with ExitStack() as stack:
        receiver = None if away else stack.enter_context(HttpReceiver(port=port))
        run(IN_C, environ, fork_in_c)
        receiver = receiver or stack.enter_context(HttpReceiver(port=port))
        await_spans(receiver, environ, set(FROM_C))
        if away:
            assert Arrived(receiver).names == FROM_C


UNHOOKED = """
import ctypes, os, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter := DurableSpanExporter()))
tracer = provider.get_tracer("shop")
tracer.start_span("parent").end()
assert exporter.force_flush(10000)

def resting():
    frames = (frame for thread, frame in sys._current_frames().items() if thread != threading.get_ident())
    return all(frame.f_code.co_name in {"wait", "_serve"} for frame in frames)

while not resting():  # else the interpreter itself could wait in the child for threads that are not there
    time.sleep(0.05)
if (child := ctypes.PyDLL(None).fork()) == 0:
    tracer.start_span("child").end()
    assert exporter.force_flush(10000)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
provider.shutdown()
"""


def test_a_child_notices_a_fork_that_ran_no_hook(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        run(UNHOOKED, variables(tmp_path, receiver.endpoint))
        assert Arrived(receiver).names == ["child", "parent"]


DAEMON = """
import os, signal, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(DurableSpanExporter()))
tracer = provider.get_tracer("shop")
tracer.start_span("parent").end()
ended, end = os.pipe()
if os.fork():
    os._exit(0)
os.close(end)
os.read(ended, 1)  # until the parent is no more
for number in range(5):
    tracer.start_span(f"daemon-{number}").end()
print(open(sys.argv[1] + "/0/spool.db-wal", "rb").read().count(b"daemon-"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_daemon_takes_the_slot_of_its_dead_parent_and_what_lies_in_it(tmp_path: Path) -> None:
    [port] = free_ports(1)
    environ = variables(tmp_path, f"http://127.0.0.1:{port}")
    done = run(DAEMON, environ, environ["OTEL_CONNECT_SPOOL_DIRECTORY"])
    assert int(done.stdout) >= 5
    assert "locked" not in done.stderr
    with HttpReceiver(port=port) as receiver:
        await_spans(receiver, environ, {"parent", *(f"daemon-{number}" for number in range(5))})


STUCK = """
import ctypes, os, threading
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from otel_connect.plugin.exporters import DurableSpanExporter

class Told(DurableSpanExporter):
    def export(self, spans):
        result = super().export(spans)
        print(spans[0].name, result.name, flush=True)
        return result

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Told()))
tracer = provider.get_tracer("shop")
tracer.start_span("parent").end()
import _sqlite3
sqlite = ctypes.CDLL("libsqlite3.so.0")  # the one that _sqlite3 has loaded
sqlite.sqlite3_mutex_alloc.restype = ctypes.c_void_p
memory = ctypes.c_void_p(sqlite.sqlite3_mutex_alloc(3))
held, forked = threading.Event(), threading.Event()

def hold():
    sqlite.sqlite3_mutex_enter(memory)
    held.set()
    forked.wait()
    sqlite.sqlite3_mutex_leave(memory)

thread = threading.Thread(target=hold)
thread.start()
held.wait()
if (child := os.fork()) == 0:
    tracer.start_span("child").end()
    os._exit(0)
forked.set()
assert os.waitpid(child, 0)[1] == 0
thread.join()
provider.shutdown()
"""


@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_a_child_that_cannot_use_sqlite_keeps_to_memory_and_says_so(away: bool, tmp_path: Path) -> None:
    # The application itself was inside SQLite at the fork.
    with HttpReceiver() as receiver:
        endpoint = f"http://127.0.0.1:{free_ports(1)[0]}" if away else receiver.endpoint
        done = run(STUCK, variables(tmp_path, endpoint))
        assert Arrived(receiver).names == ([] if away else ["child", "parent"])
    assert f"child {'FAILURE' if away else 'SUCCESS'}" in done.stdout.splitlines()
    assert done.stderr.count("waits in memory only") == 1


CLOSING = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

place, when = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter := DurableSpanExporter()))
tracer = provider.get_tracer("shop")
if when == "busy":
    for number in range(5):
        tracer.start_span(f"early-{number}").end()
    assert exporter.force_flush(10000)  # a connection is open now, and kept
if when == "forked" and (child := os.fork()):
    assert os.waitpid(child, 0)[1] == 0
    os._exit(0)
os.closerange(3, 256)
own = [open(f"{place}/own-{number}", "w+b", buffering=0) for number in range(40)]
for number in range(5):
    tracer.start_span(f"late-{number}").end()
exporter.force_flush(10000)
provider.shutdown()
for number, file in enumerate(own):
    assert os.path.sameopenfile(file.fileno(), os.open(file.name, os.O_RDONLY)), number
    assert os.fstat(file.fileno()).st_size == 0, number
"""


@pytest.mark.parametrize("when", ["idle", "busy", "forked"])
def test_an_application_that_closes_descriptors_keeps_its_files_and_its_spans(when: str, tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        done = run(CLOSING, variables(tmp_path, receiver.endpoint), str(tmp_path), when)
        names = set(Arrived(receiver).names)
    assert names >= {f"late-{number}" for number in range(5)}
    closed = [line for line in done.stderr.splitlines() if "closed descriptors that it did not open" in line]
    assert len(closed) == (when != "forked")
