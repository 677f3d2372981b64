"""A disk that is full, read-only, failing, deleted or not ours: the spool goes on in memory, and comes back.

The troubles are real ones, made by the kernel: a small tmpfs, an ext4 on a loop device that the kernel turns
read-only or freezes, a process that may not make files larger, directories that are somebody else's. One test passes
in a disk that fails at each of its calls in turn.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from otel_connect.errors import SpoolInUseError
from otel_connect.export.descriptors import numbers_of
from otel_connect.export.disk import DATABASE, WAL
from otel_connect.export.ledger import Reason
from otel_connect.export.recovery import examine, open_disk
from otel_connect.export.spool import Limits
from otel_connect.export.store import Batch, Disk, Head, Opened, StoreDamagedError, StoreError, Total
from otel_connect.model import Signal
from tests.support.collector import await_until
from tests.support.spool import LOOK_EVERY_S, SpoolBench, request

LARGE = Limits(disk_bytes=1 << 30, memory_bytes=1 << 20)


def command(*arguments: str | Path) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()


def bodies(count: int, size: int = 10_000, first: int = 0) -> list[bytes]:
    return [b"%d " % number + bytes(size) for number in range(first, first + count)]


def put_all(bench: SpoolBench, contents: Sequence[bytes]) -> None:
    for content in contents:
        bench.put(request(content))


def degraded(bench: SpoolBench) -> str | None:
    return bench.spool.state().degraded


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=16m,mode=0755", "none", place)
    yield place
    command("umount", "--lazy", place)


def fill(path: Path) -> None:
    """Write until there is no more room."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    assert os.statvfs(path.parent).f_bavail == 0


def test_a_spool_that_fills_its_file_system_leaves_a_part_of_it_free(small: Path) -> None:
    bench = SpoolBench(small / "spool", LARGE)
    put_all(bench, bodies(100, 300_000))
    room = os.statvfs(small)
    assert room.f_bavail >= 0.05 * room.f_blocks
    account = bench.account()
    assert degraded(bench) is None
    assert account.dropped.keys() == {Reason.SPOOL_FULL}
    assert account.queued > 20
    assert bench.bodies() == bodies(account.queued, 300_000, 100 - account.queued)
    bench.close()


def test_a_file_system_that_others_fill(small: Path) -> None:
    bench = SpoolBench(small / "spool", LARGE)
    put_all(bench, bodies(20))
    fill(small / "other")
    put_all(bench, bodies(100, first=20))
    account = bench.account()
    assert account.queued + account.dropped.get(Reason.SPOOL_FULL, 0) == 120
    assert account.queued >= 20
    (small / "other").unlink()
    bench.look()
    assert degraded(bench) is None
    bench.put(request(b"after"))
    taken = bench.bodies()
    assert taken == [*bodies(account.queued, first=120 - account.queued), b"after"]
    bench.close()


def test_without_anything_to_drop_on_a_full_file_system_memory_is_used(small: Path) -> None:
    bench = SpoolBench(small / "spool", LARGE)
    fill(small / "other")
    put_all(bench, bodies(200))
    assert "5% of the file system is free" in (degraded(bench) or "") or "full" in (degraded(bench) or "")
    account = bench.account()
    assert account.dropped.keys() == {Reason.SPOOL_IO}
    assert 90 < account.queued < 110  # a mebibyte
    (small / "other").unlink()
    bench.look()
    assert degraded(bench) is None
    bench.close()
    again = SpoolBench(small / "spool", LARGE)
    assert again.bodies() == bodies(account.queued, first=200 - account.queued)
    again.close()


