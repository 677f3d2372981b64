"""IP packets to segments, on packets that other code has made."""

import socket
import struct

import pytest

from otel_connect.capture.layout import PACKET, ClockOffsets
from otel_connect.capture.segments import decode_packet, decode_segment, packet_time
from otel_connect.model import Segment
from tests.support.lookups import datagram
from tests.support.packets import FIN, SYN, build_segment
from tests.support.packets import Segment as Built

ENDS = [(("10.0.0.1", 4000), ("10.0.0.2", 53)), (("fd00::1", 4000), ("fd00::2", 53))]


@pytest.mark.parametrize(("source", "destination"), ENDS)
def test_a_datagram(source: tuple[str, int], destination: tuple[str, int]) -> None:
    packet = datagram(source, destination, b"hello")
    expected = Segment(1, 2, True, False, *source, *destination, b"hello")
    assert decode_segment(packet, 1, 2, outgoing=True) == expected
    assert decode_segment(packet + b"padding", 1, 2, outgoing=True) == expected
    cut = decode_segment(packet[:-1], 1, 2, outgoing=True)
    assert cut is not None
    assert not cut.whole


@pytest.mark.parametrize(("source", "destination"), ENDS)
@pytest.mark.parametrize("flags", [0, SYN, FIN])
def test_a_piece_of_a_connection(source: tuple[str, int], destination: tuple[str, int], flags: int) -> None:
    packet = build_segment(Built(source[0], destination[0], source[1], destination[1], 77, 0, flags, b"hello"))
    assert decode_segment(packet, 1, 2, outgoing=False) == Segment(
        1, 2, False, True, *source, *destination, b"hello", 77, syn=flags == SYN, over=flags == FIN
    )


def test_a_fragment_is_not_whole() -> None:
    packet = bytearray(datagram(*ENDS[0], b"hello"))
    struct.pack_into("!H", packet, 6, 0x2000)
    found = decode_segment(bytes(packet), 1, 2, outgoing=True)
    assert found is not None
    assert not found.whole


@pytest.mark.parametrize("protocol", [socket.IPPROTO_ICMP, 0])
def test_other_protocols_are_left_out(protocol: int) -> None:
    packet = bytearray(datagram(*ENDS[0], b"hello"))
    packet[9] = protocol
    assert decode_segment(bytes(packet), 1, 2, outgoing=True) is None


CLOCK = ClockOffsets(monotonic_ns=1_000, boot_ns=7_000_000)
STARTED, PID, NETNS = 55, 12, 4_026_531_840


def packet_record(packet: bytes, *, ahead: bytes = b"", dialled: str | None = None, outgoing: bool = True) -> bytes:
    """Make what the probes put into the buffer for a packet whose bytes begin ``ahead`` of its IP header."""
    family = 0 if dialled is None else socket.AF_INET6 if ":" in dialled else socket.AF_INET
    address = b"" if dialled is None else socket.inet_pton(family, dialled)
    pid, started = (PID, STARTED) if outgoing else (0, 0)
    fields = 2, started, pid, NETNS, len(ahead), family, len(ahead + packet), outgoing, address
    return PACKET.pack(*fields) + ahead + packet


@pytest.mark.parametrize(("source", "destination"), ENDS)
@pytest.mark.parametrize("ahead", [b"", b"ethernet header"])
def test_what_the_probes_say_of_a_packet(source: tuple[str, int], destination: tuple[str, int], ahead: bytes) -> None:
    record = packet_record(datagram(source, destination, b"hello"), ahead=ahead, dialled=destination[0])
    assert packet_time(record) == 2
    padded = record + b"padding"  # records are as long as the buffer aligns them
    asked = Segment(NETNS, 1_002, True, False, *source, *destination, b"hello")
    asked = asked._replace(process=(PID, STARTED), dialled=destination[0])
    assert decode_packet(record, CLOCK) == decode_packet(padded, CLOCK) == asked
    answer = packet_record(datagram(destination, source, b"hello"), ahead=ahead, outgoing=False)
    assert decode_packet(answer, CLOCK) == Segment(NETNS, 1_002, False, False, *destination, *source, b"hello")


def test_who_asks_may_be_unknown_and_the_socket_connected_nowhere() -> None:
    packet = datagram(*ENDS[0], b"hello")
    fields = 2, 0, 0, NETNS, 0, 0, len(packet), True, b""
    found = decode_packet(PACKET.pack(*fields) + packet, CLOCK)
    assert found is not None
    assert (found.process, found.dialled) == (None, None)


def test_a_packet_that_is_longer_than_what_is_taken_of_it_is_not_whole() -> None:
    packet = datagram(*ENDS[0], b"hello")
    fields = 2, 0, 0, NETNS, 0, 0, len(packet) - 1, True, b""
    found = decode_packet(PACKET.pack(*fields) + packet[:-1] + b"padding", CLOCK)
    assert found is not None
    assert not found.whole


def test_a_packet_that_is_none_of_udp_or_tcp_is_left_out() -> None:
    assert decode_packet(packet_record(b"\x45" + bytes(39)), CLOCK) is None
    assert decode_packet(packet_record(b""), CLOCK) is None
