"""What was exported arrives, whatever happens to the application, its children or the backend."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

import grpc
import pytest

from otel_connect.errors import SpoolInUseError
from otel_connect.export.disk import WAL
from otel_connect.export.recovery import open_disk
from otel_connect.plugin.slots import slots
from tests.plugin.test_application import KINDS, PROTOCOLS, variables
from tests.support import refused_call
from tests.support.collector import await_until, free_ports
from tests.support.instrumented import Application, Arrived
from tests.support.receiver import HttpReceiver, Receiver, Reply

DOWN = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BLRP_SCHEDULE_DELAY": "20"}


def tried(receiver: Receiver, *bodies: str) -> Callable[[], bool]:
    """Whether log records with these bodies have been sent, though not been taken: so they are committed."""

    def all_seen() -> bool:
        sent = b"".join(request.body for request in receiver.requests if request.signal == "logs")
        return all(body.encode() in sent for body in bodies)

    return all_seen


@PROTOCOLS
def test_the_backend_is_away_while_the_application_ends_and_comes_again(protocol: str, tmp_path: Path) -> None:
    [port] = free_ports(1)
    shop = variables(tmp_path, f"http://127.0.0.1:{port}", protocol)
    with Application(shop) as first:
        first.tell("order first 20")
    with Application(shop) as second:
        second.tell("order second 1")
    make: Callable[..., Receiver] = KINDS[protocol]
    with make(port=port) as receiver:
        with Application(shop) as third:
            third.tell("order third 1")
            await_until(lambda: len(Arrived(receiver).logs) >= 22)
        arrived = Arrived(receiver)
    assert arrived.bodies == [*(f"ordered first-{number}" for number in range(20)), "ordered second", "ordered third"]
    assert arrived.names == ["GET"] * 22 + ["order"] * 22 + ["pay"] * 22
    orders = [
        (point["attributes"]["item"], point["value"]) for point in arrived.points if point["name"] == "shop.orders"
    ]
    assert len(orders) == len(set(orders)) == 22
    assert_empty(tmp_path)


def assert_empty(tmp_path: Path) -> None:
    assert left(tmp_path) == 0


def left(tmp_path: Path) -> int:
    """Return how many records of all signals wait in the spool; none may be damaged."""
    waiting = 0
    for slot in slots(tmp_path / "spool"):
        opened = open_disk(slot)
        opened.store.close()
        waiting += sum(total.records for total in opened.store.totals.values())
        assert not any(opened.lost.values())
    return waiting


def assert_all_is_sent_in_the_end(tmp_path: Path, shop: Mapping[str, str]) -> None:
    """Let applications come and go: none has to wait until all that others left has been taken."""
    for _ in range(5):
        if not left(tmp_path):
            return
        with Application(shop):
            pass
    assert_empty(tmp_path)


def test_kill_9_costs_nothing_that_was_exported(tmp_path: Path) -> None:
    with HttpReceiver(repeat(DOWN)) as receiver:
        shop = variables(tmp_path, receiver.endpoint, **SOON)
        for name in ("one", "two", "three"):
            with Application(shop) as application:
                application.tell(f"order {name} 1")
                await_until(tried(receiver, f"ordered {name}"))
                application.kill()
        receiver.answer()
        with Application(shop) as last:
            last.tell("order last 1")
            await_until(lambda: len(Arrived(receiver).logs) >= 4)
        arrived = Arrived(receiver)
        assert arrived.bodies == ["ordered one", "ordered two", "ordered three", "ordered last"]
        assert_all_is_sent_in_the_end(tmp_path, shop)


REMOVALS: dict[str, Callable[[Path], object]] = {
    "the spool": lambda slot: shutil.rmtree(slot.parent),
    "the log": lambda slot: (slot / WAL).unlink(),
}


@pytest.mark.parametrize("remove", list(REMOVALS.values()), ids=list(REMOVALS))
def test_kill_9_after_files_of_the_spool_were_removed_costs_nothing_that_was_exported(
    remove: Callable[[Path], object], tmp_path: Path
) -> None:
    with HttpReceiver(repeat(DOWN)) as receiver:
        shop = variables(tmp_path, receiver.endpoint, **SOON)
        with Application(shop) as application:
            application.tell("order before 1")
            await_until(tried(receiver, "ordered before"))
            remove(tmp_path / "spool" / "0")
            for name in ("after", "last"):
                application.tell(f"order {name} 1")
                await_until(tried(receiver, f"ordered {name}"))
            application.kill()
        receiver.answer()
        with Application(shop):
            await_until(lambda: len(Arrived(receiver).logs) >= 3)
        assert sorted(Arrived(receiver).bodies) == ["ordered after", "ordered before", "ordered last"]
        assert_all_is_sent_in_the_end(tmp_path, shop)


def test_processes_coexist_and_any_of_them_inherits_from_all_that_are_gone(tmp_path: Path) -> None:
    with HttpReceiver(repeat(DOWN)) as receiver, ExitStack() as stack:
        shop = variables(tmp_path, receiver.endpoint, **SOON)
        crowd = [stack.enter_context(Application(shop)) for _ in range(3)]
        for number, application in enumerate(crowd):
            application.tell(f"order crowd-{number} 1")
            await_until(tried(receiver, f"ordered crowd-{number}"))
        assert [slot.name for slot in slots(tmp_path / "spool")] == ["0", "1", "2"]
        for application in crowd:
            application.kill()
        receiver.answer()
        with Application(shop):
            await_until(lambda: len(Arrived(receiver).logs) >= 3)
        assert sorted(Arrived(receiver).bodies) == [f"ordered crowd-{number}" for number in range(3)]
        assert [slot.name for slot in slots(tmp_path / "spool")] == ["0", "1", "2"]
        assert_all_is_sent_in_the_end(tmp_path, shop)


def test_children_that_end_leave_their_records_and_their_parents_spool_in_order(tmp_path: Path) -> None:
    with HttpReceiver(repeat(DOWN)) as receiver:
        shop = variables(tmp_path, receiver.endpoint, **SOON)
        with Application(shop | {"SHOP_FLUSH_METRICS": "no"}) as application:
            application.tell("order before 1")
            await_until(tried(receiver, "ordered before"))
            application.tell("leave")
            application.tell("fork 1")
            application.tell("order after 1")
            await_until(tried(receiver, "ordered after"), timeout=60)  # after a pause that has grown meanwhile
            application.kill()
        receiver.answer()
        with Application(shop) as last:
            await_until(lambda: len(Arrived(receiver).logs) >= 4)
        assert sorted(Arrived(receiver).bodies) == ["fork-0", "leave-0", "ordered after", "ordered before"]
        assert not [line for line in (*application.warnings, *last.warnings) if "moves aside" in line]
        assert_all_is_sent_in_the_end(tmp_path, shop)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "s3cret"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
    ],
)
def test_what_cannot_be_sent_as_asked_waits_until_it_can(name: str, value: str, tmp_path: Path) -> None:
    shop = variables(tmp_path, "https://127.0.0.1:1")
    with Application(shop | {name: value}) as application:
        application.tell("order early 1")
    [line] = [line for line in application.warnings if "until that is mended, nothing is sent" in line]
    assert "s3cret" not in "".join(application.errors)
    assert (value if "CERTIFICATE" in name else name) in line
    with HttpReceiver() as receiver:
        with Application(shop | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}) as mended:
            mended.tell("order late 1")
            await_until(lambda: len(Arrived(receiver).logs) >= 2)
        assert Arrived(receiver).bodies == ["ordered early", "ordered late"]


F_OFD_SETLK = 37
EXPORT = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from otel_connect.plugin.exporters import DurableSpanExporter

exporter, provider = DurableSpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("shop").start_span(sys.argv[1]).end()
arrived = exporter.force_flush(1000)
exporter.shutdown(0)
print(arrived)
"""


