"""A spool that was damaged: every intact batch is kept, what is missing is counted, and the agent comes up.

The oracle is the layout on disk itself. A body is made of marks that name their batch, so that it is seen
which batches have bytes in a region that a case destroys; all others must come out.
"""

import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_connect.export.directory import LOCK
from otel_connect.export.disk import DATABASE, WAL
from otel_connect.export.ledger import Reason
from otel_connect.export.salvage import PAGE
from otel_connect.model import Signal
from tests.support.spool import SpoolBench, request

SIGNALS = tuple(Signal)
FRAME = PAGE + 24
MARK = re.compile(rb"<(\d{4})\.\d{4}>")
FOREIGN = 500  # a batch of another spool
SIZES = (100, 30_000, 2_000, 9_000)  # on a leaf with others, over many pages, alone on a leaf, over a few


def body(number: int) -> bytes:
    """Make a body in which every part names its batch."""
    return b"".join(b"<%04d.%04d>" % (number, index) for index in range(SIZES[number % len(SIZES)] // 11))


def records(number: int) -> int:
    return number % 5 + 1


class Image(NamedTuple):
    """The files of a spool in the middle of its work, and what is in it."""

    path: Path
    waiting: frozenset[int]
    delivered: frozenset[int]

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.path, to))

    def total(self) -> int:
        return sum(map(records, self.waiting))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Make a spool of which one part is in the database, one only in the log, and some were delivered."""
    directory = tmp_path_factory.mktemp("image")
    live = directory / "live"
    bench = SpoolBench(live)
    numbers = iter(range(1000))
    for number in (next(numbers) for _ in range(24)):
        bench.put(request(body(number), records(number), SIGNALS[number % 3]))
    bench.close()
    bench = SpoolBench(live)
    gone = [deliver_oldest(bench, signal) for signal in SIGNALS]
    for number in (next(numbers) for _ in range(24)):
        bench.put(request(body(number), records(number), SIGNALS[number % 3]))
        if number % 8 == 0:
            gone.append(deliver_oldest(bench, SIGNALS[number % 3]))
    shutil.copytree(live, directory / "copy")
    bench.close()
    assert (directory / "copy" / WAL).stat().st_size > 50 * FRAME
    return Image(directory / "copy", frozenset(range(48)) - frozenset(gone), frozenset(gone))


def deliver_oldest(bench: SpoolBench, signal: Signal) -> int:
    (batch,) = bench.lease(signal, 1)
    assert bench.spool.delivered([batch])
    return number_of(batch.body)


def number_of(content: bytes) -> int:
    match = MARK.match(content)
    assert match is not None
    assert content == body(int(match[1]))
    return int(match[1])


class Outcome(NamedTuple):
    """What came out of a spool that was opened."""

    found: list[int]
    lost: int
    """Records."""


def open_and_take(path: Path) -> Outcome:
    bench = SpoolBench(path)
    assert bench.spool.state().degraded is None
    accounts = bench.ledger.snapshot()
    found = [number_of(one) for one in bench.bodies()]
    lost = sum(account.dropped.get(Reason.SPOOL_CORRUPT, 0) for account in accounts.values())
    assert sum(account.recovered for account in accounts.values()) == lost + sum(map(records, found))
    bench.put(request(body(999)))
    assert bench.bodies() == [body(999)]
    bench.close()
    clean = SpoolBench(path)  # what was mended stays mended
    assert clean.account().recovered == 0
    clean.close()
    return Outcome(found, lost)


def marks(content: bytes) -> set[int]:
    return {int(one) for one in MARK.findall(content)}


def pages_with(content: bytes, number: int) -> list[int]:
    return [at for at in range(0, len(content), PAGE) if number in marks(content[at : at + PAGE])]


def edit(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def flip_before_body(path: Path, number: int, back: int) -> None:
    """Flip a bit of a row, so many bytes before its body, in the database and in every copy in the log."""
    start = b"<%04d.0000>" % number
    for file in (path / DATABASE, path / WAL):
        for match in re.finditer(re.escape(start), file.read_bytes()):
            flip(file, match.start() - back)


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path / DATABASE, isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount == (
            1 if statement.startswith(("UPDATE", "DELETE", "INSERT")) else -1
        )
    connection.close()


def foreign_database(path: Path) -> None:
    (path / DATABASE).unlink()
    (path / WAL).unlink()
    sql(path, "CREATE TABLE recipes (name TEXT)", "INSERT INTO recipes VALUES ('soup')")


def swap_pages(path: Path, first: int, second: int) -> None:
    content = (path / DATABASE).read_bytes()
    edit(path / DATABASE, first, content[second : second + PAGE])
    edit(path / DATABASE, second, content[first : first + PAGE])


def stale_log(path: Path) -> None:
    """Put the log of another spool in place of this one's."""
    other = SpoolBench(path / "other")
    other.put(request(body(FOREIGN), records(FOREIGN)))
    shutil.copy(path / "other" / WAL, path / WAL)
    other.close()
    shutil.rmtree(path / "other")


