"""The scripted peer's packets: golden bytes, checksums, and that parsing undoes building."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from tests.support.packets import (
    ACK,
    SYN,
    Segment,
    build_icmp_error,
    build_segment,
    checksum,
    parse_segment,
    pseudo_header,
)

# A SYN that Linux sent over a TUN device (MSS, SACK, timestamps, window scale).
LINUX_SYN = bytes.fromhex(
    "4500003c4f024000400667b6c0000201c0000202"
    "9ae04e216dc1992500000000a002faf0fee10000020405b40402080ae8e1f15b000000000103030a"
)

_PORTS = st.integers(0, 0xFFFF)
_NUMBERS = st.integers(0, 0xFFFFFFFF)


def _segments(addresses: st.SearchStrategy[str]) -> st.SearchStrategy[Segment]:
    return st.builds(
        Segment,
        source=addresses,
        destination=addresses,
        source_port=_PORTS,
        destination_port=_PORTS,
        sequence=_NUMBERS,
        acknowledgement=_NUMBERS,
        flags=st.integers(0, 0x3F),
        payload=st.binary(max_size=50),
    )


SEGMENTS = st.one_of(
    _segments(st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))),
    _segments(st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))),
)


def _transport(packet: bytes) -> bytes:
    return packet[20:] if packet[0] >> 4 == 4 else packet[40:]


def test_the_checksum_of_the_example_in_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_an_odd_last_byte_is_padded_with_zero() -> None:
    assert checksum(b"\x12\x34\x56") == checksum(b"\x12\x34\x56\x00")


def test_a_syn_of_linux_is_read() -> None:
    assert parse_segment(LINUX_SYN) == Segment("192.0.2.1", "192.0.2.2", 0x9AE0, 20001, 0x6DC19925, 0, SYN, payload=b"")


def test_the_checksums_of_a_syn_of_linux_are_ours() -> None:
    assert checksum(LINUX_SYN[:20]) == 0
    assert checksum(pseudo_header("192.0.2.1", "192.0.2.2", 6, 40) + LINUX_SYN[20:]) == 0


def test_golden_syn_ack() -> None:
    segment = Segment("192.0.2.2", "192.0.2.1", 80, 40000, 1, 2, SYN | ACK)
    assert build_segment(segment).hex() == (
        "450000280000" + "0000" + "4006" + "f6cc" + "c0000202" + "c0000201"
        "0050" + "9c40" + "00000001" + "00000002" + "5012" + "ffff" + "8f3b" + "0000"
    )


@given(SEGMENTS)
def test_parsing_undoes_building(segment: Segment) -> None:
    assert parse_segment(build_segment(segment)) == segment


@given(SEGMENTS)
def test_every_checksum_of_a_segment_sums_to_zero(segment: Segment) -> None:
    packet = build_segment(segment)
    body = _transport(packet)
    assert checksum(pseudo_header(segment.source, segment.destination, 6, len(body)) + body) == 0
    assert packet[0] >> 4 == 6 or checksum(packet[:20]) == 0


@given(SEGMENTS, st.integers(0, 255), st.integers(0, 255))
def test_an_icmp_error_quotes_the_packet_and_goes_back(segment: Segment, kind: int, code: int) -> None:
    packet = build_segment(segment)
    error = build_icmp_error(packet, kind, code)
    body = _transport(error)
    assert (body[0], body[1], body[8:]) == (kind, code, packet)
    if error[0] >> 4 == 4:
        assert error[9] == 1
        assert error[12:20] == packet[16:20] + packet[12:16]
        assert checksum(body) == 0
    else:
        assert error[6] == 58
        assert error[8:40] == packet[24:40] + packet[8:24]
        header = pseudo_header(segment.destination, segment.source, 58, len(body))
        assert checksum(header + body) == 0


@given(st.one_of(st.binary(max_size=80), st.builds(lambda cut: LINUX_SYN[:cut], st.integers(0, 39))))
def test_what_is_no_whole_segment_is_none_or_parses(packet: bytes) -> None:
    parsed = parse_segment(packet)
    assert parsed is None or len(parsed.payload) <= len(packet) - 40