def export(root: Path, endpoint: str, name: str, *before: str) -> tuple[bool, list[str]]:
    """Export a span in a process of its own; returns whether it arrived, and what was said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ours = {"OTEL_CONNECT_SPOOL_DIRECTORY": str(root), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    command = [*before, sys.executable, "-c", EXPORT, name]
    done = subprocess.run(command, env=clean | ours, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout == "True\n", done.stderr.splitlines()


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS", "ENOLCK"])
def test_where_the_kernel_has_no_such_locks_it_exports_from_memory_and_says_so(error: str, tmp_path: Path) -> None:
    without_locks = [sys.executable, refused_call.__file__, f"fcntl:{F_OFD_SETLK}", error]
    [port] = free_ports(1)
    away = f"http://127.0.0.1:{port}"
    assert export(tmp_path, away, "before")[0] is False
    with HttpReceiver() as receiver:
        arrived, said = export(tmp_path, receiver.endpoint, "alone", *without_locks)
    assert arrived
    assert [request.body.count(b"before") + request.body.count(b"alone") for request in receiver.requests] == [1]
    [line] = said
    assert f"{tmp_path}/0/spool.db: cannot be locked ({os.strerror(getattr(errno, error))})" in line
    assert "waits in memory" in line
    arrived, said = export(tmp_path, away, "lost", *without_locks)
    assert not arrived
    [line] = [line for line in said if "not delivered" in line]
    assert "1 dropped" in line
    assert "waits in" not in line
    with HttpReceiver(port=port) as receiver:
        assert export(tmp_path, away, "after")[0]
        assert b"before" in b"".join(request.body for request in receiver.requests)


def test_without_a_disk_it_still_exports(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a directory")
    with HttpReceiver() as receiver:
        with Application(variables(tmp_path, receiver.endpoint)) as application:
            application.tell("order book 1")
        assert Arrived(receiver).bodies == ["ordered book"]
    assert [line for line in application.warnings if str(tmp_path / "spool") in line]


FORKING = """
import os, sys, time
from pathlib import Path
from otel_connect.config import ExportConfig
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.forks import GATE
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Outlet, Station

