"""Questions and answers of name servers as packets, made by dnspython."""

import struct
from ipaddress import ip_address
from socket import IPPROTO_UDP

import dns.message
import dns.rdatatype
import dns.rrset

from otel_connect.capture.segments import decode_segment
from otel_connect.model import Segment

NETNS = 4_026_531_840
CLIENT, SERVER = ("10.1.2.3", 40_000), ("10.1.2.53", 53)
BEGAN = 1_700_000_000_000_000_000


def question(name: str = "web.test", kind: str = "A", identifier: int = 7) -> dns.message.Message:
    """Ask for the addresses of a name."""
    return dns.message.make_query(name, kind, id=identifier)


def answer(asked: dns.message.Message, *records: tuple[str, int, str, str]) -> dns.message.Message:
    """Answer with records: name, TTL, type, value."""
    made = dns.message.make_response(asked)
    made.answer = [dns.rrset.from_text(f"{name}.", ttl, "IN", kind, value) for name, ttl, kind, value in records]
    return made


def datagram(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """Build an IP packet with a UDP datagram, without checksums."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    ends = ip_address(source[0]).packed + ip_address(destination[0]).packed
    if len(ends) == 8:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, IPPROTO_UDP, 0) + ends + udp
    return struct.pack("!IHBB", 6 << 28, len(udp), IPPROTO_UDP, 64) + ends + udp


def asked(
    message: dns.message.Message,
    *,
    at: int = BEGAN,
    client: tuple[str, int] = CLIENT,
    process: tuple[int, int] | None = None,
) -> Segment:
    """Make the packet in which a client, a process if it is known, sends a question."""
    packet = datagram(client, SERVER, message.to_wire())
    segment = decode_segment(packet, NETNS, at, outgoing=True)
    assert segment is not None
    return segment._replace(process=process)


def answered(
    message: dns.message.Message,
    *,
    at: int = BEGAN + 1,
    client: tuple[str, int] = CLIENT,
    wire: bytes | None = None,
    padding: int = 0,
) -> Segment:
    """Make the packet in which a client gets an answer: written in another way, or followed by zeros, on demand."""
    packet = datagram(SERVER, client, (wire or message.to_wire()) + bytes(padding))
    segment = decode_segment(packet, NETNS, at, outgoing=False)
    assert segment is not None
    return segment
