"""A store on disk: one SQLite database that only this process opens, which two locks of ours see to.

Every change is one transaction that is on the medium when it returns (write-ahead log, synchronous=FULL).
The lock is exclusive, so that there is no shared-memory file: it would be mapped, and a mapping of a file
that somebody truncates kills the process.

The lock is ours, on the bytes that SQLite would lock. SQLite's own is kept in a list of the process, which a child
made by fork inherits: it would find the database of its dead parent locked for ever, by itself.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from otel_connect.export.descriptors import Descriptor, OwnDescriptor, identity, lock_bytes, numbers_of
from otel_connect.export.directory import Directory
from otel_connect.export.forks import GATE, collect_again, keep_forever
from otel_connect.export.rows import KEY_BITS, SCHEMA, Tally, row_id, to_batch, to_columns, to_head
from otel_connect.export.salvage import PAGE
from otel_connect.export.store import CLOSED, SIGNALS, Batch, Head, StoreDamagedError, StoreError, Total, Totals
from otel_connect.model import Signal

DATABASE = "spool.db"
WAL = f"{DATABASE}-wal"

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_ERROR}
_READ_FAILED = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}
_LOG_PAGES = 1000
_LOG_BYTES = _LOG_PAGES * (PAGE + 24) + (1 << 20)  # what the log grows to, and a change that comes at its end
_PRAGMAS = (
    f"PRAGMA page_size = {PAGE}",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    # A removed batch is wiped where it stood, so that a salvage does not find it again.
    "PRAGMA secure_delete = FAST",
    f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}",
    f"PRAGMA journal_size_limit = {16 << 20}",
)
_APPLICATION = 0x4F54_4353  # "OTCS"
_LOCK_BYTES = 0x4000_0000, 512
_NO_SUCH_LOCKS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_LONGEST_END_S = 1.0  # a process that ends lets its locks go one after the other
_SHRINK_PAGES = (16 << 20) // PAGE
_DELETE = "DELETE FROM batches WHERE key = ?"
_PORTION_BYTES = 1 << 20
_BELOW_ALL = -(1 << 63)
_ROWS = "SELECT key, records, created, digest, body FROM batches WHERE key > ? ORDER BY key"
_OLDEST = "SELECT key, records, created, length(body) FROM batches WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
_INSERT = "INSERT OR REPLACE INTO batches (key, records, created, digest, body) VALUES (?, ?, ?, ?, ?)"


class DiskStore:
    """Batches in the database of a directory, which the store closes in the end.

    Raises StoreDamagedError when SQLite cannot read it. ``totals`` are right after ``verify``.
    """

    def __init__(self, directory: Directory) -> None:
        if not GATE.safe:
            raise StoreError(f"{directory.path}: cannot be used by a process that was forked while SQLite was in use")
        self.directory = directory
        self._process = os.getpid()
        self._totals = Totals()
        self._opened: sqlite3.Connection | None = None
        self._descriptors: Sequence[Descriptor] = ()
        directory.create(DATABASE)
        path = directory.path / DATABASE
        self._lock = take_lock(path)
        try:
            with GATE.passage(), _translated(path):
                self._open(path)
            self.tally = self._read_tally()
        except OSError as error:
            self.close_database()
            raise StoreError(f"{path}: cannot be used ({error.strerror})") from error
        except BaseException:
            self.close_database()
            raise

    @property
    def totals(self) -> Mapping[Signal, Total]:
        """Say how much there is."""
        return self._totals.by_signal

    def verify(self, noted: Tally) -> None:
        """Read everything once and count it; raises StoreDamagedError when something is not as it was written.

        ``noted`` is the tally from beside the database, which is never ahead of it.
        """
        if noted.serial > self.tally.serial:
            raise StoreDamagedError(f"{self._path}: its latest changes are missing")
        self._totals = Totals()
        after = _BELOW_ALL
        while portion := self._portion(after):
            self._totals.add(batch.head for batch in portion)
            after = row_id(portion[-1].head)
        with self._using() as connection:  # reads nothing from the medium that the rows have not read just now
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if answer != "ok":
                raise StoreDamagedError(f"{self._path}: {answer}")
        if self.tally.records != tuple(self.totals[signal].records for signal in SIGNALS):
            raise StoreDamagedError(f"{self._path}: there are not as many records as were written")

    def _portion(self, after: int) -> list[Batch]:
        """Read about a megabyte of rows above a key, so that a fork never waits for all; raises StoreDamagedError."""
        portion: list[Batch] = []
        size = 0
        with self._using() as connection, closing(connection.execute(_ROWS, (after,))) as rows:
            for row in rows:
                batch = to_batch(*row)
                if batch is None or row[0] <= after:  # in a damaged tree they may lie in any order
                    raise StoreDamagedError(f"{self._path}: a batch is not what was written")
                portion.append(batch)
                after = row[0]
                size += batch.head.size_bytes
                if size >= _PORTION_BYTES:
                    break
        return portion

    def change(self, remove: Sequence[Head], add: Sequence[Batch]) -> None:
        """Remove and add in one transaction, on the medium when it returns."""
        after = Totals()
        after.by_signal.update(self._totals.by_signal)
        after.add(remove, -1)
        after.add(batch.head for batch in add)
        next_key = max([self.tally.next_key, *(head.key + max(head.records, 1) for head, _ in add)])
        tally = Tally(self.tally.serial + 1, next_key, tuple(after.by_signal[signal].records for signal in SIGNALS))
        with self._using() as connection:
            try:
                self._transact(connection, remove, add, tally)
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        self._totals, self.tally = after, tally
        self.directory.note(tally.line())

    def catch_up(self, tally: Tally) -> None:
        """Count changes and keys on from where another database was."""
        serial, next_key = max(self.tally.serial, tally.serial), max(self.tally.next_key, tally.next_key)
        self.tally = self.tally._replace(serial=serial, next_key=next_key)
        self.change([], [])

    def oldest(self, signal: Signal, after: int, limit: int) -> Sequence[Head]:
        """Find the first batches of a signal whose keys are above ``after``."""
        base = SIGNALS.index(signal) << KEY_BITS
        with self._using() as connection:
            rows = connection.execute(_OLDEST, (base + after, base + (1 << KEY_BITS), limit)).fetchall()
        heads = [to_head(*row) for row in rows]
        if None in heads:
            raise StoreDamagedError(f"{self._path}: a batch is not what was written")
        return [head for head in heads if head is not None]

    def read(self, head: Head) -> Batch | None:
        """Give the batch; ``None`` when its digest does not prove it."""
        with self._using() as connection:
            row = connection.execute(
                "SELECT key, records, created, digest, body FROM batches WHERE key = ?", (row_id(head),)
            ).fetchone()
        return None if row is None else to_batch(*row)

    @property
    def next_key(self) -> int:
        """A key above every one that was ever given out."""
        return self.tally.next_key

    def replaced(self) -> bool:
        """Whether the directory or the database is not the one at this path any more."""
        try:
            return self.directory.replaced() or identity(self._path.lstat()) != self._identity
        except OSError:
            return True

    @property
    def held(self) -> bool:
        """Whether its directory was not given up."""
        return self.directory.held

    def log_replaced(self) -> bool:
        """Whether the write-ahead log is not the one under its name any more: the next start would not find it."""
        try:
            return identity(self._wal.lstat()) != self._log_identity
        except OSError:
            return True

    def renew_log(self) -> None:
        """Put everything into the database, and have a log under its name again.

        Raises StoreError when there is no room for it, and StoreDamagedError when it has to be opened again.
        """
        self.checkpoint()
        connection, self._opened = self._connection(), None
        try:
            with GATE.passage():
                # It also removes what is under the name of the log by now, which is none of this database.
                connection.close()
                collect_again(connection)
                self._open(self._path)
            if self._read_tally() != self.tally:
                raise StoreDamagedError(f"{self._path}: its latest changes are missing")
        except (sqlite3.Error, OSError) as error:
            raise StoreDamagedError(f"{self._wal}: cannot be used ({error})") from error

    def checkpoint(self) -> None:
        """Put everything that is in the log into the database; raises StoreError."""
        with self._using() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def intact(self) -> bool:
        """Whether the application has left its descriptors open."""
        return self.directory.intact and self._lock.ours and all(one.ours for one in self._descriptors)

    def let_go(self) -> None:
        """Give the directory up for whatever is at its path now; what is open stays readable."""
        if self.intact() and not self.directory.replaced() and self.replaced():
            # The database was removed, or another put in its place: our log beside it is not the new one's.
            self.directory.note(b"")
            if not self.log_replaced():
                with suppress(OSError):
                    self._wal.unlink()
        self.directory.close()

    def growth_left(self, leave: float) -> int:
        """Bytes that can be added while ``leave`` of the file system stays free."""
        with self._using() as connection:
            (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        try:
            log_bytes = self._wal.stat().st_size if self._wal.exists() else 0
            stored_bytes = self._path.stat().st_size
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be used ({error.strerror})") from error
        # What is in the log only is going to be in the database, too, and the log grows to its full size.
        coming = max(int(pages) * PAGE - stored_bytes, 0) + max(_LOG_BYTES - log_bytes, 0)
        return max(self.directory.spare_bytes(leave) - coming, 0) + int(free_pages) * PAGE

    def shrink(self) -> None:
        """Give the room of a spool that has been large back to the file system, if it is empty."""
        if any(total.batches for total in self.totals.values()):
            return
        with self._using() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            if pages > _SHRINK_PAGES:
                connection.execute("VACUUM")
                self.checkpoint()

    def close_database(self) -> None:
        """Close the database, unless it is no longer ours alone, and keep the directory."""
        connection, self._opened = self._opened, None
        # SQLite removes the write-ahead log by its name when it closes. Without our locks that may be another process's
        # by now, and if the path leads elsewhere it is another database's; in a child it is the parent's, and
        # descriptors that were closed may lead to files of the application.
        if connection is not None and os.getpid() == self._process and self.intact():
            with GATE.passage(), suppress(sqlite3.Error, OSError):
                if self.replaced():
                    self._abandon(connection)
                else:
                    connection.close()
                    collect_again(connection)
        self._descriptors = ()
        self._lock.close()

    def close(self) -> None:
        """Close the database and let the directory go."""
        self.close_database()
        self.directory.close()

    def _abandon(self, connection: sqlite3.Connection) -> None:
        """Free what a connection holds without closing it, after which nobody may use it.

        It stays in memory, a few kilobytes, until the process ends.
        """
        connection.execute("PRAGMA shrink_memory")
        for descriptor in self._descriptors:
            os.close(descriptor.number)

    @property
    def _wal(self) -> Path:
        return self.directory.path / WAL

    @property
    def _path(self) -> Path:
        return self.directory.path / DATABASE

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Have SQLite for the calling thread; raises StoreError when the database is not this process's."""
        with GATE.passage(), _translated(self._path):
            connection = self._connection()
            if not self.intact():
                raise StoreDamagedError(f"{self._path}: {CLOSED}")
            yield connection

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None or os.getpid() != self._process:
            raise StoreError(f"{self._path}: is not open in this process")
        return self._opened

    def _transact(
        self, connection: sqlite3.Connection, remove: Sequence[Head], add: Sequence[Batch], tally: Tally
    ) -> None:
        connection.execute("BEGIN IMMEDIATE")
        gone = connection.executemany(_DELETE, [(row_id(head),) for head in remove]).rowcount
        if remove and gone != len(remove):
            raise StoreDamagedError(f"{self._path}: a batch is missing")
        connection.executemany(_INSERT, map(to_columns, add))
        connection.execute("INSERT OR REPLACE INTO tally (id, line) VALUES (1, ?)", (tally.line(),))
        self._connection().execute("COMMIT")  # not in a child, if a signal handler has forked since and returned there

    def _open(self, path: Path) -> None:
        self._identity = identity(path.lstat())
        others = numbers_of(path, self._wal)
        self._opened = sqlite3.connect(
            f"{path.as_uri()}?vfs=unix-none", uri=True, isolation_level=None, check_same_thread=False, timeout=0
        )
        keep_forever(self._opened)
        self._prepare(self._opened)
        self._log_identity = identity(self._wal.lstat())
        self._descriptors = [Descriptor(number) for number in numbers_of(path, self._wal) - others]

    def _prepare(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        for statement in _PRAGMAS:
            execute(statement)
        (application,) = execute("PRAGMA application_id").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise StoreDamagedError(f"{self._path}: is a database of another program")
        if not tables:
            execute(f"PRAGMA application_id = {_APPLICATION}")
        for statement in SCHEMA:
            execute(statement)

    def _read_tally(self) -> Tally:
        with self._using() as connection:
            row = connection.execute("SELECT line FROM tally WHERE id = 1").fetchone()
        tally = Tally() if row is None else Tally.parse(row[0])
        if tally is None:
            raise StoreDamagedError(f"{self._path}: its tally is not what was written")
        return tally


def take_lock(path: Path) -> OwnDescriptor:
    """Lock a database, for which there may be nothing to wait but the end of its last holder; raises StoreError."""
    deadline = time.monotonic() + _LONGEST_END_S
    try:
        while True:
            try:
                return lock_bytes(path, *_LOCK_BYTES)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise StoreError(f"{path}: database is locked") from error
                time.sleep(0.01)
    except OSError as error:
        if error.errno in _NO_SUCH_LOCKS:
            missing = "the kernel, the sandbox or the file system has no open file description locks"
            raise StoreError(f"{path}: cannot be locked ({error.strerror}): {missing}") from error
        raise StoreError(f"{path}: cannot be used ({error.strerror})") from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        message = f"{path}: {error}"
        if code & 0xFF in _DAMAGED or code in _READ_FAILED:
            raise StoreDamagedError(message) from error
        raise StoreError(message) from error
