"""What other processes left is sent once it can be, whatever was in the way at first."""

import logging
import time
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import cast

import pytest

from otel_connect.config import ExportConfig
from otel_connect.errors import ConfigError, SpoolInUseError
from otel_connect.export.descriptors import lock_bytes
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.recovery import open_disk
from otel_connect.export.store import make_batch
from otel_connect.plugin.heir import Heir
from tests.support.collector import await_until
from tests.support.receiver import HttpReceiver
from tests.support.spool import request

LOOK_EVERY_S = 0.05
A_THREAD_CANNOT_BE_STARTED = RuntimeError("can't start new thread")


class Openings:
    """Opens the exporters of slots, in trouble as many times as there are errors."""

    def __init__(self, receiver: HttpReceiver, *errors: Exception) -> None:
        self._endpoint = receiver.endpoint
        self._errors = list(errors)
        self.opened = 0

    def __call__(self, slot: Path) -> OtlpExporter:
        self.opened += 1
        if self._errors:
            raise self._errors.pop(0)
        return OtlpExporter(ExportConfig(endpoint=self._endpoint, spool_directory=str(slot)))


def leave(slot: Path) -> Path:
    """Leave a batch in a slot, as a process does that is killed."""
    store = open_disk(slot).store
    store.change([], [make_batch(store.next_key, request(b""), time.time_ns())])
    store.close()
    return slot


def inherit(root: Path, openings: Callable[[Path], OtlpExporter]) -> Heir:
    return Heir(root, root / "0", openings, goes_on, Context(), look_every_s=LOOK_EVERY_S)


def goes_on(_exporter: OtlpExporter, _slot: Path) -> bool:
    """Adapt nothing: there is one way to send."""
    return True


def has_nothing(slot: Path) -> bool:
    store = open_disk(slot).store
    store.close()
    return not any(total.records for total in store.totals.values())


def is_left_empty(slot: Path) -> bool:
    """Whether nobody holds a slot any more, and nothing is in it: what was received has also been taken out."""
    try:
        return has_nothing(slot)
    except SpoolInUseError:
        return False


def test_a_slot_whose_disk_is_in_trouble_is_not_taken_for_empty(tmp_path: Path) -> None:
    slot = leave(tmp_path / "1")
    lock = lock_bytes(slot / "spool.db", 0x4000_0000, 512)  # as somebody who looks into it with sqlite3
    with HttpReceiver() as receiver:
        openings = Openings(receiver)
        heir = inherit(tmp_path, openings)
        try:
            await_until(lambda: openings.opened >= 2)
            assert not receiver.requests
            lock.close()
            await_until(lambda: receiver.requests)
            await_until(lambda: is_left_empty(slot))
        finally:
            heir.close(30)


@pytest.mark.parametrize(
    "error",
    [A_THREAD_CANNOT_BE_STARTED, ConfigError(["ca.pem: cannot be read"]), OSError(24, "Too many open files")],
    ids=["thread", "configuration", "descriptors"],
)
def test_a_slot_that_cannot_be_opened_is_said_once_and_tried_again(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slots = [leave(tmp_path / "1"), leave(tmp_path / "2")]
    with HttpReceiver() as receiver, caplog.at_level(logging.WARNING):
        heir = inherit(tmp_path, Openings(receiver, error, error))
        await_until(lambda: len(receiver.requests) >= 2)
        await_until(lambda: all(is_left_empty(slot) for slot in slots))
        heir.close(30)
    said = [record.getMessage() for record in caplog.records if "cannot be sent now" in record.getMessage()]
    assert [line.partition(": ")[0] for line in said] == [str(slot) for slot in slots]


def test_a_slot_that_stays_in_trouble_is_tried_less_and_less_often(tmp_path: Path) -> None:
    looks, opened = 40, {"1": 0, "2": 0}
    for name in opened:
        leave(tmp_path / name)

    def open_in(slot: Path) -> OtlpExporter:
        opened[slot.name] += 1
        raise SpoolInUseError(["held"]) if slot.name == "2" else A_THREAD_CANNOT_BE_STARTED

    heir = Heir(tmp_path, tmp_path / "0", open_in, goes_on, Context(), look_every_s=0.0)
    await_until(lambda: opened["2"] >= looks)
    heir.close(30)
    assert 2 < opened["1"] <= 8 + opened["2"] // 64


class Exhausted:
    """A context in which only so many threads can be started."""

    def __init__(self, threads: int) -> None:
        self._left = threads

    def copy(self) -> Context:
        if not self._left:
            raise A_THREAD_CANNOT_BE_STARTED
        self._left -= 1
        return Context()


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_an_exporter_whose_threads_cannot_be_started_lets_its_slot_go(threads: int, tmp_path: Path) -> None:
    slot = leave(tmp_path / "1")
    config = ExportConfig(endpoint="http://127.0.0.1:1", spool_directory=str(slot))
    with pytest.raises(RuntimeError, match="can't start new thread") as raised:
        OtlpExporter(config, context=cast(Context, Exhausted(threads)))
    assert not has_nothing(slot)
    del raised