def interrupted_at_writing(path: Path) -> None:
    """Leave what a crash in the middle of mending leaves."""
    edit(path / DATABASE, 0, bytes(PAGE))
    (path / "unfinished").mkdir()
    (path / "unfinished" / DATABASE).write_bytes(b"half")


def last_frame(path: Path) -> int:
    return (path / WAL).stat().st_size - FRAME


def only_the_end_of_the_log(path: Path) -> None:
    edit(path / WAL, 0, bytes(32 + 45 * FRAME))
    (path / DATABASE).unlink()


A_BODY, IN_DATABASE, IN_LOG = 9, 13, 37

# name: what happens to the directory, and the batches that may be lost by it; None: those seen to be touched
CASES: dict[str, tuple[Callable[[Path], object], set[int] | None]] = {
    "nothing": (lambda _: None, set()),
    "database empty": (lambda path: os.truncate(path / DATABASE, 0), None),
    "database cut within its header": (lambda path: os.truncate(path / DATABASE, 50), None),
    "database cut after one page": (lambda path: os.truncate(path / DATABASE, PAGE), None),
    "database cut within a page": (lambda path: os.truncate(path / DATABASE, 10 * PAGE + 1234), None),
    "database cut in the middle": (lambda path: os.truncate(path / DATABASE, 30 * PAGE), None),
    "database with more behind it": (lambda path: edit(path / DATABASE, 1000 * PAGE, bytes(PAGE)), set()),
    "database gone": (lambda path: (path / DATABASE).unlink(), None),
    "database garbage": (lambda path: (path / DATABASE).write_bytes(os.urandom(100 * PAGE)), None),
    "database of another program": (foreign_database, set(range(48))),
    "header zeroed": (lambda path: edit(path / DATABASE, 0, bytes(100)), set()),
    "header with another magic": (lambda path: edit(path / DATABASE, 0, b"SQLite format 4"), set()),
    "header with another page size": (lambda path: edit(path / DATABASE, 16, b"\x20\x00"), set()),
    "header with another application": (lambda path: edit(path / DATABASE, 68, b"abcd"), set()),
    "header with a wrong free list": (lambda path: edit(path / DATABASE, 32, b"\0\0\0\x07\0\0\0\x63"), set()),
    "schema zeroed": (lambda path: edit(path / DATABASE, 0, bytes(PAGE)), set()),
    "root pages zeroed": (lambda path: edit(path / DATABASE, PAGE, bytes(2 * PAGE)), None),
    "pages swapped": (lambda path: swap_pages(path, 10 * PAGE, 20 * PAGE), None),
    "bit flipped in a body": (lambda path: flip_before_body(path, A_BODY, -20), {A_BODY}),
    "bit flipped in a digest": (lambda path: flip_before_body(path, IN_DATABASE, 3), {IN_DATABASE}),
    "bit flipped in a digest in the log": (lambda path: flip_before_body(path, IN_LOG, 3), {IN_LOG}),
    "bit flipped in a time": (lambda path: flip_before_body(path, IN_DATABASE, 18), {IN_DATABASE}),
    "bit flipped in a count": (lambda path: flip_before_body(path, IN_DATABASE, 25), {IN_DATABASE}),
    "huge record count": (
        lambda path: sql(
            path, "UPDATE batches SET records = 4611686018427387904 WHERE substr(body, 1, 5) = x'3c30303133'"
        ),
        {IN_DATABASE},
    ),
    "negative record count": (
        lambda path: sql(path, "UPDATE batches SET records = -1 WHERE substr(body, 1, 5) = x'3c30303133'"),
        {13},
    ),
    "text for a time": (
        lambda path: sql(path, "UPDATE batches SET created = 'soon' WHERE substr(body, 1, 5) = x'3c30303133'"),
        {13},
    ),
    "another key": (
        lambda path: sql(path, "UPDATE batches SET key = key + 1000 WHERE substr(body, 1, 5) = x'3c30303133'"),
        {13},
    ),
    "another signal": (
        lambda path: sql(path, "UPDATE batches SET key = 360287970189639680 WHERE substr(body, 1, 5) = x'3c30303133'"),
        {13},
    ),
    "row deleted": (lambda path: sql(path, "DELETE FROM batches WHERE substr(body, 1, 5) = x'3c30303133'"), {13}),
    "table missing": (lambda path: sql(path, "DROP TABLE batches"), set(range(48))),
    "tally missing": (lambda path: sql(path, "DROP TABLE tally"), set()),
    "tally altered": (lambda path: sql(path, "UPDATE tally SET line = x'31'"), set()),
    "log gone": (lambda path: (path / WAL).unlink(), None),
    "log empty": (lambda path: os.truncate(path / WAL, 0), None),
    "log garbage": (lambda path: (path / WAL).write_bytes(os.urandom(30 * FRAME)), None),
    "log of another spool": (stale_log, None),
    "log cut within its header": (lambda path: os.truncate(path / WAL, 20), None),
    "log cut in the middle": (lambda path: os.truncate(path / WAL, 32 + 40 * FRAME), None),
    "log cut within a frame": (lambda path: os.truncate(path / WAL, 32 + 40 * FRAME + 2000), None),
    "log header zeroed": (lambda path: edit(path / WAL, 0, bytes(32)), set()),
    "log header with another page size": (lambda path: edit(path / WAL, 8, b"\0\0\x20\0"), set()),
    "log frame header zeroed": (lambda path: edit(path / WAL, 32 + 20 * FRAME, bytes(24)), None),
    "log page number zeroed": (lambda path: edit(path / WAL, 32 + 20 * FRAME, bytes(4)), None),
    "log zeroed from the start to past the middle": (lambda path: edit(path / WAL, 0, bytes(32 + 45 * FRAME)), None),
    "log zeroed but for its last frame": (lambda path: edit(path / WAL, 0, bytes(last_frame(path))), None),
    "log garbage but for its last frame": (lambda path: edit(path / WAL, 0, os.urandom(last_frame(path))), None),
    "log and database gone but for the log's end": (only_the_end_of_the_log, None),
    "log frame zeroed": (lambda path: edit(path / WAL, 32 + 20 * FRAME, bytes(FRAME)), None),
    "log frame for a page far away": (lambda path: edit(path / WAL, 32 + 20 * FRAME, b"\x7f\xff\xff\xff"), None),
    "bit flipped in the first log frame": (lambda path: flip(path / WAL, 32 + 24 + 4000), None),
    "bit flipped in a log frame": (lambda path: flip(path / WAL, 32 + 20 * FRAME + 3000), None),
    "bit flipped in the last log frame": (lambda path: flip(path / WAL, (path / WAL).stat().st_size - 4), None),
    "stale shared memory": (lambda path: (path / f"{DATABASE}-shm").write_bytes(os.urandom(32768)), set()),
    "stale rollback journal": (lambda path: (path / f"{DATABASE}-journal").write_bytes(os.urandom(5000)), set()),
    "lock file empty": (lambda path: os.truncate(path / LOCK, 0), set()),
    "lock file garbage": (lambda path: (path / LOCK).write_bytes(os.urandom(256)), set()),
    "interrupted mending": (interrupted_at_writing, set()),
}


