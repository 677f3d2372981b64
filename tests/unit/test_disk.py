"""A store whose lock is gone, or that belongs to the parent of this process, leaves the files to their holder."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_connect.export.directory import LOCK
from otel_connect.export.disk import DATABASE, WAL, DiskStore
from otel_connect.export.forks import GATE
from otel_connect.export.recovery import open_disk
from otel_connect.export.store import Batch, Opened, StoreError, make_batch
from otel_connect.model import Signal
from tests.support.spool import request

HOLDER = """
import sys
import threading
from pathlib import Path
from otel_connect.export.forks import GATE
from otel_connect.export.recovery import open_disk
from otel_connect.export.store import make_batch
from otel_connect.model import Request, Signal

store = open_disk(Path(sys.argv[1])).store
for line in sys.stdin:
    store.change([], [make_batch(store.next_key, Request(Signal.LOGS, line.encode(), 1), 1)])
    print("written", flush=True)
"""


class Holder:
    """Another process that holds a slot until it is killed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def write(self, text: str) -> None:
        """Have it commit one batch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(text, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "written\n"


@contextmanager
def holder(slot: Path) -> Iterator[Holder]:
    """Run one, and kill it."""
    command = [sys.executable, "-c", HOLDER, str(slot)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Holder(process)
        process.send_signal(signal.SIGKILL)


def write(store: DiskStore, body: bytes) -> None:
    store.change([], [make_batch(store.next_key, request(body), 1)])


def close_descriptors(slot: Path, *names: str) -> None:
    """Close the lowest descriptor of each file, which is the one that carries our lock, as an application might."""
    for name in names:
        status = (slot / name).stat()
        for number in range(3, 256):
            try:
                found = os.fstat(number)
            except OSError:
                continue
            if os.path.samestat(found, status):
                os.close(number)
                break


def found(opened: Opened) -> list[bytes]:
    store = opened.store
    heads = store.oldest(Signal.LOGS, 0, 100)
    batches = [store.read(head) for head in heads]
    store.close()
    return [batch.body for batch in batches if batch is not None]


@pytest.mark.parametrize("names", [(LOCK, DATABASE), (LOCK, DATABASE, ".")], ids=["locks", "locks-and-directory"])
def test_a_database_that_another_process_holds_by_now_is_not_touched_by_closing_it(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    slot = tmp_path / "0"
    first = open_disk(slot).store
    assert isinstance(first, DiskStore)
    write(first, b"first")
    close_descriptors(slot, *names)
    with holder(slot) as second:
        second.write("second")
        first.close()
        second.write("third")
    assert found(open_disk(slot)) == [b"first", b"second\n", b"third\n"]


def test_a_child_that_closes_the_store_of_its_parent_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    slot = tmp_path / "0"
    store = open_disk(slot).store
    assert isinstance(store, DiskStore)
    write(store, b"before")
    if (child := os.fork()) == 0:
        store.close_database()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    write(store, b"after")
    wal = (slot / f"{DATABASE}-wal").read_bytes()
    assert b"before" in wal
    assert b"after" in wal
    store.close()
    assert found(open_disk(slot)) == [b"before", b"after"]


def test_a_damaged_database_that_another_process_holds_is_not_mended(tmp_path: Path) -> None:
    slot = tmp_path / "0"
    with holder(slot) as first:
        first.write("first")
        (slot / LOCK).unlink()
        with (slot / WAL).open("r+b") as log:
            log.write(bytes(32))
        before = sorted(path.name for path in slot.iterdir())
        with pytest.raises(StoreError, match="locked"):
            open_disk(slot)
        assert sorted(path.name for path in slot.iterdir()) == sorted([*before, LOCK])
        first.write("second")
    assert found(open_disk(slot)) == [b"first\n", b"second\n"]


class Forking(list[Batch]):
    """Batches during whose reading a child is made each time, as a signal handler of the application may do."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__(batches)
        self.children: list[int] = []
        self.in_child = False

    def __iter__(self) -> Iterator[Batch]:
        if not self.in_child:
            if child := os.fork():
                self.children.append(child)
            else:
                self.in_child = True
        return super().__iter__()


def test_a_child_that_comes_out_of_a_fork_inside_a_transaction_does_not_commit_it(tmp_path: Path) -> None:
    store = open_disk(tmp_path / "0").store
    batches = Forking([make_batch(store.next_key, request(b"a"), 1)])
    try:
        store.change([], batches)
    except StoreError:
        if batches.in_child:
            os._exit(3)
        raise
    finally:
        if batches.in_child:
            os._exit(4)
    assert len(batches.children) > 1  # before the transaction, and in it
    codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in batches.children}
    assert codes == {3}
    assert found(Opened(store, {})) == [b"a"]


def test_a_fork_does_not_wait_until_all_of_a_spool_is_read(tmp_path: Path) -> None:
    store = open_disk(tmp_path / "0").store
    assert isinstance(store, DiskStore)
    for number in range(16):
        write(store, bytes([number]) * (1 << 20))
    seen: set[int] = set()
    GATE.before_fork()
    verifying = threading.Thread(target=store.verify, args=(store.tally,))
    verifying.start()
    while verifying.is_alive():
        GATE.after_fork_in_parent()
        GATE.before_fork()
        seen.add(store.totals[Signal.LOGS].batches)
    GATE.after_fork_in_parent()
    assert seen - {0, 16}, "the forks found nobody inside only before and after"
    assert store.totals[Signal.LOGS].batches == 16
    store.close()


WITHOUT_PROC = """
import heapq, os, sys  # what is imported later cannot be found then
from pathlib import Path
from otel_connect.export.recovery import open_disk
from otel_connect.export.store import StoreDamagedError, make_batch
from otel_connect.model import Request, Signal

os.chroot(sys.argv[1])
os.chdir("/")
held = [os.dup(0) for _ in range(int(sys.argv[2]))]
store = open_disk(Path("/spool")).store
store.change([], [make_batch(store.next_key, Request(Signal.LOGS, b"a", 1), 1)])
print("written", store.intact())
os.closerange(held[-1] if held else 3, 256)
own = [open(f"/own-{number}", "w+b") for number in range(40)]
try:
    store.change([], [make_batch(store.next_key, Request(Signal.LOGS, b"b", 1), 1)])
except StoreDamagedError:
    print("closed")
print([os.fstat(file.fileno()).st_size for file in own].count(0))
"""


@pytest.mark.parametrize("descriptors", [0, 50])
def test_without_proc_the_disk_is_used_and_files_of_the_application_are_not(descriptors: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PROC, str(tmp_path), str(descriptors)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout.splitlines(), done.stderr) == (["written True", "closed", "40"], "")
    assert found(open_disk(tmp_path / "spool")) == [b"a"]


def test_the_log_of_a_database_that_has_taken_the_place_of_ours_is_not_removed_without_a_lock(tmp_path: Path) -> None:
    slot = tmp_path / "0"
    first = open_disk(slot).store
    assert isinstance(first, DiskStore)
    close_descriptors(slot, LOCK, DATABASE)
    for name in (DATABASE, f"{DATABASE}-wal"):
        (slot / name).unlink()
    with holder(slot) as second:
        second.write("theirs")
        first.let_go()
    first.close()
    assert found(open_disk(slot)) == [b"theirs\n"]