config = ExportConfig(endpoint="http://127.0.0.1:1", spool_directory=sys.argv[1] + "/0")
delivery = Delivery(lambda: Station(OtlpExporter(config)))
os.register_at_fork(after_in_child=GATE.after_fork_in_child)
outlet = Outlet(Signal.LOGS, delivery)
if (child := os.fork()) == 0:
    time.sleep(60)
print(child, flush=True)
os._exit(0)
"""


def assert_child_leaves_slots(program: str, root: Path, *names: str) -> None:
    """Run a program that prints the pid of its child and ends: while the child lives, its slots can be taken."""
    command = [sys.executable, "-c", program, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert parent.wait(30) == 0
            await_until(lambda: all(can_be_opened(root / name) for name in names))
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_living_child_does_not_hold_the_slot_of_its_dead_parent(tmp_path: Path) -> None:
    assert_child_leaves_slots(FORKING, tmp_path, "0")


INHERITING = """
import os, sys, threading, time
from contextvars import Context
from pathlib import Path
from otel_connect.config import ExportConfig
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.forks import GATE
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Outlet, Station
from otel_connect.plugin.heir import Heir

root, opened = Path(sys.argv[1]), threading.Event()

def open_in(slot):
    exporter = OtlpExporter(ExportConfig(endpoint="http://127.0.0.1:1", spool_directory=str(slot)))
    if slot.name == "1":
        opened.set()
        time.sleep(0.2)  # a large spool takes longer
    return exporter

delivery = Delivery(lambda: Station(open_in(root / "0"), Heir(root, root / "0", open_in, lambda *_: True, Context())))
os.register_at_fork(
    before=GATE.before_fork,
    after_in_parent=GATE.after_fork_in_parent,
    after_in_child=GATE.after_fork_in_child,
)
outlet = Outlet(Signal.LOGS, delivery)
assert opened.wait(30)
if (child := os.fork()) == 0:
    time.sleep(60)
print(child, flush=True)
os._exit(0)
"""


def test_a_child_never_holds_a_slot_that_its_parent_was_just_taking(tmp_path: Path) -> None:
    open_disk(tmp_path / "1").store.close()  # something is there
    assert_child_leaves_slots(INHERITING, tmp_path, "0", "1")


def can_be_opened(slot: Path) -> bool:
    try:
        open_disk(slot).store.close()
    except SpoolInUseError:  # the child may not have let go yet
        return False
    return True
