"""Find what is intact in a database that SQLite does not open any more, or reads only in part.

A pure reader of SQLite's file formats (https://sqlite.org/fileformat2.html), as far as the spool uses them:
pages of 4096 bytes, table leaves, overflow chains, the write-ahead log. It trusts no structure: every page
that looks like a leaf is read, wherever it is, and what is found there counts only if its own digest
proves it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct, unpack_from
from typing import NamedTuple, TypeAlias

from otel_connect.export.rows import LARGEST_KEY, Tally, to_batch
from otel_connect.export.store import SIGNALS, Batch, Head
from otel_connect.model import Signal

PAGE = 4096
"""The page size of every spool."""
TALLY_PAGE = 3
"""Where the tally is: its table is the second that is made."""

_LEAF = 0x0D
_MAX_LOCAL = PAGE - 35
_MIN_LOCAL = (PAGE - 12) * 32 // 255 - 23
_BATCH_COLUMNS = 5
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

_WAL_HEADER = Struct(">8I")
_FRAME_HEADER = Struct(">6I")
_WAL_MAGIC = 0x377F0682
_FRAME = _FRAME_HEADER.size + PAGE

Read = Callable[[int], bytes]
"""Gives the page of a number, counted from 1; empty when there is none."""


class Frames(NamedTuple):
    """What a write-ahead log holds."""

    committed: Mapping[int, int]
    """Page → offset of its last image in a whole transaction."""
    latest: Mapping[int, int]
    """The same, also beyond a break."""
    others: Mapping[int, int]
    """The same of frames that may be of an earlier round, if the log's own header does not tell."""
    broken: bool
    """Whether whole transactions follow something that cannot be read: not what a crash leaves."""


def read_wal(wal: bytes) -> Frames:
    """Find the page images in a write-ahead log."""
    count = max(len(wal) - _WAL_HEADER.size, 0) // _FRAME
    offsets = [_WAL_HEADER.size + index * _FRAME for index in range(count)]
    headers = [_FRAME_HEADER.unpack_from(wal, offset) for offset in offsets]
    head_whole, salts = _wal_salts(wal, headers)
    whole = _whole_frames(wal, headers, salts) if head_whole else 0
    last_commit = max((index for index in range(whole) if headers[index][1]), default=-1)
    committed: dict[int, int] = {}
    latest: dict[int, int] = {}
    others: dict[int, int] = {}
    broken = not head_whole and any(header[2:4] == salts for header in headers)
    for index, (offset, header) in enumerate(zip(offsets, headers, strict=True)):
        page, salt = header[0], header[2:4]
        if index <= last_commit:
            committed[page] = offset
        if salt == salts and page > 0:
            latest[page] = offset
            # A process killed twice leaves pages of a transaction that never ended: those are no loss.
            broken = broken or (index > whole and header[1] != 0)
        elif page > 0 and not head_whole:
            others[page] = offset
    return Frames(committed, latest, others, broken)


def _wal_salts(wal: bytes, headers: list[tuple[int, ...]]) -> tuple[bool, tuple[int, ...]]:
    """Tell whether the log's own header is whole, and which frames belong to its last round."""
    if len(wal) >= _WAL_HEADER.size:
        magic, _, page_size, _, *salts, first, second = _WAL_HEADER.unpack_from(wal)
        sums = _checksum(wal[:24], (0, 0), _order(magic))
        if magic | 1 == _WAL_MAGIC | 1 and page_size == PAGE and sums == (first, second):
            return True, tuple(salts)
    found = [header[2:4] for header in headers if header[0]]
    # SQLite begins again at the front of the log, so what is left of earlier rounds is further back.
    repeated = Counter(found)
    return False, max(found, key=lambda salts: repeated[salts] > 1, default=())


