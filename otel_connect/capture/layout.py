"""Bytes of ``struct otc_event``, ``otc_text`` and ``otc_counters`` → values; the twin of ``probes/connect.h``.

Byte order and clocks are converted here and in ``tallies`` and nowhere else. A test compiles the header with
the host's compiler and compares every offset with ``EVENT_FIELDS``, ``TEXT_FIELDS`` and ``COUNTER_FIELDS``.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, ntohs
from typing import NamedTuple

from otel_connect.model import About, ConnectEvent, Drops, Ending, EventFlag, Hook, KernelCounters, Told

# (name in the header, struct format); "x" bytes are padding.
EVENT_FIELDS = (
    ("sequence", "Q"),
    ("start_ns", "Q"),
    ("end_ns", "Q"),
    ("process_start_ns", "Q"),
    ("cgroup_id", "Q"),
    ("pid", "I"),
    ("tid", "I"),
    ("parent_pid", "I"),
    ("uid", "I"),
    ("gid", "I"),
    ("netns", "I"),
    ("cpu", "I"),
    ("srtt_us", "I"),
    ("drop_reason", "I"),
    ("sk_err", "h"),
    ("sk_err_soft", "h"),
    ("returned", "h"),
    ("family", "H"),
    ("local_port", "H"),
    ("peer_port", "H"),
    ("requested_family", "H"),
    ("requested_port", "H"),
    ("ending", "B"),
    ("hooks", "B"),
    ("flags", "B"),
    ("socket_state", "B"),
    ("shutdown", "B"),
    ("syn_retransmits", "B"),
    ("drops", "B"),
    ("drop_received", "B"),
    ("exec_id", "I"),
    ("local_address", "16s"),
    ("peer_address", "16s"),
    ("requested_address", "16s"),
    ("comm", "16s"),
)
TEXT_FIELDS = (
    ("process_start_ns", "Q"),
    ("pid", "I"),
    ("exec_id", "I"),
    ("vpid", "I"),
    ("length", "H"),
    ("about", "B"),
    ("whole", "B"),
    ("nothing", "B"),
    ("padding", "3x"),
    ("root_mount", "I"),
)
PACKET_FIELDS = (
    ("at_ns", "Q"),
    ("process_start_ns", "Q"),
    ("pid", "I"),
    ("netns", "I"),
    ("header", "H"),
    ("dialled_family", "H"),
    ("length", "H"),
    ("outgoing", "B"),
    ("padding", "x"),
    ("dialled_address", "16s"),
)
COUNTER_FIELDS = (*((name, "Q") for name in KernelCounters._fields), ("padding", "32x"))

EVENT = struct.Struct("=" + "".join(code for _, code in EVENT_FIELDS))
ATTEMPT_FIELDS = (("event", f"{EVENT.size}s"), ("newest_error", "8x"), ("soft_error", "4x"), ("padding", "4x"))
ATTEMPT = struct.Struct("=" + "".join(code for _, code in ATTEMPT_FIELDS))
"""An entry of the table of attempts: its first bytes are the event."""
TEXT = struct.Struct("=" + "".join(code for _, code in TEXT_FIELDS))
TEXT_BLOCK, TEXT_BLOCKS = 256, 5
TEXT_SIZES = frozenset(TEXT.size + TEXT_BLOCK * blocks for blocks in range(TEXT_BLOCKS + 1))
"""The sizes that a ``struct otc_text`` has in the ring, where only its filled blocks are."""
PACKET = struct.Struct("=" + "".join(code for _, code in PACKET_FIELDS))
COUNTERS = struct.Struct("=" + "".join(code for _, code in COUNTER_FIELDS))

_SYN_SENT, _REQUESTED = int(Hook.SYN_SENT), int(EventFlag.REQUESTED)
_ENDINGS = tuple(Ending)
_NO_NAMES: Mapping[int, str] = {}
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"


class ClockOffsets(NamedTuple):
    """What to add to a kernel clock to get nanoseconds since the Unix epoch."""

    monotonic_ns: int
    boot_ns: int


def decode_event(
    record: bytes | memoryview,
    clock: ClockOffsets,
    ending: Ending | None = None,
    reasons: Mapping[int, str] = _NO_NAMES,
) -> ConnectEvent:
    """Decode one ``struct otc_event``; ``ending`` replaces the recorded one for attempts without an end.

    ``reasons`` has the kernel's names for why it drops packets (``enum skb_drop_reason``); one without a name is shown
    as its number.

    Raises struct.error when the record has not the size of the structure, LookupError for an unknown ending.
    """
    (
        sequence,
        start,
        end,
        process_start,
        cgroup_id,
        pid,
        tid,
        parent_pid,
        uid,
        gid,
        netns,
        cpu,
        srtt_us,
        drop_reason,
        sk_err,
        sk_err_soft,
        returned,
        family,
        local_port,
        peer_port,
        requested_family,
        requested_port,
        recorded_ending,
        hooks,
        flags,
        socket_state,
        shutdown,
        syn_retransmits,
        drops,
        drop_received,
        exec_id,
        local_bytes,
        peer_bytes,
        requested_bytes,
        comm,
    ) = EVENT.unpack(record)
    started, asked = hooks & _SYN_SENT, flags & _REQUESTED
    local_address = _bound_address(family, local_bytes) if started else None
    peer_address = address_text(family, peer_bytes) if started else None
    requested_address = address_text(requested_family, requested_bytes) if asked else None
    # By position and without enum arithmetic: this runs for every attempt of the host.
    return ConnectEvent(
        cpu,
        sequence,
        start + clock.monotonic_ns,
        end - start if end else None,
        _ENDINGS[recorded_ending] if ending is None else ending,
        hooks,
        flags,
        pid,
        tid,
        parent_pid,
        uid,
        gid,
        process_start,
        process_start + clock.boot_ns,
        exec_id,
        cgroup_id,
        netns,
        name_text(comm),
        shown_family(peer_address or requested_address, family),
        local_address,
        ntohs(local_port) or None,
        peer_address,
        ntohs(peer_port) if started else None,
        requested_address,
        ntohs(requested_port) if requested_address else None,
        sk_err,
        sk_err_soft,
        returned,
        socket_state,
        shutdown,
        syn_retransmits,
        srtt_us,
        Drops(reasons.get(drop_reason) or str(drop_reason), drops, bool(drop_received)) if drops else None,
    )


def decode_text(record: bytes | memoryview) -> list[Told]:
    """Decode one ``struct otc_text``: what it says itself, and of what else there is nothing.

    Raises struct.error when the record is too short, ValueError for an unknown kind.
    """
    process_start, pid, exec_id, vpid, length, about, whole, nothing, root = TEXT.unpack_from(record)
    raw = bytes(record[TEXT.size : TEXT.size + length])
    if len(raw) < length:
        raise struct.error("the strings are longer than the record")
    *strings, rest = raw.split(b"\0")
    if rest and whole:  # a process may write over its arguments
        strings.append(rest)
    texts = tuple(string.decode("utf-8", "backslashreplace") for string in strings)
    told = Told(pid, process_start, exec_id, About(about), texts, bool(whole), vpid or None, root or None)
    absent = (kind for kind in About if nothing >> kind & 1)
    return [told, *(told._replace(about=kind, texts=(), whole=True) for kind in absent)]


def decode_counters(table: bytes | memoryview) -> KernelCounters:
    """Sum the ``struct otc_counters`` of all CPUs that stand one after another in ``table``."""
    return KernelCounters(*map(sum, zip(*COUNTERS.iter_unpack(table), strict=True)))


class RingRecords(NamedTuple):
    """What a stretch of the ring holds, and where the next read begins."""

    records: list[bytes]
    position: int


_BUSY, _DISCARD = 1 << 31, 1 << 30
_LENGTH = struct.Struct("=I")


def ring_records(data: bytes | memoryview, mask: int, consumer: int, producer: int, limit: int) -> RingRecords:
    """Take the complete records between two positions of a BPF ring buffer, ``limit`` at the most.

    ``data`` is the ring mapped twice in a row, so that no record wraps; ``mask`` its size less one. A record
    is a header of 8 bytes, whose first word is the length with two flags, then the data, padded to 8 bytes
    (kernel/bpf/ringbuf.c). Reading stops at the first record that is still being written.
    """
    view = memoryview(data)
    records: list[bytes] = []
    position = consumer
    while position < producer and len(records) < limit:
        at = position & mask
        (header,) = _LENGTH.unpack_from(view, at)
        if header & _BUSY:
            break
        length = header & ~_DISCARD
        if not header & _DISCARD:
            records.append(bytes(view[at + 8 : at + 8 + length]))
        position += 8 + (length + 7 & ~7)
    return RingRecords(records, position)


@lru_cache(maxsize=8192)
def address_text(family: int, raw: bytes) -> str | None:
    """Write 16 bytes of an address out; a v4-mapped one dotted, ``None`` for another family."""
    if family == AF_INET:
        return inet_ntop(AF_INET, raw[:4])
    if family != AF_INET6:
        return None
    if raw.startswith(_MAPPED_PREFIX):
        return inet_ntop(AF_INET, raw[12:])
    return inet_ntop(AF_INET6, raw)


def _bound_address(family: int, raw: bytes) -> str | None:
    return address_text(family, raw) if any(raw) else None


@lru_cache(maxsize=4096)
def name_text(raw: bytes) -> str:
    r"""Decode a name that ends at the first NUL; what is not UTF-8 in it is written ``\xNN``."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def shown_family(address: str | None, family: int) -> int:
    """Return the family of a textual address, or else the one given."""
    if address is None:
        return family
    return AF_INET6 if ":" in address else AF_INET
