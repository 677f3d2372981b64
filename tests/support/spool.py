"""A spool on a directory of a test, with clocks that the test moves."""

from collections.abc import Callable, Sequence
from pathlib import Path

from otel_connect.export.age import Ages
from otel_connect.export.ledger import Account, Ledger
from otel_connect.export.recovery import open_disk
from otel_connect.export.spool import Limits, Spool
from otel_connect.export.store import Batch, Opened
from otel_connect.model import Request, Signal

EVERYTHING = 1 << 40
LIMITS = Limits(disk_bytes=64 << 20, memory_bytes=1 << 20)
LOOK_EVERY_S = 10.0


class Clocks:
    """A monotonic and a wall clock that stand until they are moved."""

    def __init__(self, wall_s: float = 1_800_000_000.0) -> None:
        self.monotonic_s = 1000.0
        self.wall_s = wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def wall_ns(self) -> int:
        return int(self.wall_s * 1e9)

    def pass_time(self, seconds: float) -> None:
        """Let time pass for both."""
        self.monotonic_s += seconds
        self.wall_s += seconds


class SpoolBench:
    """A spool and its ledger; ``close`` asserts the identity."""

    def __init__(
        self,
        path: Path | None,
        limits: Limits = LIMITS,
        clocks: Clocks | None = None,
        disk: Callable[[Path], Opened] = open_disk,
    ) -> None:
        self.clocks = clocks or Clocks()
        self.ledger = Ledger()
        self.spool = Spool(
            self.ledger,
            limits,
            None if path is None else lambda: disk(path),
            ages=Ages(self.clocks.monotonic, self.clocks.wall_ns),
            clock=self.clocks.monotonic,
            look_every_s=LOOK_EVERY_S,
        )
        self.put = self.spool.put

    def account(self, signal: Signal = Signal.LOGS) -> Account:
        accounts = self.ledger.snapshot()
        assert all(account.difference == 0 for account in accounts.values()), accounts
        return accounts[signal]

    def lease(self, signal: Signal = Signal.LOGS, most_bytes: int = EVERYTHING) -> Sequence[Batch]:
        """Take what is there, without waiting for more."""
        return self.spool.take(signal, most_bytes)

    def bodies(self) -> list[bytes]:
        """Take and deliver everything: the bodies in the order they come out, signal by signal."""
        taken: list[bytes] = []
        for signal in Signal:
            while batches := self.lease(signal):
                taken += [batch.body for batch in batches]
                assert self.spool.delivered(batches)
        return taken

    def look(self) -> None:
        """Let the time pass after which a disk in trouble is tried again, and have somebody look."""
        self.clocks.pass_time(LOOK_EVERY_S)
        for signal in Signal:
            if batches := self.lease(signal, 1):
                self.spool.give_back(batches)

    def close(self) -> None:
        self.spool.close()
        self.account()


def request(body: bytes, records: int = 1, signal: Signal = Signal.LOGS) -> Request:
    return Request(signal, body, records)
