"""TCP segments and ICMP errors as raw IP packets: built and parsed by pure functions.

Only what a scripted peer needs: whole packets, no IP options, no fragments, no extension headers.
"""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_WINDOW = 65_535
_HOPS = 64
# RFC 4443: as much of the packet as fits the smallest IPv6 MTU. RFC 1812: 576 bytes in all.
_QUOTED = {4: 576 - 28, 6: 1280 - 48}


class Segment(NamedTuple):
    """A TCP segment with the addresses of the packet that carried it; numbers in host order."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    flags: int
    payload: bytes = b""


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071): over data that holds its own checksum it is 0."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """Return what TCP and ICMPv6 put before the data when they sum (RFC 9293, RFC 8200)."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    if len(addresses) == 8:
        return addresses + struct.pack("!BBH", 0, protocol, length)
    return addresses + struct.pack("!IHBB", length, 0, 0, protocol)


def build_segment(segment: Segment) -> bytes:
    """Return the IP packet of a segment, without TCP options, IPv4 or IPv6 as its addresses are."""

    def pack(summed: int) -> bytes:
        return (
            struct.pack(
                "!HHIIBBHHH",
                segment.source_port,
                segment.destination_port,
                segment.sequence & 0xFFFFFFFF,
                segment.acknowledgement & 0xFFFFFFFF,
                5 << 4,
                segment.flags,
                _WINDOW,
                summed,
                0,
            )
            + segment.payload
        )

    body = pack(0)
    header = pseudo_header(segment.source, segment.destination, _TCP, len(body))
    return _packet(segment.source, segment.destination, _TCP, pack(checksum(header + body)))


def parse_segment(packet: bytes) -> Segment | None:
    """Return the TCP segment in an IP packet, or ``None`` if it holds something else."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 40 and packet[9] == _TCP:
        start, end = (packet[0] & 0xF) * 4, struct.unpack_from("!H", packet, 2)[0]
        source, destination = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
    elif version == 6 and len(packet) >= 60 and packet[6] == _TCP:
        start, end = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
        source, destination = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
    else:
        return None
    if min(end, len(packet)) - start < 20:
        return None
    ports_and_numbers: tuple[int, int, int, int] = struct.unpack_from("!HHII", packet, start)
    offset, flags = packet[start + 12] >> 4, packet[start + 13]
    return Segment(source, destination, *ports_and_numbers, flags, packet[start + offset * 4 : end])


def build_icmp_error(packet: bytes, kind: int, code: int) -> bytes:
    """Return the ICMP or ICMPv6 error (type, code) that answers a packet, from the packet's destination."""
    version = packet[0] >> 4
    quoted = packet[: _QUOTED[version]]

    def pack(summed: int) -> bytes:
        return struct.pack("!BBHI", kind, code, summed, 0) + quoted

    if version == 4:
        source, destination = str(IPv4Address(packet[16:20])), str(IPv4Address(packet[12:16]))
        return _packet(source, destination, _ICMP, pack(checksum(pack(0))))
    source, destination = str(IPv6Address(packet[24:40])), str(IPv6Address(packet[8:24]))
    body = pack(0)
    header = pseudo_header(source, destination, _ICMPV6, len(body))
    return _packet(source, destination, _ICMPV6, pack(checksum(header + body)))


def _packet(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """Put an IP header before a body."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    if len(addresses) == 32:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, _HOPS) + addresses + body

    def header(summed: int) -> bytes:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, _HOPS, protocol, summed) + addresses

    return header(checksum(header(0))) + body
