"""How far the kernel's clocks are from wall time, now."""

import time

from otel_connect.capture.layout import ClockOffsets


def clock_offsets() -> ClockOffsets:
    """Sample CLOCK_REALTIME against CLOCK_MONOTONIC and CLOCK_BOOTTIME; right within a few microseconds."""
    return ClockOffsets(_offset(time.CLOCK_MONOTONIC), _offset(time.CLOCK_BOOTTIME))


def _offset(clock: int) -> int:
    # The reading with the least time between its two halves is the one least disturbed by the scheduler.
    _, offset = min(_reading(clock) for _ in range(5))
    return offset


def _reading(clock: int) -> tuple[int, int]:
    before = time.clock_gettime_ns(clock)
    wall = time.time_ns()
    after = time.clock_gettime_ns(clock)
    return after - before, wall - (before + after) // 2
