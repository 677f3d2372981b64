"""How long records wait from ``put`` until the backend has taken them."""

import threading
from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

from otel_connect.model import Signal

BOUNDARIES_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets, each with its bound; the last bucket is open."""


class Delays(NamedTuple):
    """A histogram: records by bucket, and the sum of their delays."""

    counts: tuple[int, ...]
    """One more than there are boundaries."""
    sum_s: float


class DelayHistogram:
    """The delays of the three signals; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {signal: [0] * (len(BOUNDARIES_S) + 1) for signal in Signal}
        self._sums = dict.fromkeys(Signal, 0.0)

    def observe(self, signal: Signal, delay_s: float, records: int) -> None:
        """Enter records that waited for the same time."""
        with self._lock:
            self._counts[signal][bisect_left(BOUNDARIES_S, delay_s)] += records
            self._sums[signal] += delay_s * records

    def snapshot(self) -> Mapping[Signal, Delays]:
        """Give the histograms as they stand at one moment."""
        with self._lock:
            return {signal: Delays(tuple(self._counts[signal]), self._sums[signal]) for signal in Signal}
