"""Bytes of the ring → events."""

import struct
from socket import AF_INET, AF_INET6, htons, inet_aton, inet_pton
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.capture.layout import (
    COUNTERS,
    EVENT,
    EVENT_FIELDS,
    TEXT,
    TEXT_BLOCK,
    TEXT_SIZES,
    ClockOffsets,
    decode_counters,
    decode_event,
    decode_text,
    ring_records,
)
from otel_connect.model import About, Drops, Ending, EventFlag, Hook, KernelCounters, Told

CLOCK = ClockOffsets(monotonic_ns=1_000_000, boot_ns=2_000_000)
NAMES = [name for name, code in EVENT_FIELDS if not code.endswith("x")]
DEFAULTS: dict[str, Any] = {name: b"" if code.endswith("s") else 0 for name, code in EVENT_FIELDS if name in NAMES}


def record(**fields: Any) -> bytes:
    return EVENT.pack(*(DEFAULTS | fields).values())


def test_a_v4_attempt_is_decoded_whole() -> None:
    event = decode_event(
        record(
            sequence=3, start_ns=500, end_ns=700, process_start_ns=40, pid=7, tid=8, parent_pid=1, uid=1000,
            gid=100, netns=99, cpu=1, srtt_us=21, family=AF_INET, local_port=htons(40000), peer_port=htons(443),
            requested_family=AF_INET, requested_port=htons(80), ending=1, hooks=Hook.ENTER | Hook.SYN_SENT,
            flags=EventFlag.REQUESTED, local_address=inet_aton("10.0.0.1"), peer_address=inet_aton("10.0.0.2"),
            requested_address=inet_aton("10.0.0.3"), comm=b"curl",
        ),
        CLOCK,
    )  # fmt: skip
    assert (event.start_unix_ns, event.duration_ns) == (1_000_500, 200)
    assert (event.process_start_boot_ns, event.process_start_unix_ns) == (40, 2_000_040)
    assert (event.local_address, event.local_port) == ("10.0.0.1", 40000)
    assert (event.peer_address, event.peer_port) == ("10.0.0.2", 443)
    assert (event.requested_address, event.requested_port) == ("10.0.0.3", 80)
    assert (event.pid, event.tid, event.parent_pid, event.uid, event.gid) == (7, 8, 1, 1000, 100)
    assert (event.cpu, event.sequence, event.netns, event.srtt_us, event.comm) == (1, 3, 99, 21, "curl")
    assert event.ending is Ending.ESTABLISHED
    assert event.family == AF_INET


@pytest.mark.parametrize(
    ("peer", "shown", "family"),
    [
        ("2001:db8::1", "2001:db8::1", AF_INET6),
        ("::ffff:192.0.2.7", "192.0.2.7", AF_INET),
        ("::1", "::1", AF_INET6),
    ],
)
def test_v6_sockets_show_mapped_peers_as_v4(peer: str, shown: str, family: int) -> None:
    event = decode_event(record(family=AF_INET6, hooks=Hook.SYN_SENT, peer_address=inet_pton(AF_INET6, peer)), CLOCK)
    assert (event.peer_address, event.family) == (shown, family)


def test_what_was_not_recorded_is_none() -> None:
    event = decode_event(record(family=AF_INET, ending=Ending.RETURNED, hooks=Hook.ENTER | Hook.EXIT), CLOCK)
    assert (event.peer_address, event.peer_port, event.requested_address, event.local_address) == (None,) * 4
    assert event.duration_ns is None


def test_an_unbound_local_address_is_none() -> None:
    event = decode_event(record(family=AF_INET, hooks=Hook.SYN_SENT), CLOCK)
    assert (event.local_address, event.local_port) == (None, None)


@given(st.binary(max_size=16))
def test_any_comm_becomes_text_without_nul(comm: bytes) -> None:
    text = decode_event(record(family=AF_INET, comm=comm), CLOCK).comm
    assert "\0" not in text
    text.encode()


@pytest.mark.parametrize(
    ("number", "shown"),
    [(12, "netfilter_drop"), (13, "13"), ((2 << 16) + 3, "131075")],  # the last is of a subsystem: openvswitch
)
def test_a_drop_has_the_name_of_its_reason_or_its_number(number: int, shown: str) -> None:
    dropped = record(family=AF_INET, drop_reason=number, drops=255, drop_received=1)
    event = decode_event(dropped, CLOCK, reasons={12: "netfilter_drop"})
    assert event.drops == Drops(shown, 255, received=True)
    assert decode_event(record(family=AF_INET), CLOCK, reasons={0: "not_dropped_yet"}).drops is None