@pytest.mark.parametrize(("damage", "may_be_lost"), list(CASES.values()), ids=list(CASES))
def test_every_intact_batch_is_kept(
    damage: Callable[[Path], object], may_be_lost: set[int] | None, image: Image, tmp_path: Path
) -> None:
    path = image.copy(tmp_path / "spool")
    before = {name: (path / name).read_bytes() for name in (DATABASE, WAL)}
    damage(path)
    if may_be_lost is None:
        may_be_lost = touched(path, before)
    outcome = open_and_take(path)
    assert len(outcome.found) == len(set(outcome.found))
    assert set(outcome.found) <= image.waiting | image.delivered | {FOREIGN}
    assert image.waiting - set(outcome.found) <= may_be_lost
    missing = sum(map(records, image.waiting - set(outcome.found)))
    back_again = sum(map(records, set(outcome.found) - image.waiting))
    assert max(missing - back_again, 0) <= outcome.lost <= missing
    if not back_again:
        assert outcome.lost == missing


def touched(path: Path, before: dict[str, bytes]) -> set[int]:
    """Tell which batches have bytes in pages that are not as they were."""
    found = set()
    for name, content in before.items():
        now = (path / name).read_bytes() if (path / name).exists() else b""
        head, step = (32, FRAME) if name == WAL else (0, PAGE)
        for at in range(head, len(content), step):
            if now[at : at + step] != content[at : at + step]:
                found |= marks(content[at : at + step])
    return found