def _whole_frames(wal: bytes, headers: list[tuple[int, ...]], salts: tuple[int, ...]) -> int:
    """Count the frames from the start whose chain of checksums is whole."""
    magic, *_, first, second = _WAL_HEADER.unpack_from(wal)
    sums = first, second
    for index, header in enumerate(headers):
        offset = _WAL_HEADER.size + index * _FRAME
        sums = _checksum(wal[offset : offset + 8], sums, _order(magic))
        sums = _checksum(wal[offset + _FRAME_HEADER.size : offset + _FRAME], sums, _order(magic))
        if header[2:4] != salts or header[4:6] != sums:
            return index
    return len(headers)


def _order(magic: int) -> str:
    return ">" if magic & 1 else "<"


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = sums
    words = iter(unpack_from(f"{order}{len(data) // 4}I", data))
    for one in words:
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + next(words) + first) & 0xFFFFFFFF
    return first, second


def fits(wal: bytes, stored: bytes, noted: Tally) -> bool:
    """Tell whether a log may be applied to a database: whether its last change is not older than what is known.

    Every change writes the tally. ``stored`` is the page of the database that has it, ``noted`` the one from
    beside them.
    """
    committed = read_wal(wal).committed
    if not committed:
        return True
    images = (wal[offset + _FRAME_HEADER.size : offset + _FRAME] for offset in committed.values())
    in_log = max((_tally_on(image) for image in images), default=Tally())
    return in_log >= max(_tally_on(stored), noted)


def _tally_on(page: bytes) -> Tally:
    found = _everything(lambda number: page if number == TALLY_PAGE else b"", [TALLY_PAGE])
    return max((one for one in found if isinstance(one, Tally)), default=Tally())


class Pages(NamedTuple):
    """A database file."""

    read: Read
    total: int


class _Damaged(NamedTuple):
    """A batch that cannot be proven."""

    key: int


_Found: TypeAlias = Batch | Tally | _Damaged


class Salvage:
    """What can be had from a database file and its log; ``noted`` is the tally from beside them.

    A page may exist in several states: as the log has it behind a break, as the log has it up to there, as the file
    has it, and as an earlier round of the log has left it. The latest is looked through first, the others only while
    records are missing by the tally, because they also hold batches that were delivered since. What is taken from them
    was damaged in the latest, or is younger than the oldest there: batches are delivered in the order of their age.
    """

    def __init__(self, stored: Pages, wal: bytes, noted: Tally) -> None:
        self.tally = noted
        """The latest found; complete once ``batches`` has ended."""
        self._stored = stored
        self._wal = wal
        self._frames = read_wal(wal)
        # A page number in the log may be damaged: never count up to one.
        self._numbers = sorted({*range(1, stored.total + 1), *self._frames.latest, *self._frames.others})
        self._kept: Counter[Signal] = Counter()
        self._keys: set[int] = set()
        self._damaged: set[int] = set()
        self._oldest: dict[Signal, int] = {}

    def batches(self) -> Iterator[Batch]:
        """Give every intact batch once."""
        none: Mapping[int, int] = {}
        for images in (self._frames.latest, self._frames.committed, none, self._frames.others):
            first = images is self._frames.latest
            if not first and not self._missing():
                return
            heads = [batch.head for batch in self._look_through(images)]
            wanted = self._wanted(heads, everything=first or self.tally.serial == 0)
            if first:
                self._oldest = {head.signal: head.key for head in sorted(heads, reverse=True)}
            for batch in self._look_through(images):
                if batch.head.key in wanted:
                    wanted.remove(batch.head.key)
                    yield batch

    def _missing(self) -> bool:
        """Whether there ought to be more, as far as anything is known."""
        expected = zip(SIGNALS, self.tally.records, strict=True)
        return self.tally.serial == 0 or any(self._kept[signal] < records for signal, records in expected)

    def _wanted(self, heads: list[Head], *, everything: bool) -> set[int]:
        """Choose what is new: everything, or what may be missing until nothing is, the damaged ones first."""
        expected = dict(zip(SIGNALS, self.tally.records, strict=True))
        wanted: set[int] = set()
        for head in sorted(heads, key=lambda head: (head.key in self._damaged, head.key), reverse=True):
            missing = self._kept[head.signal] < expected[head.signal]
            possible = head.key in self._damaged or head.key > self._oldest.get(head.signal, 0)
            if head.key not in self._keys and (everything or (missing and possible)):
                wanted.add(head.key)
                self._keys.add(head.key)
                self._kept[head.signal] += head.records
        return wanted

    def _look_through(self, images: Mapping[int, int]) -> Iterator[Batch]:
        def read(number: int) -> bytes:
            if (offset := images.get(number)) is not None:
                return self._wal[offset + _FRAME_HEADER.size : offset + _FRAME]
            return self._stored.read(number) if 1 <= number <= self._stored.total else b""

        for found in _everything(read, self._numbers):
            if isinstance(found, Batch):
                yield found
            elif isinstance(found, Tally):
                self.tally = max(self.tally, found)
            elif images is self._frames.latest:
                self._damaged.add(found.key)


