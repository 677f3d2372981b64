"""Bytes of an IP packet → the segment of UDP or TCP in it. Pure.

Packets are not put together again: a fragment is a segment that is not whole. Checksums are not looked at:
outgoing ones are often left to the device, and what arrives damaged is not used by the program either.
"""

import struct
from socket import AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP
from typing import NamedTuple

from otel_connect.capture.layout import PACKET, ClockOffsets, address_text
from otel_connect.model import Segment

_V4 = struct.Struct("!BxHxxHxBxx4s4s")
_V6 = struct.Struct("!4xHBx16s16s")
_UDP = struct.Struct("!HHHxx")
_TCP = struct.Struct("!HHI4xBBxx4x")
_TIME = struct.Struct("=Q")
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_FIN, _SYN, _RST = 1, 2, 4


class _Header(NamedTuple):
    """What a header of UDP or TCP says of its packet, whose payload goes from ``start`` to ``end``."""

    source_port: int
    destination_port: int
    start: int
    end: int
    whole: bool
    sequence: int = 0
    flags: int = 0


def packet_time(record: bytes) -> int:
    """Return the time of a ``struct otc_packet``, by CLOCK_MONOTONIC."""
    return int(_TIME.unpack_from(record)[0])


def decode_packet(record: bytes, clock: ClockOffsets) -> Segment | None:
    """Decode a ``struct otc_packet`` and the bytes that follow it; ``None`` unless they are of UDP or TCP."""
    at, start, pid, netns, header, family, length, outgoing, dialled = PACKET.unpack_from(record)
    packet = record[PACKET.size + header : PACKET.size + length]
    segment = decode_segment(packet, netns, at + clock.monotonic_ns, outgoing=bool(outgoing))
    if segment is None or not outgoing:
        return segment
    return segment._replace(process=(pid, start) if start else None, dialled=address_text(family, dialled))


def decode_segment(packet: bytes, netns: int, at_unix_ns: int, *, outgoing: bool) -> Segment | None:
    """Decode one packet that begins with its IP header; ``None`` unless it has a header of UDP or TCP."""
    try:
        if packet[0] >> 4 == 4:
            first, length, fragment, protocol, source, destination = _V4.unpack_from(packet)
            family, start = AF_INET, (first & 15) * 4
        else:
            length, protocol, source, destination = _V6.unpack_from(packet)
            family, start, fragment = AF_INET6, _V6.size, 0
            length += start
        body = packet[start:length]
        read = _HEADERS.get(protocol)
        header = None if read is None else read(body)
    except (IndexError, struct.error):
        return None
    if header is None:
        return None
    return Segment(
        netns,
        at_unix_ns,
        outgoing,
        tcp=protocol == IPPROTO_TCP,
        source=_text(family, source),
        source_port=header.source_port,
        destination=_text(family, destination),
        destination_port=header.destination_port,
        payload=body[header.start : header.end],
        sequence=header.sequence,
        syn=bool(header.flags & _SYN),
        over=bool(header.flags & (_FIN | _RST)),
        whole=header.whole and length <= len(packet) and not fragment & _FRAGMENT,
    )


def _udp(body: bytes) -> _Header:
    source_port, destination_port, end = _UDP.unpack_from(body)
    return _Header(source_port, destination_port, _UDP.size, end, _UDP.size <= end <= len(body))


def _tcp(body: bytes) -> _Header:
    source_port, destination_port, sequence, offset, flags = _TCP.unpack_from(body)
    start, end = (offset >> 4) * 4, len(body)
    return _Header(source_port, destination_port, start, end, _TCP.size <= start <= end, sequence, flags)


_HEADERS = {IPPROTO_UDP: _udp, IPPROTO_TCP: _tcp}


def _text(family: int, raw: bytes) -> str:
    return address_text(family, raw) or ""
