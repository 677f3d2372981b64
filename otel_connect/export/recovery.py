"""Open the spool of a directory whatever state it is in: verify it, and if it is damaged, repair it.

What is intact in a damaged database is written to a new one; the damaged files move aside for whoever
wants to look. The steps are ordered so that a crash between any two of them loses nothing: a new database
that is complete carries its final name before the old one is touched, and is put in its place by whoever
opens the directory next.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from otel_connect.export import directory as directories
from otel_connect.export.directory import LEAVE_FREE, Directory
from otel_connect.export.disk import DATABASE, WAL, DiskStore, take_lock
from otel_connect.export.rows import Tally
from otel_connect.export.salvage import PAGE, TALLY_PAGE, Pages, Salvage, fits, read_wal
from otel_connect.export.store import SIGNALS, Batch, Opened, StoreDamagedError, StoreError
from otel_connect.model import Signal

_MENDED = "mended"
_UNFINISHED = "unfinished"
_EXPECTED = "expected"  # beside a new database: the tally that says how many records there ought to be
_ASIDE = "damaged"
_ASIDE_KEPT = 2
_SIDE_FILES = (WAL, f"{DATABASE}-shm", f"{DATABASE}-journal")
_CHUNK_BYTES = 4 << 20
_LONGEST_WAL = 128 << 20


def open_disk(path: Path) -> Opened:
    """Open and verify; raises SpoolInUseError when another process holds it, StoreError when it cannot be used."""
    directory = Directory(path)
    try:
        return _open(directory)
    except OSError as error:
        directory.close()
        raise StoreError(f"{path}: cannot be used ({error.strerror})") from error
    except BaseException:
        directory.close()
        raise


def examine(path: Path) -> None:
    """Look whether it could be opened, and change nothing; raises SpoolInUseError and StoreError as ``open_disk``.

    What is inside is not read: damage is not a fault of the configuration, and opening the spool repairs it.
    """
    directories.examine(path, (DATABASE, *_SIDE_FILES))


def _open(directory: Directory) -> Opened:
    path = directory.path
    shutil.rmtree(path / _UNFINISHED, ignore_errors=True)
    expected = _put_in_place(directory) if (path / _MENDED).is_dir() else None
    for name in (DATABASE, *_SIDE_FILES):
        directory.check(name)
    # Before SQLite opens it: that would forget what lies behind a break in the log.
    wal = _contents(path / WAL)
    noted = Tally.parse(directory.noted()) or Tally()
    try:
        store = _verified(directory, wal, noted)
    except StoreDamagedError as error:
        return _mend(directory, wal, noted, str(error))
    return Opened(store, {} if expected is None else _lost(expected, store))


def _verified(directory: Directory, wal: bytes, noted: Tally) -> DiskStore:
    if read_wal(wal).broken:
        raise StoreDamagedError(f"{directory.path / WAL}: is broken in the middle")
    if not fits(wal, _page(directory.path / DATABASE, TALLY_PAGE), noted):
        raise StoreDamagedError(f"{directory.path / WAL}: does not belong to the database")
    store = DiskStore(directory)
    try:
        store.verify(noted)
    except BaseException:
        store.close_database()
        raise
    return store


def _mend(directory: Directory, wal: bytes, noted: Tally, why: str) -> Opened:
    """Write what is intact to a new database and put that in place."""
    path = directory.path
    _forget_old(path, _ASIDE_KEPT - 1)
    directory.create(DATABASE)
    with closing(take_lock(path / DATABASE)):  # somebody may hold it whose lock of the directory was removed
        _write_intact(path, wal, noted)
    (path / _UNFINISHED).rename(path / _MENDED)
    directory.sync()
    with suppress(OSError):  # SQLite may have emptied it meanwhile, and it may be looked at
        _write(path / WAL, wal)
    expected = _put_in_place(directory)
    store = _verified(directory, b"", noted)
    lost = _lost(expected, store)
    intact = sum(total.records for total in store.totals.values())
    said = (
        f"spool: {why}; it moves aside, and what is intact is kept",
        f"spool: {intact} records were intact, {sum(lost.values())} are lost",
    )
    return Opened(store, lost, said)


def _lost(expected: Tally, store: DiskStore) -> Mapping[Signal, int]:
    """Count what ought to be there and is not."""
    records = zip(SIGNALS, expected.records, strict=True)
    return {signal: max(count - store.totals[signal].records, 0) for signal, count in records}


def _write_intact(path: Path, wal: bytes, noted: Tally) -> None:
    """Write what is intact to a database beside, and the latest tally there is."""
    with closing(DiskStore(Directory(path / _UNFINISHED))) as fresh:
        tally = _salvage_into(fresh, path, wal, noted)
        fresh.catch_up(tally)
        fresh.checkpoint()  # its log is not going to be put in place
    _write(path / _UNFINISHED / _EXPECTED, tally.line())


def _salvage_into(fresh: DiskStore, path: Path, wal: bytes, noted: Tally) -> Tally:
    """Copy the intact batches; gives the latest tally there is."""
    with _pages(path / DATABASE) as stored:
        found = Salvage(stored, wal, noted)
        chunk: list[Batch] = []
        size = 0
        for batch in found.batches():
            chunk.append(batch)
            size += batch.head.size_bytes
            if size >= _CHUNK_BYTES:
                fresh.change([], chunk)
                chunk, size = [], 0
        fresh.change([], chunk)
        return found.tally


def _put_in_place(directory: Directory) -> Tally:
    """Finish what ``_mend`` has prepared, and return the tally of before; may be started again at any point."""
    path = directory.path
    expected = Tally.parse(_contents(path / _MENDED / _EXPECTED)) or Tally()
    if (path / _MENDED / DATABASE).exists():
        numbers = _aside_numbers(path)
        aside = path / f"{_ASIDE}-{max(numbers, default=0) + 1}"
        aside.mkdir(mode=0o700)
        # The database last: while it is here, what lies beside it belongs to it.
        for name in (*_SIDE_FILES, DATABASE):
            with suppress(FileNotFoundError):
                (path / name).rename(aside / name)
        directory.sync()
        (path / _MENDED / DATABASE).rename(path / DATABASE)
        directory.sync()
    shutil.rmtree(path / _MENDED)
    _forget_old(path, _ASIDE_KEPT if directory.spare_bytes(LEAVE_FREE) > 0 else 0)
    return expected


def _forget_old(path: Path, keep: int) -> None:
    numbers = _aside_numbers(path)
    for number in numbers[: len(numbers) - keep]:
        shutil.rmtree(path / f"{_ASIDE}-{number}", ignore_errors=True)


def _aside_numbers(path: Path) -> list[int]:
    names = (one.name.removeprefix(f"{_ASIDE}-") for one in path.glob(f"{_ASIDE}-*"))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


@contextmanager
def _pages(path: Path) -> Iterator[Pages]:
    """Read a file page by page."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        count = -(-os.fstat(descriptor).st_size // PAGE)
        yield Pages(lambda number: os.pread(descriptor, PAGE, (number - 1) * PAGE), count)
    finally:
        os.close(descriptor)


def _page(path: Path, number: int) -> bytes:
    try:
        with _pages(path) as stored:
            return stored.read(number)
    except FileNotFoundError:
        return b""


def _contents(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST_WAL)
    except FileNotFoundError:
        return b""


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