def _everything(read: Read, numbers: Sequence[int]) -> Iterator[_Found]:
    """Give every batch and tally in the table leaves among these pages."""
    for number in numbers:
        page = read(number)
        if len(page) == PAGE:
            yield from _leaf(page, 100 if number == 1 else 0, read, len(numbers) * PAGE)


def _leaf(page: bytes, start: int, read: Read, most_bytes: int) -> Iterator[_Found]:
    if page[start] != _LEAF:
        return
    cells: int = unpack_from(">H", page, start + 3)[0]
    if start + 8 + 2 * cells > PAGE:
        return
    for (pointer,) in (unpack_from(">H", page, start + 8 + 2 * index) for index in range(cells)):
        try:
            found = _cell(page, pointer, read, most_bytes)
        except (IndexError, ValueError):  # it points outside: no cell
            continue
        if found is not None:
            yield found


def _cell(page: bytes, at: int, read: Read, most_bytes: int) -> _Found | None:
    size, at = _varint(page, at)
    row, at = _varint(page, at)
    if size > most_bytes:
        return None
    values = _record(_payload(page, at, size, read))
    if len(values) == _BATCH_COLUMNS:
        return to_batch(row, *values[1:]) or _Damaged(row & LARGEST_KEY)
    return Tally.parse(values[-1]) if values else None


def _payload(page: bytes, at: int, size: int, read: Read) -> bytes:
    """Join what is on the leaf with its overflow pages; shorter than ``size`` when the chain breaks."""
    if size <= _MAX_LOCAL:
        return page[at : at + size]
    local = _MIN_LOCAL + (size - _MIN_LOCAL) % (PAGE - 4)
    local = local if local <= _MAX_LOCAL else _MIN_LOCAL
    parts = [page[at : at + local]]
    left, following = size - local, int.from_bytes(page[at + local : at + local + 4], "big")
    seen = {0}  # the end of a chain, and what a damaged one that runs in a circle comes back to
    while left > 0 and following not in seen:
        seen.add(following)
        overflow = read(following)
        if len(overflow) != PAGE:
            break
        parts.append(overflow[4 : 4 + left])
        left -= PAGE - 4
        following = int.from_bytes(overflow[:4], "big")
    return b"".join(parts)


def _record(payload: bytes) -> list[object]:
    """Read a record of integers and blobs; raises IndexError or ValueError when it is none."""
    header_size, at = _varint(payload, 0)
    kinds = []
    while at < header_size:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[object] = []
    for kind in kinds:
        if kind in {0, 8, 9}:
            values.append({0: None, 8: 0, 9: 1}[kind])
        elif kind in _INTEGERS:
            values.append(int.from_bytes(payload[at : at + _INTEGERS[kind]], "big", signed=True))
            at += _INTEGERS[kind]
        elif kind >= 12 and kind % 2 == 0:
            values.append(payload[at : at + (kind - 12) // 2])
            at += (kind - 12) // 2
        else:
            raise ValueError("a text or a float: not one of ours")
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9
