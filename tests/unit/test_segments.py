"""IP packets to segments, on packets that other code has made."""

import socket
import struct

import pytest

from otel_connect.capture.segments import decode_segment
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
