"""The requests that wait for the backend: first in, first out, bounded in bytes.

This is the seam of durability. The sender leases the oldest request, and only once its fate is known
settles it; whoever takes an entry out is the one who accounts for its records. A queue on disk can stand
behind the same methods.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from otel_connect.model import Request


class Entry(NamedTuple):
    """A waiting request."""

    key: int
    request: Request
    since: float
    """When it came in, in the clock's seconds."""


class Pending:
    """A queue for one sender and any number of putters.

    ``limit_bytes`` bounds the sum of the bodies. The entry on lease is never dropped to make room: it may
    just be arriving.
    """

    def __init__(self, limit_bytes: int, clock: Callable[[], float]) -> None:
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._condition = threading.Condition()
        # key → entry, oldest first; keys only identify, a half that was put in front has a later one.
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._next_key = 0
        self._bytes = 0
        self._leased: int | None = None
        self._finishing = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        with self._condition:
            return self._closed

    @property
    def size_bytes(self) -> int:
        """The sum of the bodies that wait."""
        with self._condition:
            return self._bytes

    @property
    def records(self) -> int:
        """The records that wait."""
        with self._condition:
            return sum(entry.request.records for entry in self._entries.values())

    def put(self, request: Request) -> Sequence[Request]:
        """Append a request; give what had to go instead, oldest first, perhaps the new one itself."""
        with self._condition:
            if self._closed or len(request.body) > self._limit_bytes:
                return (request,)
            dropped: list[Request] = []
            room = self._limit_bytes - len(request.body)
            while self._bytes > room:
                oldest = next((key for key in self._entries if key != self._leased), None)
                if oldest is None:
                    return (*dropped, request)
                dropped.append(self._take(oldest))
            self._append(request, self._clock())
            self._condition.notify_all()
            return dropped

    def lease(self) -> Entry | None:
        """Wait for the oldest entry and reserve it; ``None`` when the queue is finished and empty."""
        with self._condition:
            self._condition.wait_for(lambda: self._entries or self._finishing)
            if not self._entries:
                return None
            entry = next(iter(self._entries.values()))
            self._leased = entry.key
            return entry

    def release(self) -> None:
        """Give the leased entry back: it stays the oldest."""
        with self._condition:
            self._leased = None

    def settle(self, key: int) -> bool:
        """Take the leased entry out; false if it is gone, and accounted for, already."""
        with self._condition:
            self._leased = None
            if key not in self._entries:
                return False
            self._take(key)
            return True

    def replace(self, key: int, parts: Sequence[Request]) -> bool:
        """Put the parts in the place of the leased entry, as old as it; false if it is gone already."""
        with self._condition:
            self._leased = None
            if key not in self._entries:
                return False
            since = self._entries[key].since
            self._take(key)
            for part in reversed(parts):
                self._entries.move_to_end(self._append(part, since), last=False)
            return True

    def finish(self) -> None:
        """From now on ``lease`` does not wait for more."""
        with self._condition:
            self._finishing = True
            self._condition.notify_all()

    def close(self) -> Sequence[Request]:
        """Give everything that waits, also what is on lease, and take nothing more."""
        with self._condition:
            self._finishing = self._closed = True
            left = [self._take(key) for key in list(self._entries)]
            self._condition.notify_all()
            return left

    def _append(self, request: Request, since: float) -> int:
        key = self._next_key
        self._next_key += 1
        self._entries[key] = Entry(key, request, since)
        self._bytes += len(request.body)
        return key

    def _take(self, key: int) -> Request:
        request = self._entries.pop(key).request
        self._bytes -= len(request.body)
        return request