@pytest.mark.parametrize("part", range(4))
def test_any_page_may_be_lost(part: int, image: Image, tmp_path: Path) -> None:
    """Zero each page of the database, and each frame of the log, in turn."""
    regions = [(DATABASE, at, PAGE) for at in range(0, (image.path / DATABASE).stat().st_size, PAGE)]
    regions += [(WAL, at, FRAME) for at in range(32, (image.path / WAL).stat().st_size, FRAME)]
    for name, at, size in regions[part::20]:
        path = image.copy(tmp_path / f"{name}-{at}")
        gone = marks((path / name).read_bytes()[at : at + size])
        edit(path / name, at, bytes(size))
        outcome = open_and_take(path)
        assert image.waiting - set(outcome.found) <= gone, (name, at)
        shutil.rmtree(path)


LENGTHS = st.integers(1, 200 * FRAME)
CONTENTS = st.one_of(
    st.none(),  # cut off there
    st.binary(max_size=300),
    LENGTHS.map(bytes),
    st.builds(lambda length, seed: random.Random(seed).randbytes(length), LENGTHS, st.integers(0, 99)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.sampled_from([WAL, DATABASE, LOCK]), st.floats(0, 1, exclude_max=True), CONTENTS), max_size=4
    )
)
def test_any_damage_at_all(
    edits: list[tuple[str, float, bytes | None]], image: Image, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = image.copy(tmp_path_factory.mktemp("any") / "spool")
    before = {name: (path / name).read_bytes() for name in (DATABASE, WAL)}
    for name, where, data in edits:
        at = int((path / name).stat().st_size * where)
        if data is None:
            os.truncate(path / name, at)
        else:
            edit(path / name, at, data)
    outcome = open_and_take(path)
    assert image.waiting - set(outcome.found) <= touched(path, before)
    shutil.rmtree(path.parent)


def test_nothing_that_was_delivered_comes_back_from_a_clean_spool(image: Image, tmp_path: Path) -> None:
    outcome = open_and_take(image.copy(tmp_path / "spool"))
    assert sorted(outcome.found) == sorted(image.waiting)
    assert outcome.lost == 0


def test_a_log_that_is_cut_off_and_written_on_is_read_from_where_it_goes_on(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "live")
    bench.put(request(body(1), records(1)))
    os.truncate(tmp_path / "live" / WAL, 0)
    for number in (2, 3):
        bench.put(request(body(number), records(number)))
    path = Path(shutil.copytree(tmp_path / "live", tmp_path / "spool"))
    assert open_and_take(path) == Outcome([2, 3], records(1))
    bench.close()


def test_the_last_round_of_a_log_counts_and_not_the_longest(tmp_path: Path) -> None:
    bench = SpoolBench(tmp_path / "live")
    numbers = list(range(1, 801, 4))  # enough that SQLite begins the log again
    for number in numbers:
        bench.put(request(body(number), records(number)))
    path = Path(shutil.copytree(tmp_path / "live", tmp_path / "spool"))
    database, wal = (path / DATABASE).read_bytes(), (path / WAL).read_bytes()
    salts = [wal[at + 8 : at + 16] for at in range(32, len(wal), FRAME)]
    assert len(marks(database)) < len(numbers)
    assert 3 < salts.count(salts[0]) < len(salts) / 2
    edit(path / WAL, 0, bytes(32))
    assert open_and_take(path) == Outcome(numbers, 0)
    bench.close()
