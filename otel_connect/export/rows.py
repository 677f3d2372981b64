"""How batches look on disk: the columns of a row, and the tally that says how many there ought to be.

Every change of the spool writes the tally in its transaction, and a copy beside the database. So whatever
becomes of the rows, it is known how many records are missing. Both carry digests: what is read back is
proven, or it is not used.
"""

from hashlib import blake2b
from typing import Any, NamedTuple, Self

from otel_connect.export.store import BATCH_BYTES, DIGEST_BYTES, SIGNALS, Batch, Head, digest

SCHEMA = (
    # The signal is in the high bits of the key, so that the batches of one lie together, oldest first.
    """
    CREATE TABLE IF NOT EXISTS batches (
        key INTEGER PRIMARY KEY, records INTEGER NOT NULL, created INTEGER NOT NULL,
        digest BLOB NOT NULL, body BLOB NOT NULL
    )
    """,
    "CREATE TABLE IF NOT EXISTS tally (id INTEGER PRIMARY KEY, line BLOB NOT NULL)",
)
KEY_BITS = 56
LARGEST_KEY = (1 << KEY_BITS) - 1
_MOST_RECORDS = 1 << 40


def row_id(head: Head) -> int:
    """Give the row of a batch."""
    return (SIGNALS.index(head.signal) << KEY_BITS) + head.key


def to_columns(batch: Batch) -> tuple[int, int, int, bytes, bytes]:
    """Give the row: key, records, created, digest, body."""
    head, body = batch
    return row_id(head), head.records, head.created_ns, digest(head, body), body


def to_head(row: int, records: object, created: object, body_bytes: object) -> Head | None:
    """Read a row without its body; ``None`` when it cannot be one of ours."""
    if not (isinstance(records, int) and isinstance(created, int) and isinstance(body_bytes, int)):
        return None
    number = row >> KEY_BITS
    if not (0 <= number < len(SIGNALS) and 0 <= records < _MOST_RECORDS):
        return None
    return Head(row & LARGEST_KEY, SIGNALS[number], records, body_bytes + BATCH_BYTES, created)


def to_batch(row: int, records: Any, created: Any, sealed: object, body: object) -> Batch | None:
    """Read a row; ``None`` when its digest does not prove it to be what was written."""
    if not isinstance(body, bytes):
        return None
    head = to_head(row, records, created, len(body))
    if head is None or sealed != digest(head, body):
        return None
    return Batch(head, body)


class Tally(NamedTuple):
    """What the spool holds after its ``serial``-th change."""

    serial: int = 0
    next_key: int = 1
    """Above every key that was ever given out."""
    records: tuple[int, ...] = (0,) * len(SIGNALS)
    """In the order of ``SIGNALS``."""

    def line(self) -> bytes:
        """Write it down."""
        text = " ".join(map(str, (self.serial, self.next_key, *self.records))).encode()
        return text + b" " + _seal(text)

    @classmethod
    def parse(cls, line: object) -> Self | None:
        """Read it; ``None`` when it is not what was written."""
        if not isinstance(line, bytes):
            return None
        text, _, seal = line.rpartition(b" ")
        if not text or seal != _seal(text):
            return None
        serial, next_key, *records = map(int, text.split())
        return cls(serial, next_key, tuple(records))


def _seal(text: bytes) -> bytes:
    return blake2b(text, digest_size=DIGEST_BYTES, salt=b"otel-connect tal").hexdigest().encode()
