"""The disk as the spool sees it: it works, or it is in trouble and looked at again from time to time.

Three troubles are told apart. The disk cannot be written (full, read-only, failing): what lies on it can
still be read. It is damaged, or the application has closed its descriptors: it is opened again, which repairs it.
Its directory was deleted or replaced: what lies in the old one can be read as long as it is open, and moves to the
new one. If only its log was, everything moves from that into the database.

No method raises for any of these but ``read``. The caller holds a lock, so nothing is logged here: the caller is given
the lines, and logs them when it has released the lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from otel_connect.errors import SpoolInUseError
from otel_connect.export.age import Ages
from otel_connect.export.directory import LEAVE_FREE
from otel_connect.export.ledger import Ledger, Reason
from otel_connect.export.moving import all_heads, copy, renumber
from otel_connect.export.store import CLOSED, Batch, Disk, Head, Opened, StoreDamagedError, StoreError, Total, Totals
from otel_connect.model import Signal


class Shelf:
    """A disk that may be in trouble.

    ``open_disk`` opens and verifies it, ``look_every_s`` says how often a trouble is looked at, ``say`` takes lines for
    the log. What is found there at first is entered in the ledger as recovered.
    """

    def __init__(
        self,
        open_disk: Callable[[], Opened],
        ledger: Ledger,
        ages: Ages,
        clock: Callable[[], float],
        look_every_s: float,
        *,
        say: Callable[[str], None],
    ) -> None:
        self._open_disk = open_disk
        self._say = say
        self._ledger = ledger
        self._ages = ages
        self._clock = clock
        self._look_every_s = look_every_s
        self._disk: Disk | None = None
        self._readable = False
        self._doomed: dict[int, Head] = {}  # removed, but still on a disk that cannot be written
        self._out_of_sight = dict.fromkeys(Signal, 0)  # records on a disk that had to be closed
        self._trouble: str | None = None
        self._troubled_since = 0.0
        self._next_look = clock() + look_every_s

    @property
    def trouble(self) -> str | None:
        """What is wrong, in one line for people; ``None`` when nothing is."""
        return self._trouble

    @property
    def works(self) -> bool:
        """Whether the disk can be written."""
        return self._disk is not None and self._trouble is None

    @property
    def totals(self) -> Mapping[Signal, Total]:
        """How much can be read."""
        if self._disk is None or not self._readable:
            return dict.fromkeys(Signal, Total())
        totals = Totals()
        totals.by_signal.update(self._disk.totals)
        totals.add(self._doomed.values(), -1)
        return totals.by_signal

    def open(self) -> int:
        """Open it for the first time, and give the next key; raises SpoolInUseError."""
        try:
            return self._adopt(self._open(), 1)
        except StoreError as error:
            self._fail(error)
            return 1

    def look(self, next_key: int, *, at_once: bool = False) -> int:
        """If it is time to, see whether it is still there, or works again; gives the next key."""
        if self._disk is not None and self._readable and not self._disk.intact():
            self._fail(StoreDamagedError(CLOSED))
            at_once = True
        replaced = self._disk is not None and self.works and (self._disk.replaced() or self._disk.log_replaced())
        if not (replaced or at_once) and self._clock() < self._next_look:
            return next_key
        self._next_look = self._clock() + self._look_every_s
        if self.works and not replaced:
            return next_key
        try:
            next_key = self._restore(next_key)
            self._write_doomed()
        except (StoreError, SpoolInUseError) as error:
            self._fail(error)
            return next_key
        if self._trouble is not None:
            self._say(f"spool: the disk is in use again after {self._clock() - self._troubled_since:.0f} s")
        self._trouble = None
        return next_key

    def write(self, remove: Sequence[Head], add: Sequence[Batch]) -> bool:
        """Remove and add durably; false when it cannot be done now."""
        if self._disk is None or self._trouble is not None:
            return False
        try:
            _leave_free(self._disk, remove, add)
            self._disk.change(remove, add)
        except StoreError as error:
            self._fail(error)
            return False
        return True

    def remove(self, heads: Sequence[Head]) -> None:
        """Remove batches, if need be later."""
        if not self.write(heads, ()):
            self._doomed.update((head.key, head) for head in heads)
        elif self._disk is not None:
            try:
                self._disk.shrink()
            except StoreError as error:
                self._fail(error)

    def growth_left(self) -> int:
        """Bytes that can be added while enough of the file system stays free for others."""
        if self._disk is None:
            return 0
        try:
            return self._disk.growth_left(LEAVE_FREE)
        except StoreError as error:
            self._fail(error)
            return 0

    def heads(self, signal: Signal) -> Iterator[Head]:
        """Find the batches of a signal, oldest first."""
        if self._disk is None or not self._readable:
            return
        try:
            yield from (head for head in all_heads(self._disk, signal) if head.key not in self._doomed)
        except StoreError as error:
            self._fail(error, reading=True)

    def read(self, head: Head) -> Batch | None:
        """Give a batch, ``None`` when it is damaged; raises StoreError when the disk cannot be read now."""
        if self._disk is None or not self._readable:
            raise StoreError(self._trouble or "there is no disk")
        try:
            return self._disk.read(head)
        except StoreError as error:
            self._fail(error, reading=True)
            raise

    def close(self) -> None:
        """Let the disk go."""
        if self._disk is not None:
            self._disk.close()
        self._disk = None

    def _fail(self, error: StoreError | SpoolInUseError, *, reading: bool = False) -> None:
        message = str(error)
        if self._trouble is None:
            self._troubled_since = self._clock()
            self._say(f"spool: {message}; what comes in waits in memory, and the disk is tried again")
        self._trouble = message
        self._next_look = self._clock() + self._look_every_s
        if reading or isinstance(error, StoreDamagedError):
            self._readable = False

    def _open(self) -> Opened:
        opened = self._open_disk()
        for line in opened.said:
            self._say(line)
        return opened

    def _restore(self, next_key: int) -> int:
        """Have a disk at the path again; gives the next key, raises StoreError or SpoolInUseError."""
        disk = self._disk
        if disk is not None and self._readable:
            if disk.replaced():
                try:
                    return self._move(disk, next_key)
                except StoreDamagedError as error:  # the one that is at the path now: ours can still be read
                    raise StoreError(str(error)) from error
            if disk.held:
                if disk.log_replaced():
                    disk.renew_log()
                return next_key
            # It was given up, but nothing could be put in its place, and now it is there again: it is opened again.
        if disk is not None:
            self._put_out_of_sight(disk)
        opened = self._open()
        if any(self._out_of_sight.values()):
            self._take_back(opened)
            return next_key
        return self._adopt(opened, next_key)

    def _put_out_of_sight(self, disk: Disk) -> None:
        """Close a disk that is to be opened again; if it is not at its path any more, what lies on it is lost."""
        for signal, total in disk.totals.items():
            self._out_of_sight[signal] += total.records
        for head in self._doomed.values():
            self._out_of_sight[head.signal] -= head.records
        gone = disk.replaced()
        disk.close()
        self._disk = None
        if gone:
            for signal, records in self._out_of_sight.items():
                self._ledger.drop(signal, Reason.SPOOL_CORRUPT, records)
            self._out_of_sight = dict.fromkeys(Signal, 0)
            self._doomed.clear()

    def _take_back(self, opened: Opened) -> None:
        """Go on with our own disk after it was opened again."""
        disk = opened.store
        try:
            self._doomed = {key: head for key, head in self._doomed.items() if disk.read(head) is not None}
        except StoreError:
            disk.close()
            raise
        totals = Totals()
        totals.by_signal.update(disk.totals)
        totals.add(self._doomed.values(), -1)
        for signal, total in totals.by_signal.items():
            lost = self._out_of_sight[signal] - total.records
            self._ledger.drop(signal, Reason.SPOOL_CORRUPT, max(lost, 0))
            self._ledger.recover(signal, max(-lost, 0))
        self._out_of_sight = dict.fromkeys(Signal, 0)
        self._disk, self._readable = disk, True

    def _adopt(self, opened: Opened, next_key: int) -> int:
        """Go on with a disk that an earlier run has filled."""
        disk = opened.store
        try:
            after = disk.next_key if next_key == 1 else renumber(disk, next_key)
        except StoreError:
            disk.close()
            raise
        self._enter_found(disk.totals, opened.lost)
        self._ages.found(next_key, after - 1)
        self._disk, self._readable = disk, True
        return after

    def _move(self, old: Disk, next_key: int) -> int:
        """Go on with the disk that is at the path now, and take along what lies on the old one."""
        old.let_go()
        opened = self._open()
        new = opened.store
        try:
            after = renumber(new, next_key)
            found = dict(new.totals)
            copied = copy(old, new, self._doomed)
        except StoreError:
            new.close()
            raise
        self._enter_found(found, opened.lost)
        self._ages.found(next_key, after - 1)
        left = Totals()
        left.by_signal.update(self.totals)
        left.add(copied, -1)
        for signal, total in left.by_signal.items():
            self._ledger.drop(signal, Reason.SPOOL_IO, total.records)
        self._doomed.clear()
        old.close()
        self._disk = new
        return after

    def _enter_found(self, totals: Mapping[Signal, Total], lost: Mapping[Signal, int]) -> None:
        for signal, total in totals.items():
            missing = lost.get(signal, 0)
            self._ledger.recover(signal, total.records + missing)
            self._ledger.drop(signal, Reason.SPOOL_CORRUPT, missing)

    def _write_doomed(self) -> None:
        """Remove what could not be removed; with nothing to remove, a write that shows whether it can."""
        if self._disk is not None and (self._trouble is not None or self._doomed):
            self._disk.change(list(self._doomed.values()), [])
            self._doomed.clear()


def _leave_free(disk: Disk, remove: Sequence[Head], add: Sequence[Batch]) -> None:
    growth = sum(batch.head.size_bytes for batch in add) - sum(head.size_bytes for head in remove)
    if growth > 0 and disk.growth_left(LEAVE_FREE) < growth:
        raise StoreError(f"less than {LEAVE_FREE:.0%} of the file system is free")
