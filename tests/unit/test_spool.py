"""The spool on real disks: what comes in, what comes out, what has to go, and what is told of it."""

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_connect.errors import SpoolInUseError
from otel_connect.export.descriptors import lock_bytes
from otel_connect.export.directory import LOCK
from otel_connect.export.disk import DATABASE
from otel_connect.export.ledger import Reason
from otel_connect.export.spool import Limits, Loss
from otel_connect.export.store import BATCH_BYTES
from otel_connect.model import Signal
from tests.support.spool import Clocks, SpoolBench, request

DAY_S = 24 * 3600.0

ON_BOTH = pytest.mark.parametrize("durable", [True, False], ids=["disk", "memory"])


def place(tmp_path: Path, durable: bool) -> Path | None:
    return tmp_path / "spool" if durable else None


def room_for(batches: int, body_bytes: int) -> Limits:
    size = batches * (body_bytes + BATCH_BYTES)
    return Limits(disk_bytes=size, memory_bytes=size)


def test_what_was_put_is_there_in_the_next_run(tmp_path: Path) -> None:
    first = SpoolBench(tmp_path / "spool")
    for signal in Signal:
        first.put(request(f"{signal} 1".encode(), 3, signal))
        first.put(request(f"{signal} 2".encode(), 4, signal))
    (batch, *_) = first.lease(most_bytes=1)
    assert first.spool.delivered([batch])
    first.close()
    assert first.account().queued == 4

    second = SpoolBench(tmp_path / "spool")
    assert second.account() == (0, 0, 4, {}, 4)
    assert second.account(Signal.TRACES) == (0, 0, 7, {}, 7)
    assert second.bodies() == [b"logs 2", b"metrics 1", b"metrics 2", b"traces 1", b"traces 2"]
    second.close()
    assert second.account(Signal.METRICS) == (0, 7, 0, {}, 7)

    third = SpoolBench(tmp_path / "spool")
    assert third.bodies() == []
    third.close()


@ON_BOTH
def test_the_oldest_go_first_as_many_as_fit(tmp_path: Path, durable: bool) -> None:
    bench = SpoolBench(place(tmp_path, durable))
    for number in range(5):
        bench.put(request(bytes([number]) * 10))
    assert [batch.body[0] for batch in bench.lease(most_bytes=25)] == [0, 1]
    assert [batch.body[0] for batch in bench.lease(most_bytes=1)] == [2]
    assert [batch.body[0] for batch in bench.lease()] == [3, 4]
    assert bench.lease() == ()
    bench.close()


@ON_BOTH
def test_what_is_given_back_comes_again_in_its_order(tmp_path: Path, durable: bool) -> None:
    bench = SpoolBench(place(tmp_path, durable))
    for number in range(3):
        bench.put(request(bytes([number])))
    first, second = bench.lease(most_bytes=2)
    bench.spool.give_back([first, second], alone=True)
    assert [[batch.body[0] for batch in bench.lease()] for _ in range(3)] == [[0], [1], [2]]
    bench.close()


@ON_BOTH
def test_the_parts_of_a_batch_stand_where_it_stood_and_are_as_old(tmp_path: Path, durable: bool) -> None:
    bench = SpoolBench(place(tmp_path, durable))
    bench.put(request(b"abc", 3))
    bench.clocks.pass_time(5)
    bench.put(request(b"d", 1))
    (batch,) = bench.lease(most_bytes=3)
    assert bench.spool.replace(batch, [request(b"a", 1), request(b"bc", 2)])
    (first,) = bench.lease()
    (second,) = bench.lease()
    (last,) = bench.lease()
    assert [one.body for one in (first, second, last)] == [b"a", b"bc", b"d"]
    assert [bench.spool.age_s(one) for one in (first, second, last)] == [5, 5, 0]
    assert bench.spool.delivered([first, second, last])
    assert bench.account() == (4, 4, 0, {}, 0)
    bench.close()


