"""What became of every record: ``accepted + recovered = exported + queued + Σ dropped{reason}``, to the unit.

Every change moves records from one column to another in a single step, so the identity holds in every snapshot, also
one that is taken in the middle of a storm.
"""

import threading
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from otel_connect.model import Signal


class Reason(StrEnum):
    """Why a record did not arrive; the values are an attribute of the self telemetry."""

    KERNEL_MAP_FULL = "kernel_map_full"
    KERNEL_RING_FULL = "kernel_ring_full"
    KERNEL_THROTTLED = "kernel_throttled"
    FILTERED = "filtered"
    NO_SYN = "no_syn"
    SAMPLED = "sampled"
    QUEUE_FULL = "queue_full"
    SPOOL_FULL = "spool_full"
    SPOOL_IO = "spool_io"
    SPOOL_CORRUPT = "spool_corrupt"
    ENCODE_ERROR = "encode_error"
    REJECTED_PARTIAL = "rejected_partial"
    REJECTED_PERMANENT = "rejected_permanent"
    TOO_LARGE = "too_large"
    EXPIRED = "expired"
    OUTPUT_IO = "output_io"
    SHUTDOWN = "shutdown"


class Account(NamedTuple):
    """One signal's columns, in records."""

    accepted: int
    exported: int
    queued: int
    dropped: Mapping[Reason, int]
    """Only the reasons that occurred."""
    recovered: int = 0
    """Found in the spool, where an earlier run had left them."""

    @property
    def difference(self) -> int:
        """Records without an explanation; anything but 0 is a fault of the agent."""
        return self.accepted + self.recovered - self.exported - self.queued - sum(self.dropped.values())


class Ledger:
    """The accounts of the three signals; every method may be called from any thread.

    To read takes no lock: an application's thread may do so while one of its signal handlers raises.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts = dict.fromkeys(Signal, Account(0, 0, 0, MappingProxyType({})))

    def accept(self, signal: Signal, records: int) -> None:
        """Enter records that came in and wait."""
        with self._lock:
            now = self._accounts[signal]
            self._accounts[signal] = now._replace(accepted=now.accepted + records, queued=now.queued + records)

    def recover(self, signal: Signal, records: int) -> None:
        """Enter records of an earlier run, which wait."""
        with self._lock:
            now = self._accounts[signal]
            self._accounts[signal] = now._replace(recovered=now.recovered + records, queued=now.queued + records)

    def export(self, signal: Signal, records: int) -> None:
        """Enter that the backend took waiting records."""
        with self._lock:
            now = self._accounts[signal]
            self._accounts[signal] = now._replace(exported=now.exported + records, queued=now.queued - records)

    def drop(self, signal: Signal, reason: Reason, records: int) -> None:
        """Enter that waiting records are lost."""
        if records == 0:
            return
        with self._lock:
            now = self._accounts[signal]
            dropped = MappingProxyType({**now.dropped, reason: now.dropped.get(reason, 0) + records})
            self._accounts[signal] = now._replace(queued=now.queued - records, dropped=dropped)

    def snapshot(self) -> Mapping[Signal, Account]:
        """Give all accounts as they stand at one moment."""
        return self._accounts.copy()
