"""What a spool stands on: a place for batches that adds, removes and finds them, and decides nothing.

A *batch* is one serialized request as it waits. Its key is the number of its first record, counted over
all signals, so that keys are in order of age, and the halves of a batch sort where it stood.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from struct import pack
from typing import NamedTuple, Protocol

from otel_connect.model import Request, Signal

BATCH_BYTES = 256
"""What a batch takes beside its body, about: it bounds the number of small ones."""
DIGEST_BYTES = 16
SIGNALS = tuple(Signal)
"""The order in which signals are numbered on disk; never to be changed."""
CLOSED = "the application has closed descriptors that it did not open"


class StoreError(Exception):
    """The store cannot do it now; the message is one line for people."""


class StoreDamagedError(StoreError):
    """What the store holds contradicts itself: it must be opened again, which repairs it."""


class Head(NamedTuple):
    """A batch without its body."""

    key: int
    signal: Signal
    records: int
    size_bytes: int
    """Of the body, and ``BATCH_BYTES``."""
    created_ns: int
    """When it was put: Unix time, counted on from the start of its run by the monotonic clock."""


class Batch(NamedTuple):
    """A batch as it waits."""

    head: Head
    body: bytes

    @property
    def request(self) -> Request:
        """What was put."""
        return Request(self.head.signal, self.body, self.head.records)


class Total(NamedTuple):
    """How much of one signal there is."""

    batches: int = 0
    records: int = 0
    size_bytes: int = 0

    def plus(self, head: Head, sign: int = 1) -> "Total":
        """Count a batch in, or with ``sign`` -1 out."""
        return Total(self.batches + sign, self.records + sign * head.records, self.size_bytes + sign * head.size_bytes)


class Store(Protocol):
    """Keeps batches. Methods raise StoreError; a change that raises has changed nothing."""

    @property
    def totals(self) -> Mapping[Signal, Total]:
        """Say how much there is."""

    def change(self, remove: Sequence[Head], add: Sequence[Batch]) -> None:
        """Remove and add at once, or not at all; with a disk, durably so."""

    def oldest(self, signal: Signal, after: int, limit: int) -> Sequence[Head]:
        """Find the first batches of a signal whose keys are above ``after``, in their order."""

    def read(self, head: Head) -> Batch | None:
        """Give the batch; ``None`` when it is not what was put any more."""

    def close(self) -> None:
        """Let go of it; never raises."""


class Disk(Store, Protocol):
    """A store that outlives the process."""

    @property
    def next_key(self) -> int:
        """A key above every one that was ever given out."""

    def replaced(self) -> bool:
        """Whether its path leads to something else, or nowhere."""

    def let_go(self) -> None:
        """Give its place up for another one; what is open stays readable."""

    @property
    def held(self) -> bool:
        """Whether its place was not given up."""

    def log_replaced(self) -> bool:
        """Whether a file in it that only the next start opens by its name is not there any more."""

    def renew_log(self) -> None:
        """Have that file in its place again; raises StoreError."""

    def growth_left(self, leave: float) -> int:
        """Bytes that can be added while ``leave`` (a share) of the file system stays free."""

    def shrink(self) -> None:
        """Give room that is not needed back to the file system."""

    def intact(self) -> bool:
        """Whether the application has left open what belongs to it."""


class Opened(NamedTuple):
    """A disk that was opened and verified."""

    store: Disk
    lost: Mapping[Signal, int]
    """Records that ought to be there and are not, or not as they were written."""
    said: Sequence[str] = ()
    """Lines for the log, for the caller to write: it may hold a lock now."""


def make_batch(key: int, request: Request, created_ns: int) -> Batch:
    """Make a batch of a request."""
    size_bytes = len(request.body) + BATCH_BYTES
    return Batch(Head(key, request.signal, request.records, size_bytes, created_ns), request.body)


def digest(head: Head, body: bytes) -> bytes:
    """Seal a batch: another key, signal, count, time or body has another digest."""
    prefix = pack("<QBQq", head.key, SIGNALS.index(head.signal), head.records, head.created_ns)
    return blake2b(body, digest_size=DIGEST_BYTES, salt=b"otel-connect", key=prefix).digest()


class Totals:
    """The running totals of a store."""

    def __init__(self) -> None:
        self.by_signal: dict[Signal, Total] = dict.fromkeys(Signal, Total())

    def add(self, heads: Iterable[Head], sign: int = 1) -> None:
        """Count batches in, or with ``sign`` -1 out."""
        for head in heads:
            self.by_signal[head.signal] = self.by_signal[head.signal].plus(head, sign)


class MemoryStore:
    """Batches in memory: gone with the process."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._batches: dict[int, Batch] = {}
        self._keys: dict[Signal, list[int]] = {signal: [] for signal in Signal}

    @property
    def totals(self) -> Mapping[Signal, Total]:
        """Say how much there is."""
        return self._totals.by_signal

    def change(self, remove: Sequence[Head], add: Sequence[Batch]) -> None:
        """Remove and add."""
        for head in remove:
            del self._batches[head.key]
            keys = self._keys[head.signal]
            del keys[bisect_right(keys, head.key) - 1]
        for batch in add:
            self._batches[batch.head.key] = batch
            insort(self._keys[batch.head.signal], batch.head.key)
        self._totals.add(remove, -1)
        self._totals.add(batch.head for batch in add)

    def oldest(self, signal: Signal, after: int, limit: int) -> Sequence[Head]:
        """Find the first batches of a signal whose keys are above ``after``."""
        keys = self._keys[signal]
        start = bisect_right(keys, after)
        return [self._batches[key].head for key in keys[start : start + limit]]

    def read(self, head: Head) -> Batch | None:
        """Give the batch."""
        return self._batches.get(head.key)

    def close(self) -> None:
        """Nothing to let go of."""
