"""How long a batch has waited, whatever anybody does to the clock meanwhile."""

import time
from collections.abc import Callable
from typing import NamedTuple

from otel_connect.export.store import Head


class _Found(NamedTuple):
    """Batches of an earlier run: keys, and when they were found."""

    first_key: int
    last_key: int
    wall_ns: int
    monotonic_s: float


class Ages:
    """Tells times within this run by the monotonic clock (seconds), and those of earlier runs by Unix time.

    A batch of an earlier run is as old as the wall clock said when it was found, and not younger than new;
    from then on the monotonic clock counts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._wall_ns = wall_ns
        self._began = clock()
        self._began_ns = wall_ns()
        self._found: list[_Found] = []

    def now_ns(self) -> int:
        """Give the creation time of a batch that is made now."""
        return self._began_ns + int((self._clock() - self._began) * 1e9)

    def found(self, first_key: int, last_key: int) -> None:
        """Remember that batches with these keys come from an earlier run."""
        self._found.append(_Found(first_key, last_key, self._wall_ns(), self._clock()))

    def seconds(self, head: Head) -> float:
        """Tell how old a batch is."""
        for found in self._found:
            if found.first_key <= head.key <= found.last_key:
                return max(found.wall_ns - head.created_ns, 0) / 1e9 + self._clock() - found.monotonic_s
        return max(self.now_ns() - head.created_ns, 0) / 1e9