@ON_BOTH
def test_without_room_the_oldest_of_all_signals_go_but_nothing_on_lease(tmp_path: Path, durable: bool) -> None:
    bench = SpoolBench(place(tmp_path, durable), room_for(3, 10))
    full = Reason.SPOOL_FULL if durable else Reason.QUEUE_FULL
    bench.put(request(bytes(10), 1, Signal.TRACES))
    bench.put(request(bytes(10), 2, Signal.LOGS))
    bench.put(request(bytes(10), 4, Signal.METRICS))
    (leased,) = bench.lease(Signal.TRACES)
    assert bench.put(request(bytes(10), 8)) == [Loss(Signal.LOGS, full, 2)]
    assert bench.put(request(bytes(20 + BATCH_BYTES), 16)) == [
        Loss(Signal.METRICS, full, 4),
        Loss(Signal.LOGS, full, 8),
    ]
    (also_leased,) = bench.lease(Signal.LOGS)
    assert bench.put(request(bytes(10), 32)) == [Loss(Signal.LOGS, full, 32, new=True)]
    assert bench.put(request(bytes(2000), 64)) == [Loss(Signal.LOGS, full, 64, new=True)]
    assert bench.spool.delivered([leased])
    assert bench.spool.drop([also_leased], Reason.EXPIRED)
    assert bench.account(Signal.LOGS).dropped == {full: 106, Reason.EXPIRED: 16}
    assert bench.account(Signal.LOGS).queued == 0
    bench.close()


def test_a_partial_success_is_counted_over_the_whole_request(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    bench.put(request(b"a", 2))
    bench.put(request(b"b", 3))
    assert bench.spool.delivered(bench.lease(), rejected=4)
    bench.put(request(b"c", 1))
    assert bench.spool.delivered(bench.lease(), rejected=99)
    assert bench.account() == (6, 1, 0, {Reason.REJECTED_PARTIAL: 5}, 0)
    bench.close()


@ON_BOTH
def test_after_close_nothing_is_taken_and_nothing_counted(tmp_path: Path, durable: bool) -> None:
    bench = SpoolBench(place(tmp_path, durable))
    bench.put(request(b"a", 5))
    batches = bench.lease()
    assert bench.spool.close() == ({} if durable else {Signal.LOGS: 5})
    after = bench.account()
    assert not bench.spool.delivered(batches)
    assert not bench.spool.drop(batches, Reason.EXPIRED)
    assert not bench.spool.replace(batches[0], [])
    assert bench.account() == after
    assert (after.queued, after.dropped) == ((5, {}) if durable else (0, {Reason.SHUTDOWN: 5}))
    assert bench.put(request(b"late", 1)) == [Loss(Signal.LOGS, Reason.SHUTDOWN, 1, new=True)]
    assert bench.lease() == ()
    bench.close()


def test_age_follows_the_monotonic_clock_whatever_the_wall_clock_does(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    bench.put(request(b"a"))
    (batch,) = bench.lease()
    for jump in (DAY_S, -3 * DAY_S):
        bench.clocks.wall_s += jump
        bench.clocks.monotonic_s += 1
    assert bench.spool.age_s(batch) == pytest.approx(2)
    bench.close()


@pytest.mark.parametrize(("between_s", "age_s"), [(60.0, 60.0), (-DAY_S, 0.0), (2 * DAY_S, 2 * DAY_S)])
def test_a_batch_of_an_earlier_run_is_as_old_as_the_wall_clock_says_at_the_start(
    tmp_path: Path, between_s: float, age_s: float
) -> None:
    first = SpoolBench(tmp_path / "spool")
    first.put(request(b"a"))
    first.close()
    second = SpoolBench(tmp_path / "spool", clocks=Clocks(first.clocks.wall_s + between_s))
    second.clocks.wall_s += 10 * DAY_S  # jumps after the start count for nothing
    second.clocks.monotonic_s += 7
    second.put(request(b"b"))
    old, new = second.lease()
    assert second.spool.age_s(old) == pytest.approx(age_s + 7)
    assert second.spool.age_s(new) == pytest.approx(0)
    assert second.spool.state().oldest_age_s == pytest.approx(age_s + 7)
    second.close()


def test_the_state_tells_what_waits(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool", Limits(disk_bytes=5000, memory_bytes=100))
    assert bench.spool.state() == (0, 5000, dict.fromkeys(Signal, 0), None, None)
    bench.put(request(bytes(10), 3))
    bench.clocks.pass_time(2)
    bench.put(request(bytes(20), 4, Signal.TRACES))
    state = bench.spool.state()
    assert state.size_bytes == 30 + 2 * BATCH_BYTES
    assert state.records == {Signal.LOGS: 3, Signal.METRICS: 0, Signal.TRACES: 4}
    assert state.oldest_age_s == pytest.approx(2)
    bench.close()


def test_a_second_process_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    with pytest.raises(SpoolInUseError, match=f"{tmp_path}/spool is in use by another process; stop it, or name"):
        SpoolBench(tmp_path / "spool")
    bench.close()
    SpoolBench(tmp_path / "spool").close()


def test_a_database_that_its_last_holder_is_just_letting_go_of_is_waited_for(tmp_path: Path) -> None:
    SpoolBench(tmp_path / "spool").close()
    lock = lock_bytes(tmp_path / "spool" / "spool.db", 0x4000_0000, 512)
    threading.Timer(0.2, lock.close).start()
    bench = SpoolBench(tmp_path / "spool")
    assert bench.spool.state().degraded is None
    bench.close()


READER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], timeout=0)
try:
    other.execute("BEGIN").execute("SELECT count(*) FROM batches").fetchall()
except sqlite3.OperationalError as error:
    print(error, flush=True)
else:
    print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def reader(path: Path) -> Iterator[str]:
    """Have another program look into the database, and give what it says."""
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def test_no_other_program_looks_into_the_database_meanwhile_and_one_that_does_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "spool.db"
    bench = SpoolBench(tmp_path / "spool")
    with reader(path) as said:
        assert said == "database is locked"
    bench.put(request(b"a"))
    bench.close()
    with reader(path) as said:
        assert said == "open"
        second = SpoolBench(tmp_path / "spool")
        assert second.spool.state().degraded == f"{path}: database is locked"
    second.close()


def test_everything_is_private(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)
    bench = SpoolBench(tmp_path / "spool")
    bench.put(request(b"a"))
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "spool").iterdir()}
    bench.close()
    assert modes == {DATABASE: 0o600, f"{DATABASE}-wal": 0o600, LOCK: 0o600}
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_directory_with_other_files_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir(mode=0o755)
    (tmp_path / "lib" / "of-somebody-else").mkdir()
    bench = SpoolBench(tmp_path / "lib")
    bench.close()
    assert stat.S_IMODE((tmp_path / "lib").stat().st_mode) == 0o755
    assert [one.name for one in (tmp_path / "lib").iterdir()] == ["of-somebody-else"]


