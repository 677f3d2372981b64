"""SIGKILL at any moment: what was committed is there afterwards, and what was settled is not."""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from otel_connect.export.disk import DATABASE, WAL
from otel_connect.export.ledger import Reason
from otel_connect.export.salvage import PAGE
from otel_connect.export.spool import Limits
from otel_connect.model import Signal
from tests.support.spool import SpoolBench, request

SIGNALS = tuple(Signal)
KILLS = 30
STEPS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def run_until_killed(work: Callable[[int], None], after_s: float) -> bytes:
    """Run work in a process that the kernel kills after a time; gives what it has written to its descriptor."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, after_s)
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return told


def content(number: int) -> bytes:
    return b"%d " % number + bytes(random.Random(number).choice([10, 5_000, 60_000]))


def put_and_settle(path: Path, first: int) -> Callable[[int], None]:
    def work(tell: int) -> None:
        bench = SpoolBench(path, Limits(disk_bytes=1 << 30, memory_bytes=1 << 20))
        chance = random.Random(first)
        for number in range(first, first + 1_000_000):
            of = SIGNALS[number % 3]
            bench.put(request(content(number), number % 7 + 1, of))
            os.write(tell, b"put %d\n" % number)
            if chance.random() < 0.6 and (batches := bench.lease(of, 20_000)):
                numbers = b" ".join(batch.body.split(b" ")[0] for batch in batches)
                os.write(tell, b"sent %s\n" % numbers)
                bench.spool.delivered(batches)
                os.write(tell, b"settled %s\n" % numbers)

    return work


def test_no_committed_batch_is_lost_and_no_settled_one_comes_back(tmp_path: Path) -> None:
    path, chance = tmp_path / "spool", random.Random(7)
    waiting: set[int] = set()
    first = again = 0
    for _ in range(KILLS):
        told = run_until_killed(put_and_settle(path, first), chance.uniform(0.005, 0.15))
        under_way: set[int] = set()
        for line in told.decode().splitlines():
            word, *rest = line.split()
            numbers = set(map(int, rest))
            if word == "put":
                waiting |= numbers
                first = max(numbers) + 1
            elif word == "sent":
                under_way = numbers
            else:
                waiting, under_way = waiting - numbers, set()
        bench = SpoolBench(path)
        there = look_through(bench)
        bench.close()
        # The last one may have been committed, or settled, without there having been time to tell.
        assert waiting - there <= under_way
        assert there - waiting <= {first}
        recovered = sum(bench.account(of).recovered for of in SIGNALS)
        assert recovered == sum(number % 7 + 1 for number in there)
        again += bool(under_way & there)
        waiting = there
        first = max([first, *there]) + 1
    assert first > KILLS  # it did get to work
    assert again <= KILLS


def look_through(bench: SpoolBench) -> set[int]:
    """Read everything and put it back; nothing may be damaged."""
    numbers = set()
    for of in SIGNALS:
        batches = bench.lease(of)
        for batch in batches:
            number = int(batch.body.split(b" ")[0])
            assert batch.body == content(number)
            numbers.add(number)
        bench.spool.give_back(batches)
        assert bench.account(of).dropped == {}
    return numbers


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Make a spool whose first page is gone, with 60 batches in the database and 20 in the log."""
    bench = SpoolBench(tmp_path / "live")
    for number in range(60):
        bench.put(request(b"%d " % number + bytes(20_000), 2))
    bench.close()
    bench = SpoolBench(tmp_path / "live")
    for number in range(60, 80):
        bench.put(request(b"%d " % number + bytes(20_000), 2))
    shutil.copytree(tmp_path / "live", tmp_path / "damaged")
    bench.close()
    with (tmp_path / "damaged" / DATABASE).open("r+b") as file:
        file.write(bytes(PAGE))
    return tmp_path / "damaged"


def test_mending_may_be_killed_at_any_moment(damaged: Path, tmp_path: Path) -> None:
    def mend(path: Path) -> Callable[[int], None]:
        def work(tell: int) -> None:
            SpoolBench(path)
            os.write(tell, b"mended")

        return work

    path, after_s, cut_short = tmp_path / "spool", 0.002, 0
    while True:
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
        shutil.copytree(damaged, path)
        told = run_until_killed(mend(path), after_s)
        cut_short += not told
        bench = SpoolBench(path)
        account = bench.account()
        assert account.recovered == 160
        assert {int(body.split(b" ")[0]) for body in bench.bodies()} == set(range(80))
        assert bench.account().dropped.get(Reason.SPOOL_CORRUPT, 0) == 0
        bench.close()
        if told:
            break
        after_s *= 1.15
    assert cut_short > 3


def test_mending_may_be_killed_before_any_of_its_steps(damaged: Path, tmp_path: Path) -> None:
    with (damaged / WAL).open("r+b") as file:  # so that nobody can put it into the database first
        file.write(bytes(32))

    def mend_until(step: int) -> Callable[[int], None]:
        def work(tell: int) -> None:
            left = step

            def count(event: str, _: object) -> None:
                nonlocal left
                left -= event in STEPS
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            SpoolBench(path)
            os.write(tell, b"mended")

        return work

    path = tmp_path / "spool"
    for step in range(1, 200):
        shutil.copytree(damaged, path)
        told = run_until_killed(mend_until(step), 60)
        bench = SpoolBench(path)
        assert {int(body.split(b" ")[0]) for body in bench.bodies()} == set(range(80)), step
        assert bench.account().dropped == {}
        bench.close()
        shutil.rmtree(path)
        if told:
            break
    assert told
    assert step > 20


def test_what_a_killed_repair_found_lost_is_counted_by_the_next_start(damaged: Path, tmp_path: Path) -> None:
    with (damaged / DATABASE).open("r+b") as file:
        file.seek(100 * PAGE)
        file.write(bytes(40 * PAGE))
    path = tmp_path / "spool"
    shutil.copytree(damaged, path)

    def repair_until_the_new_database_is_complete(_: int) -> None:
        complete = False

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal complete
            if complete:
                os.kill(os.getpid(), signal.SIGKILL)
            complete = event == "os.rename" and str(arguments[1]).endswith("/mended")

        sys.addaudithook(watch)
        SpoolBench(path)

    run_until_killed(repair_until_the_new_database_is_complete, 60)
    assert (path / "mended").is_dir()
    killed, whole = SpoolBench(path), SpoolBench(damaged)
    assert killed.account() == whole.account()
    assert killed.account().dropped[Reason.SPOOL_CORRUPT] > 0
    killed.close()
    whole.close()