@pytest.mark.parametrize("damaged", [b"", bytes(EVENT.size - 1), bytes(EVENT.size + 1)])
def test_a_record_of_another_size_is_refused(damaged: bytes) -> None:
    with pytest.raises(struct.error):
        decode_event(damaged, CLOCK)


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(LookupError):
        decode_event(record(ending=99), CLOCK)


def test_counters_are_summed_over_the_cpus() -> None:
    table = COUNTERS.pack(*range(1, 13)) + COUNTERS.pack(*range(10, 130, 10))
    assert decode_counters(table) == KernelCounters(11, 22, 33, 44, 55, 66, 77, 88, 99, 110, 121, 132)


BUSY, DISCARD = 1 << 31, 1 << 30


def ring(size: int, start: int, records: list[tuple[int, bytes]]) -> tuple[bytes, int]:
    """Lay records out in a ring of ``size`` bytes from position ``start``; returns it mapped twice."""
    data = bytearray(size)
    position = start
    for flags, payload in records:
        padded = struct.pack("=II", len(payload) | flags, 0) + payload + bytes(-len(payload) % 8)
        for byte in padded:
            data[position % size] = byte
            position += 1
    return bytes(data) * 2, position


@given(
    start=st.integers(0, 200).map(lambda eighths: 8 * eighths),
    payloads=st.lists(st.tuples(st.sampled_from([0, DISCARD]), st.binary(max_size=40)), max_size=8),
)
def test_the_ring_gives_back_what_was_put_in_wherever_it_wraps(start: int, payloads: list[tuple[int, bytes]]) -> None:
    data, end = ring(512, start, payloads)
    taken = ring_records(data, 511, start, end, 100)
    assert taken.records == [payload for flags, payload in payloads if not flags]
    assert taken.position == end


def test_reading_stops_at_a_record_that_is_still_being_written() -> None:
    data, end = ring(256, 0, [(0, b"whole"), (BUSY, b"half"), (0, b"later")])
    taken = ring_records(data, 255, 0, end, 100)
    assert taken == ([b"whole"], 16)


def test_a_reading_is_bounded_and_the_next_goes_on_where_it_stopped() -> None:
    data, end = ring(256, 0, [(0, b"one"), (0, b"two"), (0, b"three")])
    first = ring_records(data, 255, 0, end, 2)
    assert first.records == [b"one", b"two"]
    assert ring_records(data, 255, first.position, end, 2) == ([b"three"], end)


ROOT_MOUNT = 28


def text(raw: bytes, *, about: About = About.CGROUP, whole: int = 1, vpid: int = 3, nothing: int = 0) -> bytes:
    """Make a record as the ring has it: whole blocks, with what was in the draft before behind the strings."""
    blocks = -(-len(raw) // TEXT_BLOCK) * TEXT_BLOCK
    return TEXT.pack(40, 7, 2, vpid, len(raw), about, whole, nothing, ROOT_MOUNT) + raw.ljust(blocks, b"?")


@pytest.mark.parametrize(
    ("raw", "whole", "texts"),
    [
        (b"curl\0bin\0usr\0", 1, ("curl", "bin", "usr")),
        (b"\0", 1, ("",)),
        (b"", 1, ()),
        (b"a\0written over", 1, ("a", "written over")),
        (b"a\0cut of", 0, ("a",)),
        (b"curl\xff\0\xc3\xa9\0", 1, ("curl\\xff", "é")),
        (b"x" * 1279 + b"\0", 1, ("x" * 1279,)),
    ],
)
def test_the_strings_of_a_text(raw: bytes, whole: int, texts: tuple[str, ...]) -> None:
    record = text(raw, whole=whole)
    assert len(record) in TEXT_SIZES
    assert decode_text(record) == [Told(7, 40, 2, About.CGROUP, texts, bool(whole), 3, ROOT_MOUNT)]


def test_what_there_is_nothing_of_is_told_too() -> None:
    absent = 1 << About.CGROUP_V1 | 1 << About.ENVIRONMENT
    first, *others = decode_text(text(b"curl\0", about=About.EXECUTABLE, vpid=0, whole=0, nothing=absent))
    assert first == Told(7, 40, 2, About.EXECUTABLE, ("curl",), False, None, ROOT_MOUNT)
    assert others == [
        Told(7, 40, 2, about, (), True, None, ROOT_MOUNT) for about in (About.CGROUP_V1, About.ENVIRONMENT)
    ]


def test_a_text_longer_than_its_record_is_refused() -> None:
    with pytest.raises(struct.error):
        decode_text(text(b"x" * 300)[: TEXT.size + TEXT_BLOCK])
