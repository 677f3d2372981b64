"""What waits for the backend: on disk if there is one, in memory while it fails, bounded in both.

This is the seam of durability. ``put`` returns once the request is on the medium. A sender leases the
oldest batches of its signal and, once their fate is known, removes them; nothing that is on lease is ever
dropped to make room: it may just be arriving. Every movement is entered in the ledger under the same lock,
so that at any moment the ledger's ``queued`` is what lies here.

While the disk is in trouble (see ``shelf``), what comes in waits in memory, within the bound of memory;
what lies on the disk is sent as long as it can be read, and what waits in memory moves there afterwards.

Nothing is logged while the lock is held. An application's logging handler may have a lock of its own, and hold it while
it exports through this spool: the two locks would be taken in both orders.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import merge
from typing import NamedTuple

from otel_connect.export.age import Ages
from otel_connect.export.ledger import Ledger, Reason
from otel_connect.export.lines import ANY_HANDLER
from otel_connect.export.moving import all_heads
from otel_connect.export.shelf import Shelf
from otel_connect.export.store import BATCH_BYTES, Batch, Head, MemoryStore, Opened, StoreError, make_batch
from otel_connect.model import Request, Signal

_log = logging.getLogger(__name__)

_MOST_LEASED = 4096
_MOVE_BYTES = 4 << 20


class Limits(NamedTuple):
    """How much may wait, in bytes over all signals."""

    disk_bytes: int
    memory_bytes: int
    """While there is no disk to write to."""


class Loss(NamedTuple):
    """Records that had to go for others to come in."""

    signal: Signal
    reason: Reason
    records: int
    new: bool = False
    """Whether they are those that were to come in."""


class SpoolState(NamedTuple):
    """What waits, for people and for the self telemetry."""

    size_bytes: int
    limit_bytes: int
    """Where the oldest batches begin to be dropped, as things stand now."""
    records: Mapping[Signal, int]
    oldest_age_s: float | None
    """How long the oldest batch has waited; ``None`` when nothing does."""
    degraded: str | None
    """What is wrong with the disk; ``None`` when nothing is, or when there is none by configuration."""


class Spool:
    """A queue for the senders of all signals and any number of putters.

    ``open_disk`` opens the disk; without it everything waits in memory. Raises SpoolInUseError when
    another process holds the directory; every other trouble degrades it, and passes by itself.
    """

    def __init__(
        self,
        ledger: Ledger,
        limits: Limits,
        open_disk: Callable[[], Opened] | None,
        *,
        ages: Ages,
        clock: Callable[[], float],
        look_every_s: float = 10.0,
    ) -> None:
        self._condition = threading.Condition(threading.Lock())  # not taken twice: lines would be logged inside
        self._lines: list[str] = []
        self._ledger = ledger
        self._limits = limits
        self._ages = ages
        self._look_every_s = look_every_s
        self._memory = MemoryStore()
        self._shelf: Shelf | None = None
        self._next_key = 1
        if open_disk is not None:
            self._shelf = Shelf(open_disk, ledger, ages, clock, look_every_s, say=self._lines.append)
            with self._held():
                self._next_key = self._shelf.open()
        self._leased: dict[int, Head] = {}
        self._alone: set[int] = set()
        self._finishing: set[Signal] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing is taken, and nothing counted, any more."""
        with self._held():
            return self._closed

    def put(self, request: Request) -> Sequence[Loss]:
        """Take a request, durably if the disk works; gives what had to go for it, perhaps itself."""
        with self._held():
            self._ledger.accept(request.signal, request.records)
            if self._closed:
                return self._refuse(request, Reason.SHUTDOWN)
            self._look()
            batch = make_batch(self._next_key, request, self._ages.now_ns())
            self._next_key += max(request.records, 1)
            losses = self._put_on_disk(batch)
            if losses is None:
                losses = self._put_in_memory(batch)
            self._condition.notify_all()
            return losses

    def lease(self, signal: Signal, most_bytes: int) -> Sequence[Batch]:
        """Wait for the oldest batches of a signal and reserve them; none when it is finished and empty.

        As many as fit into ``most_bytes`` of bodies, but always one. It is not empty while something is on
        lease, which may be given back.
        """
        while True:
            with self._held():
                if batches := self._look_and_take(signal, most_bytes):
                    return batches
                if self._closed or (signal in self._finishing and not self._on_lease(signal)):
                    return ()
                if not self._lines:
                    self._condition.wait(self._look_every_s)

    def take(self, signal: Signal, most_bytes: int) -> Sequence[Batch]:
        """Do the same without waiting."""
        with self._held():
            return self._look_and_take(signal, most_bytes)

    def give_back(self, batches: Sequence[Batch], *, alone: bool = False) -> None:
        """End a lease: the batches stay the oldest; ``alone``: from now on each is leased by itself."""
        with self._held():
            self._end_lease(batches)
            if alone:
                self._alone.update(batch.head.key for batch in batches)
            self._condition.notify_all()

    def delivered(self, batches: Sequence[Batch], rejected: int = 0) -> bool:
        """Remove leased batches the backend has taken but for some records; false after ``close``."""
        with self._held():
            if not self._remove(batches):
                return False
            for batch in batches:
                refused = min(rejected, batch.head.records)
                rejected -= refused
                self._ledger.export(batch.head.signal, batch.head.records - refused)
                self._ledger.drop(batch.head.signal, Reason.REJECTED_PARTIAL, refused)
            return True

    def drop(self, batches: Sequence[Batch], reason: Reason) -> bool:
        """Remove leased batches that are given up; false after ``close``."""
        with self._held():
            if not self._remove(batches):
                return False
            self._lose([(batch.head.signal, batch.head.records) for batch in batches], reason)
            return True

    def replace(self, batch: Batch, parts: Sequence[Request]) -> bool:
        """Put parts in the place of a leased batch, each to be leased by itself; false after ``close``.

        The parts have the records of the batch, in their order.
        """
        with self._held():
            if self._closed:
                return False
            self._end_lease([batch])
            key, pieces = batch.head.key, []
            for part in parts:
                pieces.append(make_batch(key, part, batch.head.created_ns))
                key += part.records
            if self._in_memory(batch.head):
                self._memory.change([batch.head], pieces)
            elif self._shelf is not None and not self._shelf.write([batch.head], pieces):
                self._shelf.remove([batch.head])
                self._memory.change([], pieces)
            self._alone.update(piece.head.key for piece in pieces)
            self._condition.notify_all()
            return True

    def age_s(self, batch: Batch) -> float:
        """Tell how long a batch has waited."""
        return self._ages.seconds(batch.head)

    def limit(self, limits: Limits) -> None:
        """Change how much may wait; what is too much already goes with the next ``put``."""
        with self._held():
            self._limits = limits

    def state(self) -> SpoolState:
        """Say what waits."""
        with self._held():
            totals = [*self._memory.totals.values(), *(() if self._shelf is None else self._shelf.totals.values())]
            oldest = [head for signal in Signal if (head := next(self._heads(signal), None)) is not None]
            in_memory = self._shelf is None or not self._shelf.works
            return SpoolState(
                size_bytes=sum(total.size_bytes for total in totals),
                limit_bytes=self._limits.memory_bytes if in_memory else self._limits.disk_bytes,
                records={signal: account.queued for signal, account in self._ledger.snapshot().items()},
                oldest_age_s=max((self._ages.seconds(head) for head in oldest), default=None),
                degraded=None if self._shelf is None else self._shelf.trouble,
            )

    def finish(self, signal: Signal) -> None:
        """From now on ``lease`` does not wait for more of this signal."""
        with self._held():
            self._finishing.add(signal)
            self._condition.notify_all()

    def close(self) -> Mapping[Signal, int]:
        """Take nothing more; gives the records that had to be lost because there is no disk for them.

        What lies on the disk stays there and stays queued.
        """
        with self._held():
            if self._closed:
                return {}
            self._look(at_once=True)
            self._closed = True
            left = {signal: total.records for signal, total in self._memory.totals.items() if total.records}
            self._lose(left.items(), Reason.SHUTDOWN)
            self._memory = MemoryStore()
            if self._shelf is not None:
                self._shelf.close()
            self._condition.notify_all()
            return left

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock, and log what there is to be logged when it is released."""
        said: Sequence[str] = ()
        try:
            with self._condition:
                try:
                    yield
                finally:
                    said = tuple(self._lines)
                    self._lines.clear()
        finally:
            for line in said:
                with ANY_HANDLER:
                    _log.warning("%s", line)

    def _look(self, *, at_once: bool = False) -> None:
        """Look after the disk, when it is time to."""
        if self._shelf is not None and not self._closed:
            self._next_key = self._shelf.look(self._next_key, at_once=at_once)
            self._move_to_disk()

    def _move_to_disk(self) -> None:
        """Move what waits in memory to the disk, if that works."""
        while self._shelf is not None and self._shelf.works and (chunk := self._memory_chunk()):
            victims = self._victims(self._shelf, sum(batch.head.size_bytes for batch in chunk))
            if victims is None or not self._shelf.write(victims, chunk):
                return
            self._memory.change([batch.head for batch in chunk], [])
            self._sacrifice(victims, Reason.SPOOL_FULL)

    def _memory_chunk(self) -> list[Batch]:
        chunk: list[Batch] = []
        size = 0
        for head in merge(*(all_heads(self._memory, signal) for signal in Signal)):
            size += head.size_bytes
            if chunk and size > _MOVE_BYTES:
                break
            batch = self._memory.read(head)
            chunk += [] if batch is None else [batch]
        return chunk

    def _put_on_disk(self, batch: Batch) -> Sequence[Loss] | None:
        """Write a batch; ``None`` when that cannot be done now."""
        if self._shelf is None or not self._shelf.works:
            return None
        victims = self._victims(self._shelf, batch.head.size_bytes)
        if victims is None:
            return self._refuse(batch.request, Reason.SPOOL_FULL)
        if not self._shelf.write(victims, [batch]):
            return None
        return self._sacrifice(victims, Reason.SPOOL_FULL)

    def _put_in_memory(self, batch: Batch) -> Sequence[Loss]:
        reason = Reason.QUEUE_FULL if self._shelf is None else Reason.SPOOL_IO
        used = sum(total.size_bytes for total in self._memory.totals.values())
        heads = merge(*(all_heads(self._memory, signal) for signal in Signal))
        victims = self._oldest(heads, used + batch.head.size_bytes - self._limits.memory_bytes)
        if victims is None:
            return self._refuse(batch.request, reason)
        self._memory.change(victims, [batch])
        return self._sacrifice(victims, reason)

    def _victims(self, shelf: Shelf, size_bytes: int) -> list[Head] | None:
        """Choose what has to go from the disk for so many bytes; ``None`` when even all of it is not enough."""
        used = sum(total.size_bytes for total in shelf.totals.values())
        heads = merge(*(shelf.heads(signal) for signal in Signal))
        if (growth := shelf.growth_left()) >= size_bytes:
            return self._oldest(heads, used + size_bytes - self._limits.disk_bytes)
        # Others fill the file system: as much goes as comes, and without anything to go the write fails.
        victims = self._oldest(heads, max(size_bytes - growth, used + size_bytes - self._limits.disk_bytes))
        return [] if victims is None and used + size_bytes <= self._limits.disk_bytes else victims

    def _oldest(self, heads: Iterable[Head], size_bytes: int) -> list[Head] | None:
        """Choose the first that are not on lease until they make up so many bytes."""
        chosen: list[Head] = []
        heads = iter(heads)
        while size_bytes > 0:
            if (head := next(heads, None)) is None:
                return None
            if head.key not in self._leased:
                chosen.append(head)
                size_bytes -= head.size_bytes
        return chosen

    def _heads(self, signal: Signal) -> Iterator[Head]:
        """Find the batches of a signal, wherever they are, oldest first."""
        on_disk: Iterable[Head] = () if self._shelf is None else self._shelf.heads(signal)
        return merge(on_disk, all_heads(self._memory, signal))

    def _look_and_take(self, signal: Signal, most_bytes: int) -> Sequence[Batch]:
        self._look()
        return () if self._closed else self._take(signal, most_bytes)

    def _take(self, signal: Signal, most_bytes: int) -> Sequence[Batch]:
        taken: list[Batch] = []
        if not self._available(signal):
            return ()
        size = 0
        for head in self._heads(signal):
            if head.key in self._leased:
                continue
            size += head.size_bytes - BATCH_BYTES
            solitary = head.key in self._alone
            if taken and (solitary or size > most_bytes or len(taken) == _MOST_LEASED):
                break
            if (batch := self._read(head)) is None:
                continue
            taken.append(batch)
            if solitary:
                break
        self._leased.update((batch.head.key, batch.head) for batch in taken)
        return tuple(taken)

    def _available(self, signal: Signal) -> bool:
        waiting = self._memory.totals[signal].batches
        waiting += 0 if self._shelf is None else self._shelf.totals[signal].batches
        return waiting > self._on_lease(signal)

    def _on_lease(self, signal: Signal) -> int:
        return sum(head.signal is signal for head in self._leased.values())

    def _read(self, head: Head) -> Batch | None:
        """Give a batch; ``None`` when the disk cannot be read now, or when it is damaged and so removed."""
        if self._shelf is None or self._in_memory(head):
            return self._memory.read(head)
        try:
            batch = self._shelf.read(head)
        except StoreError:
            return None
        if batch is None:
            self._shelf.remove([head])
            self._sacrifice([head], Reason.SPOOL_CORRUPT)
        return batch

    def _remove(self, batches: Sequence[Batch]) -> bool:
        if self._closed:
            return False
        self._end_lease(batches)
        self._condition.notify_all()
        heads = [batch.head for batch in batches]
        self._alone.difference_update(head.key for head in heads)
        on_disk = [head for head in heads if not self._in_memory(head)]
        self._memory.change([head for head in heads if self._in_memory(head)], [])
        if on_disk and self._shelf is not None:
            self._shelf.remove(on_disk)
        return True

    def _in_memory(self, head: Head) -> bool:
        return self._memory.read(head) is not None

    def _end_lease(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self._leased.pop(batch.head.key, None)

    def _refuse(self, request: Request, reason: Reason) -> Sequence[Loss]:
        """Enter that a request could not come in."""
        return [loss._replace(new=True) for loss in self._lose([(request.signal, request.records)], reason)]

    def _sacrifice(self, victims: Sequence[Head], reason: Reason) -> Sequence[Loss]:
        """Enter that batches are gone before they could be sent."""
        self._alone.difference_update(head.key for head in victims)
        return self._lose([(head.signal, head.records) for head in victims], reason)

    def _lose(self, records: Iterable[tuple[Signal, int]], reason: Reason) -> Sequence[Loss]:
        lost: Counter[Signal] = Counter()
        for signal, count in records:
            lost[signal] += count
        for signal, count in lost.items():
            self._ledger.drop(signal, reason, count)
        return [Loss(signal, reason, count) for signal, count in lost.items() if count]
