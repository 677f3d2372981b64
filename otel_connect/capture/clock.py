"""How far the kernel's clocks are from wall time, now: wall time is slewed, and may be set."""

import logging
import time
from collections.abc import Callable

from otel_connect.capture.layout import ClockOffsets

_log = logging.getLogger(__name__)

_EVERY_NS = 10_000_000_000
_JUMP_NS = 50_000_000  # more than any slewing makes between two comparisons


def clock_offsets() -> ClockOffsets:
    """Sample CLOCK_REALTIME against CLOCK_MONOTONIC and CLOCK_BOOTTIME; right within a few microseconds."""
    return ClockOffsets(_offset(time.CLOCK_MONOTONIC), _offset(time.CLOCK_BOOTTIME))


class Clocks:
    """Knows the offsets: compares the clocks every ten seconds, and at once when wall time has been set.

    ``wall_ns`` gives Unix time and ``monotonic_ns`` CLOCK_MONOTONIC, by which ``sample`` goes, too.
    """

    def __init__(
        self,
        sample: Callable[[], ClockOffsets] = clock_offsets,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._sample = sample
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._offsets = sample()
        self._next_ns = monotonic_ns() + _EVERY_NS

    def offsets(self) -> ClockOffsets:
        """Return the offsets of now, but for the start of processes: so a process has one creation time for ever."""
        before = self._monotonic_ns()
        wall = self._wall_ns()
        after = self._monotonic_ns()
        if after - before > _JUMP_NS // 2:
            return self._offsets  # something came between the readings
        moved_ns = wall - before - self._offsets.monotonic_ns
        jumped = abs(moved_ns) > _JUMP_NS
        if jumped or before >= self._next_ns:
            self._next_ns = before + _EVERY_NS
            self._offsets = self._sample()._replace(boot_ns=self._offsets.boot_ns)
        if jumped:
            _log.warning(
                "wall time moved by %+.1f s: it was set, or the machine slept; timestamps follow", moved_ns / 1e9
            )
        return self._offsets


def _offset(clock: int) -> int:
    # The reading with the least time between its two halves is the one least disturbed by the scheduler.
    _, offset = min(_reading(clock) for _ in range(5))
    return offset


def _reading(clock: int) -> tuple[int, int]:
    before = time.clock_gettime_ns(clock)
    wall = time.time_ns()
    after = time.clock_gettime_ns(clock)
    return after - before, wall - (before + after) // 2