@pytest.mark.parametrize("names", [["lost+found"], [LOCK, DATABASE]])
def test_a_fresh_volume_and_a_spool_that_was_opened_up_are_made_private(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o775)
    for name in names:
        (tmp_path / "spool" / name).touch()
    bench = SpoolBench(tmp_path / "spool")
    bench.close()
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_spool_that_was_large_gives_its_room_back(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    for _ in range(20):
        bench.put(request(bytes(1 << 20)))
    bench.bodies()
    assert (tmp_path / "spool" / DATABASE).stat().st_size < 1 << 20
    bench.put(request(b"and goes on"))
    assert bench.bodies() == [b"and goes on"]
    bench.close()


def test_a_waiting_lease_wakes_up_and_ends_when_all_is_settled(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "spool")
    taken: list[bytes] = []

    def work() -> None:
        while batches := bench.spool.lease(Signal.LOGS, 1):
            taken.extend(batch.body for batch in batches)
            assert bench.spool.delivered(batches)

    thread = threading.Thread(target=work)
    thread.start()
    bench.put(request(b"a"))
    bench.put(request(b"b", 1, Signal.TRACES))
    bench.put(request(b"c"))
    held = bench.lease(Signal.TRACES)
    bench.spool.finish(Signal.LOGS)
    thread.join(10)
    assert taken == [b"a", b"c"]

    bench.put(request(b"d"))
    (given_back,) = bench.lease()
    thread = threading.Thread(target=work)
    thread.start()  # finished, but what another has on lease may come back
    bench.spool.give_back([given_back])
    thread.join(10)
    assert taken == [b"a", b"c", b"d"]
    assert bench.spool.delivered(held)
    bench.close()