def test_a_spool_is_mended_whatever_room_there_is(small: Path, tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    put_all(bench, bodies(30))
    shutil.copytree(tmp_path / "spool", tmp_path / "image")
    bench.close()
    edge = 0
    for room in range(0, 1 << 20, 1 << 15):
        path = Path(shutil.copytree(tmp_path / "image", small / "spool"))
        os.truncate(path / DATABASE, 0)
        with (path / WAL).open("r+b") as file:
            file.write(bytes(32))
        fill(small / "other")
        os.truncate(small / "other", (small / "other").stat().st_size - room)
        bench = SpoolBench(path)
        edge += degraded(bench) is not None
        (small / "other").unlink()
        bench.look()
        assert degraded(bench) is None
        assert (bench.bodies(), bench.account().dropped) == (bodies(30), {}), room
        bench.close()
        shutil.rmtree(path)
    assert 0 < edge < 32


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """Mount an ext4 of 32 MiB that turns read-only when it finds an error."""
    image, place = tmp_path / "image", tmp_path / "loop"
    image.write_bytes(b"")
    os.truncate(image, 32 << 20)
    command("mkfs.ext4", "-q", "-e", "remount-ro", image)
    place.mkdir()
    command("mount", "-o", "loop", image, place)
    yield place
    command("umount", "--lazy", place)


def device_of(place: Path) -> str:
    return command("findmnt", "--noheadings", "--output", "SOURCE", place).removeprefix("/dev/")


def test_a_disk_that_hangs_is_waited_for(loop: Path) -> None:
    bench = SpoolBench(loop / "spool", LARGE)
    bench.put(request(b"before"))
    late = threading.Thread(target=bench.put, args=(request(b"late"),))
    command("fsfreeze", "--freeze", loop)
    try:
        late.start()
        await_until(lambda: bench.account().accepted == 2)
        late.join(0.5)
        assert late.is_alive()
        assert bench.account() == (2, 0, 2, {}, 0)
    finally:
        command("fsfreeze", "--unfreeze", loop)
    late.join(30)
    assert degraded(bench) is None
    assert bench.bodies() == [b"before", b"late"]
    assert bench.account() == (2, 2, 0, {}, 0)
    bench.close()


def test_a_file_system_that_turns_read_only(loop: Path) -> None:
    bench = SpoolBench(loop / "spool", LARGE)
    put_all(bench, bodies(20))
    Path(f"/sys/fs/ext4/{device_of(loop)}/trigger_fs_error").write_text("an error for a test")
    put_all(bench, bodies(5, first=20))
    assert degraded(bench) is not None
    assert bench.account().queued == 25
    batches = bench.lease(most_bytes=30_000)  # what lies there can be read, and is never sent again
    assert [batch.body for batch in batches] == bodies(2)
    assert bench.spool.delivered(batches)
    assert bench.bodies() == bodies(23, first=2)
    assert bench.account() == (25, 25, 0, {}, 0)
    put_all(bench, bodies(1, first=25))
    # It does not come back by itself: the operator mounts another one.
    command("umount", "--lazy", loop)
    command("mount", "-t", "tmpfs", "-o", "size=16m", "none", loop)
    bench.look()
    assert degraded(bench) is None
    bench.close()
    assert bench.account().queued == 1
    again = SpoolBench(loop / "spool", LARGE)
    assert again.bodies() == bodies(1, first=25)
    again.close()


FAILING = """
import resource, signal, sys
from pathlib import Path
from tests.fault.test_spool_disk import a_process_that_may_not_write
a_process_that_may_not_write(Path(sys.argv[1]))
"""


def a_process_that_may_not_write(path: Path) -> None:
    """Run in a process of its own, because the limit is the process's."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    bench = SpoolBench(path, LARGE)
    put_all(bench, bodies(10))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    put_all(bench, bodies(10, first=10))
    assert degraded(bench) is not None
    assert bench.account().queued == 20
    (batch,) = bench.lease(most_bytes=1)
    assert bench.spool.delivered([batch])
    bench.look()
    assert degraded(bench) is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert bench.account().queued == 19
    bench.look()
    assert degraded(bench) is None
    bench.close()
    again = SpoolBench(path, LARGE)
    assert again.bodies() == bodies(19, first=1)
    again.close()


def test_writes_that_fail(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAILING, tmp_path / "spool"], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("what", ["directory", "database"])
def test_a_deleted_directory_is_made_again_with_what_was_in_it(what: str, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    bench = SpoolBench(path)
    put_all(bench, bodies(20))
    (leased,) = bench.lease(most_bytes=1)
    if what == "directory":
        shutil.rmtree(path)
    else:
        (path / "spool.db").unlink()
    bench.put(request(b"after"))
    assert bench.spool.delivered([leased])
    assert degraded(bench) is None
    bench.close()
    again = SpoolBench(path)
    assert again.bodies() == [*bodies(19, first=1), b"after"]
    assert again.account().difference == 0
    again.close()


def test_it_is_noticed_without_anything_coming_in(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    put_all(bench, bodies(2))
    (tmp_path / "spool").rename(tmp_path / "moved")
    bench.look()
    bench.close()
    again = SpoolBench(tmp_path / "spool")
    assert again.bodies() == bodies(2)
    again.close()


def test_a_directory_that_was_filled_by_another_run_is_taken_over(tmp_path: Path) -> None:
    other = SpoolBench(tmp_path / "other")
    put_all(other, bodies(3, first=100))
    other.close()
    bench = SpoolBench(tmp_path / "spool")
    put_all(bench, bodies(3))
    (tmp_path / "spool").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "spool")
    put_all(bench, bodies(1, first=3))
    assert bench.account() == (4, 0, 7, {}, 3)
    assert sorted(bench.bodies()) == sorted(bodies(4) + bodies(3, first=100))
    bench.close()


def a_file_instead(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_text("not a directory")


def moved_back(path: Path) -> None:
    path.unlink()
    path.with_name("moved").rename(path)


def a_link_instead(path: Path) -> None:
    (path / DATABASE).rename(path.with_name("moved"))
    (path / DATABASE).symlink_to(path.with_name("moved"))


def database_moved_back(path: Path) -> None:
    path.with_name("moved").rename(path / DATABASE)


@pytest.mark.parametrize(
    ("away", "back"),
    [(a_file_instead, moved_back), (a_link_instead, database_moved_back)],
    ids=["directory", "database"],
)
@pytest.mark.parametrize("times", [1, 3])
def test_what_was_away_for_a_while_is_used_again(
    away: Callable[[Path], None], back: Callable[[Path], None], times: int, tmp_path: Path
) -> None:
    path = tmp_path / "spool"
    bench = SpoolBench(path)
    put_all(bench, bodies(20))
    for number in range(times):
        (leased,) = bench.lease(most_bytes=1)
        away(path)
        put_all(bench, bodies(1, first=20 + number))
        assert degraded(bench)
        assert bench.spool.delivered([leased])
        bench.look()
        back(path)
        bench.look()
        assert degraded(bench) is None
    assert bench.bodies() == bodies(20, first=times)
    account = bench.account()
    assert (account.exported, account.queued, account.recovered, account.dropped) == (20 + times, 0, 0, {})
    bench.close()
    again = SpoolBench(path)
    assert again.bodies() == []
    again.close()


def test_a_damaged_disk_in_the_place_of_ours_makes_ours_no_less_readable(tmp_path: Path) -> None:
    opened = 0

    def second_is_damaged(path: Path) -> Opened:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise StoreDamagedError(f"{path}: is damaged again after it was mended")
        return open_disk(path)

    bench = SpoolBench(tmp_path / "spool", disk=second_is_damaged)
    put_all(bench, bodies(3))
    (tmp_path / "spool").rename(tmp_path / "moved")
    put_all(bench, bodies(1, first=3))
    assert degraded(bench)
    assert bench.bodies() == bodies(4)
    put_all(bench, bodies(1, first=4))
    bench.look()
    assert degraded(bench) is None
    assert bench.bodies() == bodies(1, first=4)
    assert bench.account().dropped == {}
    bench.close()


def remove_database(path: Path) -> None:
    (path / DATABASE).unlink()


def remove_log(path: Path) -> None:
    (path / WAL).unlink()


def remove_all_files(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def replace_database(path: Path) -> None:
    shutil.copy(path / DATABASE, path / "copy")
    (path / "copy").rename(path / DATABASE)


def replace_log(path: Path) -> None:
    shutil.copy(path / WAL, path / "copy")
    (path / "copy").rename(path / WAL)


def move_directory(path: Path) -> None:
    path.rename(path.with_name("moved"))


GONE = [
    shutil.rmtree,
    move_directory,
    remove_all_files,
    remove_database,
    replace_database,
    remove_log,
    replace_log,
]


def as_after_a_kill(path: Path, to: Path) -> SpoolBench:
    """Open what the next process would find if this one were killed now."""
    return SpoolBench(Path(shutil.copytree(path, to)))


@pytest.mark.parametrize("how", GONE, ids=lambda how: how.__name__)
@pytest.mark.parametrize("checkpointed", [False, True], ids=["all-in-the-log", "half-in-the-database"])
def test_a_kill_after_files_were_removed_costs_nothing(
    how: Callable[[Path], object], checkpointed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "spool"
    bench = SpoolBench(path)
    put_all(bench, bodies(2))
    if checkpointed:
        bench.close()
        bench = SpoolBench(path)
    put_all(bench, bodies(2, first=2))
    how(path)
    put_all(bench, bodies(2, first=4))
    assert degraded(bench) is None
    assert numbers_of(path / WAL), "SQLite writes to a log that has no name"
    again = as_after_a_kill(path, tmp_path / "killed")
    assert set(again.bodies()) == set(bodies(6))
    assert again.account().dropped == {}
    again.close()
    assert set(bench.bodies()) == set(bodies(6))
    bench.close()
    empty = SpoolBench(path)
    assert empty.bodies() == []
    empty.close()


@pytest.mark.parametrize("how", GONE, ids=lambda how: how.__name__)
def test_removed_files_do_not_stay_open(how: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "spool"
    bench = SpoolBench(path)
    for number in range(3):
        put_all(bench, bodies(1, first=number))
        how(path)
        bench.look()
        if how is move_directory:
            shutil.rmtree(path.with_name("moved"))
    assert [link for link in open_files() if link.startswith(str(tmp_path)) and link.endswith("(deleted)")] == []
    bench.close()


def open_files() -> list[str]:
    """Return what the descriptors of this process lead to."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that the list is read by
            found.append(str(link.readlink()))
    return found


def test_a_removed_log_is_noticed_without_anything_coming_in(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    put_all(bench, bodies(3))
    remove_log(tmp_path / "spool")
    bench.look()
    again = as_after_a_kill(tmp_path / "spool", tmp_path / "killed")
    assert again.bodies() == bodies(3)
    again.close()
    bench.close()


def test_a_log_that_is_removed_while_the_file_system_is_full_is_kept_until_there_is_room(small: Path) -> None:
    path = small / "spool"
    bench = SpoolBench(path, LARGE)
    put_all(bench, bodies(20))
    fill(small / "other")
    remove_log(path)
    fill(small / "more")
    put_all(bench, bodies(2, first=20))
    assert "full" in (degraded(bench) or "")
    (small / "other").unlink()
    bench.look()
    assert degraded(bench) is None
    again = as_after_a_kill(path, small / "killed")
    assert again.bodies() == bodies(22)
    again.close()
    bench.close()


def test_a_log_that_was_put_there_with_its_database_is_read(tmp_path: Path) -> None:
    path, backup = tmp_path / "spool", tmp_path / "backup"
    bench = SpoolBench(path)
    put_all(bench, bodies(3, first=100))
    shutil.copytree(path, backup)
    assert bench.bodies() == bodies(3, first=100)
    put_all(bench, bodies(3))
    for name in (WAL, DATABASE):
        (backup / name).rename(path / name)
    bench.look()
    assert bench.account() == (6, 3, 6, {}, 3)
    assert sorted(bench.bodies()) == sorted(bodies(3) + bodies(3, first=100))
    bench.close()


@pytest.mark.parametrize("how", [shutil.rmtree, replace_database], ids=lambda how: how.__name__)
def test_a_log_in_the_place_of_ours_is_not_removed_at_the_end(how: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "spool"
    first = open_disk(path).store
    how(path)
    path.mkdir(mode=0o700, exist_ok=True)
    (path / WAL).unlink(missing_ok=True)
    (path / WAL).write_bytes(b"another's")
    first.close()
    assert (path / WAL).read_bytes() == b"another's"


def test_a_database_that_is_damaged_under_us(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    put_all(bench, bodies(300, 30_000))
    os.truncate(tmp_path / "spool" / "spool.db", 1 << 20)
    taken = []
    for _ in range(20):
        taken += bench.bodies()
        bench.look()
    account = bench.account()
    assert degraded(bench) is None
    assert (account.queued, account.recovered) == (0, 0)
    assert set(taken) <= set(bodies(300, 30_000))
    assert len(taken) == account.exported
    assert account.exported >= 30
    assert account.dropped == {Reason.SPOOL_CORRUPT: 300 - account.exported}
    bench.put(request(b"after"))
    assert bench.bodies() == [b"after"]
    bench.close()


def symbolic_link(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to(path.with_name("elsewhere"))


def foreign_owned(path: Path) -> None:
    path.mkdir()
    os.chown(path, 65534, 65534)


def a_file(path: Path) -> None:
    path.write_text("not a directory")


def shared(path: Path) -> None:
    path.mkdir(mode=0o755)
    (path / "of-somebody-else").mkdir()


def foreign_file(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "spool.db").touch()
    os.chown(path / "spool.db", 65534, 65534)


def linked_file(path: Path) -> None:
    path.mkdir(mode=0o700)
    path.with_name("precious").write_text("precious")
    (path / "spool.db").symlink_to(path.with_name("precious"))


def hard_linked_file(path: Path) -> None:
    path.mkdir(mode=0o700)
    path.with_name("precious").write_text("precious")
    (path / "spool.db").hardlink_to(path.with_name("precious"))


def linked_lock(path: Path) -> None:
    path.mkdir(mode=0o700)
    path.with_name("precious").write_text("precious")
    (path / "spool.lock").symlink_to(path.with_name("precious"))


def fifo(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.mkfifo(path / "spool.db")


def clear(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "symbolic link": (symbolic_link, "is a symbolic link, which is not followed"),
    "foreign-owned": (foreign_owned, "belongs to user 65534, not to 0; change its owner"),
    "full of other files": (shared, "holds files of others and is not private; name a directory for the spool alone"),
    "a file": (a_file, "Not a directory"),
    "database foreign-owned": (foreign_file, "spool.db: belongs to somebody else"),
    "database a symbolic link": (linked_file, "spool.db: is not a plain file"),
    "database a hard link": (hard_linked_file, "spool.db: belongs to somebody else as well"),
    "lock a symbolic link": (linked_lock, "cannot be used"),
    "database a fifo": (fifo, "spool.db: is not a plain file"),
}


@pytest.mark.parametrize(("make", "message"), list(UNUSABLE.values()), ids=list(UNUSABLE))
def test_a_directory_that_must_not_be_used(
    make: Callable[[Path], None], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool"
    make(path)
    bench = SpoolBench(path)
    put_all(bench, bodies(3))
    bench.look()
    assert message in (degraded(bench) or "")
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # said once
    assert bench.account().queued == 3
    clear(path)
    bench.look()
    assert degraded(bench) is None
    bench.close()
    assert not (tmp_path / "precious").exists() or (tmp_path / "precious").read_text() == "precious"
    again = SpoolBench(path)
    assert again.bodies() == bodies(3)
    again.close()


@pytest.mark.parametrize(
    ("make", "below"),
    [*((make, "") for make, _ in UNUSABLE.values()), (a_file, "spool"), (a_file, "spool/deeper")],
    ids=[*UNUSABLE, "below a file", "far below a file"],
)
def test_what_is_wrong_with_a_directory_is_seen_without_touching_it(
    make: Callable[[Path], None], below: str, tmp_path: Path
) -> None:
    made = tmp_path / "spool"
    make(made)
    path = made / below
    before = listing(tmp_path)
    with pytest.raises(StoreError) as seen:
        examine(path)
    assert listing(tmp_path) == before
    with pytest.raises(StoreError) as met:
        open_disk(path)
    assert str(seen.value) == str(met.value)


def test_what_can_be_used_is_not_complained_of_and_not_made(small: Path) -> None:
    for path in (small / "spool", small / "a" / "b" / "spool"):
        examine(path)
    assert listing(small) == []
    open_disk(small / "spool").store.close()
    examine(small / "spool")
    command("mount", "-o", "remount,ro", small)
    with pytest.raises(StoreError) as seen:
        examine(small / "another")
    with pytest.raises(StoreError) as met:
        open_disk(small / "another")
    assert str(seen.value) == str(met.value) == f"{small / 'another'}: cannot be used (Read-only file system)"


def test_a_directory_in_use_is_seen_and_its_user_not_disturbed(tmp_path: Path) -> None:
    opened = open_disk(tmp_path / "spool")
    with pytest.raises(SpoolInUseError) as seen:
        examine(tmp_path / "spool")
    with pytest.raises(SpoolInUseError) as met:
        open_disk(tmp_path / "spool")
    assert str(seen.value) == str(met.value)
    opened.store.close()
    examine(tmp_path / "spool")
    open_disk(tmp_path / "spool").store.close()


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Return every file below, with its mode and when it was changed."""
    paths = sorted(folder.rglob("*"))
    return [(str(path), status.st_mode, status.st_mtime_ns) for path in paths if (status := path.lstat())]


class Faulty:
    """A disk that fails at the calls of a script: one letter a call, ``x`` for a failure."""

    def __init__(self, inner: Disk, script: Iterator[str]) -> None:
        self._inner = inner
        self._script = script

    def _call(self) -> None:
        if next(self._script, ".") == "x":
            raise StoreError("made to fail")

    @property
    def totals(self) -> Mapping[Signal, Total]:
        return self._inner.totals

    @property
    def next_key(self) -> int:
        return self._inner.next_key

    def change(self, remove: Sequence[Head], add: Sequence[Batch]) -> None:
        self._call()
        self._inner.change(remove, add)

    def oldest(self, signal: Signal, after: int, limit: int) -> Sequence[Head]:
        self._call()
        return self._inner.oldest(signal, after, limit)

    def read(self, head: Head) -> Batch | None:
        self._call()
        return self._inner.read(head)

    def let_go(self) -> None:
        self._inner.let_go()

    def growth_left(self, leave: float) -> int:
        self._call()
        return self._inner.growth_left(leave)

    def replaced(self) -> bool:
        return self._inner.replaced()

    @property
    def held(self) -> bool:
        return self._inner.held

    def log_replaced(self) -> bool:
        return self._inner.log_replaced()

    def renew_log(self) -> None:
        self._call()
        self._inner.renew_log()

    def shrink(self) -> None:
        self._call()
        self._inner.shrink()

    def intact(self) -> bool:
        return self._inner.intact()

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("failures", [1, 2, 7])
def test_a_disk_that_fails_at_any_call(failures: int, tmp_path: Path) -> None:
    for position in range(45):
        path = tmp_path / f"{position}"
        script = iter("." * position + "x" * failures)

        def faulty(where: Path, script: Iterator[str] = script) -> Opened:
            opened = open_disk(where)
            return Opened(Faulty(opened.store, script), opened.lost)

        bench = SpoolBench(path, disk=faulty)
        taken: list[bytes] = []
        for number in range(6):
            put_all(bench, bodies(1, first=number))
            if number % 2 and (batches := bench.lease(most_bytes=1)):
                assert bench.spool.delivered(batches)
                taken += [batch.body for batch in batches]
            bench.account()
        for _ in range(failures + 8):
            bench.look()
        assert degraded(bench) is None, position
        bench.close()
        again = SpoolBench(path)
        assert sorted(taken + again.bodies()) == bodies(6), position
        assert again.account().dropped == {}
        again.close()


def test_a_trouble_is_looked_at_only_from_time_to_time(tmp_path: Path) -> None:
    tries = 0

    def refuse(path: Path) -> Opened:
        nonlocal tries
        tries += 1
        raise StoreError(f"{path}: no")

    bench = SpoolBench(tmp_path / "spool", disk=refuse)
    for _ in range(10):
        bench.put(request(b"a"))
        bench.clocks.pass_time(LOOK_EVERY_S / 5)
    assert tries == 1 + 1
    assert bench.spool.close() == {Signal.LOGS: 10}
    assert bench.account().dropped == {Reason.SHUTDOWN: 10}


def test_the_disk_is_tried_once_more_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    bench = SpoolBench(tmp_path / "spool")
    put_all(bench, bodies(3))
    (tmp_path / "spool").unlink()
    assert bench.spool.close() == {}
    again = SpoolBench(tmp_path / "spool")
    assert again.bodies() == bodies(3)
    again.close()
