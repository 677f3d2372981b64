"""Bytes of an IP packet → the segment of UDP or TCP in it. Pure.

Packets are not put together again: a fragment is a segment that is not whole. Checksums are not looked at:
outgoing ones are often left to the device, and what arrives damaged is not used by the program either.
"""

import struct
from socket import AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP

from otel_connect.capture.layout import address_text
from otel_connect.model import Segment

_V4 = struct.Struct("!BxHxxHxBxx4s4s")
_V6 = struct.Struct("!4xHBx16s16s")
_UDP = struct.Struct("!HHHxx")
_TCP = struct.Struct("!HHI4xBBxx4x")
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_FIN, _SYN, _RST = 1, 2, 4


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
        whole = length <= len(packet) and not fragment & _FRAGMENT
        places = _text(family, source), _text(family, destination)
        body = packet[start:length]
        if protocol == IPPROTO_UDP:
            return _udp(body, netns, at_unix_ns, places, outgoing=outgoing, whole=whole)
        if protocol == IPPROTO_TCP:
            return _tcp(body, netns, at_unix_ns, places, outgoing=outgoing, whole=whole)
    except (IndexError, struct.error):
        pass
    return None


def _udp(body: bytes, netns: int, at: int, places: tuple[str, str], *, outgoing: bool, whole: bool) -> Segment:
    source_port, port, length = _UDP.unpack_from(body)
    return Segment(
        netns,
        at,
        outgoing,
        tcp=False,
        source=places[0],
        source_port=source_port,
        destination=places[1],
        destination_port=port,
        payload=body[_UDP.size : length],
        whole=whole and _UDP.size <= length <= len(body),
    )


def _tcp(body: bytes, netns: int, at: int, places: tuple[str, str], *, outgoing: bool, whole: bool) -> Segment:
    source_port, port, sequence, offset, flags = _TCP.unpack_from(body)
    start = (offset >> 4) * 4
    return Segment(
        netns,
        at,
        outgoing,
        tcp=True,
        source=places[0],
        source_port=source_port,
        destination=places[1],
        destination_port=port,
        payload=body[start:],
        sequence=sequence,
        syn=bool(flags & _SYN),
        over=bool(flags & (_FIN | _RST)),
        whole=whole and _TCP.size <= start <= len(body),
    )


def _text(family: int, raw: bytes) -> str:
    return address_text(family, raw) or ""
