"""The spool against a plain model: whatever is done to it, in whatever order, the two agree and the ledger balances."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from otel_connect.export.ledger import Reason
from otel_connect.export.recovery import open_disk
from otel_connect.export.spool import Limits
from otel_connect.export.store import BATCH_BYTES, Batch, Disk, Head, Opened, StoreError, Total
from otel_connect.model import Signal
from tests.support.spool import SpoolBench, request

DISK_BYTES, MEMORY_BYTES = 5 * (BATCH_BYTES + 100), 3 * (BATCH_BYTES + 100)


class Switchable:
    """A real disk that can be switched to refuse changes."""

    def __init__(self, inner: Disk, switch: "SpoolMachine") -> None:
        self._inner = inner
        self._switch = switch

    def change(self, remove: Sequence[Head], add: Sequence[Batch]) -> None:
        if self._switch.failing:
            raise StoreError("switched off")
        self._inner.change(remove, add)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def totals(self) -> Mapping[Signal, Total]:
        return self._inner.totals


Waiting: TypeAlias = tuple[Signal, bytes, int]
"""A batch of the model: signal, body, records."""


def in_order(waiting: list[Waiting]) -> list[Waiting]:
    return sorted(waiting, key=lambda one: one[1][:8])


def size_of(waiting: list[Waiting]) -> int:
    return sum(len(body) + BATCH_BYTES for _, body, _ in waiting)


@dataclass
class Model:
    """What ought to be there, by where it lies."""

    disk: list[Waiting] = field(default_factory=list)
    memory: list[Waiting] = field(default_factory=list)


class SpoolMachine(RuleBasedStateMachine):
    """Bodies begin with a place in the order of age: eight digits, of which halves share the first six."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.run = 0
        self.failing = False
        self.believed_failing = False
        self.count = 0
        self.model = Model()
        self.leased: dict[bytes, Batch] = {}
        self.open(self.directory / "0")

    def open(self, path: Path) -> None:
        def disk(where: Path) -> Opened:
            opened = open_disk(where)
            return Opened(Switchable(opened.store, self), opened.lost)

        self.path = path
        self.bench = SpoolBench(path, Limits(DISK_BYTES, MEMORY_BYTES), disk=disk)

    @rule(
        signal=st.sampled_from(list(Signal)),
        sizes=st.lists(st.integers(8, 300), min_size=1, max_size=4),
        records=st.integers(1, 4),
    )
    def put(self, signal: Signal, sizes: list[int], records: int) -> None:
        for size in sizes:
            self.put_one(signal, size, records)

    def put_one(self, signal: Signal, size: int, records: int) -> None:
        self.count += 1
        body = b"%06d00" % self.count + bytes(size - 8)
        new = (signal, body, records)
        self.move_to_disk()
        losses = self.bench.put(request(body, records, signal))
        reason = Reason.SPOOL_IO if self.believed_failing else Reason.SPOOL_FULL
        gone = None if self.believed_failing else self.write([new])
        if self.believed_failing:
            reason, gone = Reason.SPOOL_IO, self.make_room(self.model.memory, [new], MEMORY_BYTES)
        expected = [new] if gone is None else gone
        assert sum(loss.records for loss in losses) == sum(one[2] for one in expected)
        assert {loss.reason for loss in losses} <= {reason}

    def write(self, new: list[Waiting]) -> list[Waiting] | None:
        """Put on disk in the model; gives what had to go, ``None`` if the new ones have to."""
        before = list(self.model.disk)
        gone = self.make_room(self.model.disk, new, DISK_BYTES)
        if gone is not None and self.failing:
            self.model.disk, self.believed_failing = before, True
        return gone

    def make_room(self, place: list[Waiting], new: list[Waiting], limit: int) -> list[Waiting] | None:
        gone = []
        used = size_of(place) + size_of(new)
        for one in in_order(place):
            if used <= limit:
                break
            if one[1] not in self.leased:
                gone.append(one)
                used -= size_of([one])
        if used > limit:
            return None
        for one in gone:
            place.remove(one)
        place += new
        return gone

    @rule(signal=st.sampled_from(list(Signal)), most=st.integers(1, 1000))
    def lease(self, signal: Signal, most: int) -> None:
        self.move_to_disk()
        batches = self.bench.lease(signal, most)
        free = [
            one
            for one in in_order(self.model.disk + self.model.memory)
            if one[0] is signal and one[1] not in self.leased
        ]
        assert [batch.body for batch in batches] == [one[1] for one in free[: len(batches)]]
        assert bool(batches) == bool(free)
        assert len(batches) <= 1 or sum(len(batch.body) for batch in batches) <= most
        self.leased |= {batch.body: batch for batch in batches}

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), how=st.sampled_from(["delivered", "refused in part", "dropped", "given back", "alone"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        body = data.draw(st.sampled_from(sorted(self.leased)))
        batch = self.leased.pop(body)
        if how in {"given back", "alone"}:
            self.bench.spool.give_back([batch], alone=how == "alone")
            return
        if how == "dropped":
            assert self.bench.spool.drop([batch], Reason.EXPIRED)
        else:
            assert self.bench.spool.delivered([batch], 1 if how == "refused in part" else 0)
        self.forget(body)

    @precondition(lambda self: any(batch.head.records > 1 for batch in self.leased.values()))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(sorted(one for one, batch in self.leased.items() if batch.head.records > 1)))
        batch = self.leased.pop(body)
        half = batch.head.records // 2
        place = int(body[:8])
        parts = [(b"%08d" % place, half), (b"%08d" % (place + half), batch.head.records - half)]
        assert self.bench.spool.replace(batch, [request(one, count, batch.head.signal) for one, count in parts])
        where = self.model.disk if any(one[1] == body for one in self.model.disk) else self.model.memory
        self.forget(body)
        if where is self.model.disk and self.failing:
            self.believed_failing = True
        if where is self.model.disk and self.believed_failing:
            where = self.model.memory
        where += [(batch.head.signal, one, count) for one, count in parts]

    def forget(self, body: bytes) -> None:
        for place in (self.model.disk, self.model.memory):
            for one in [one for one in place if one[1] == body]:
                if place is self.model.disk and self.failing:
                    self.believed_failing = True
                place.remove(one)

    @rule()
    def fail(self) -> None:
        self.failing = True

    @precondition(lambda self: self.failing)
    @rule()
    def heal_and_look(self) -> None:
        self.failing = self.believed_failing = False
        self.move_to_disk()
        self.bench.look()

    def move_to_disk(self) -> None:
        """Model what the spool does first whenever something is asked of it."""
        if self.model.memory and not self.believed_failing:
            gone = self.write(in_order(self.model.memory))
            if gone is not None and not self.believed_failing:
                self.model.memory.clear()

    @precondition(lambda self: not self.failing and not self.model.memory)
    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.run += 1
        path = self.directory / str(self.run)
        if not clean:
            shutil.copytree(self.path, path)
        self.bench.close()
        if clean:
            self.path.rename(path)
        self.leased.clear()
        self.believed_failing = False
        self.open(path)
        for signal in Signal:
            assert self.bench.account(signal).recovered == self.queued(signal)

    def queued(self, signal: Signal) -> int:
        return sum(one[2] for one in self.model.disk + self.model.memory if one[0] is signal)

    @invariant()
    def the_ledger_balances(self) -> None:
        for signal in Signal:
            assert self.bench.account(signal).queued == self.queued(signal)

    @invariant()
    def as_much_waits_as_is_said(self) -> None:
        assert self.bench.spool.state().size_bytes == size_of(self.model.disk + self.model.memory)

    def teardown(self) -> None:
        self.failing = False
        self.bench.close()
        shutil.rmtree(self.directory)


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolMachine = SpoolMachine.TestCase
