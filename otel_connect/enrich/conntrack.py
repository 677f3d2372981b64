"""Messages of ctnetlink: ask for the connection with an original tuple, and read where it really goes. Pure.

A tuple is source and destination, as the first packet had them. After DNAT, the reply comes from the real backend:
the source of the reply tuple.
"""

import struct
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, IPPROTO_TCP, inet_ntop, inet_pton
from typing import NamedTuple

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_GENERIC = struct.Struct("!BBH")  # family, version, resource: struct nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_PORT = struct.Struct("!H")

_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_NEW = 1 << 8
_FAILED = 2  # NLMSG_ERROR
_REQUEST, _NESTED, _TYPE_MASK = 1, 1 << 15, 0x3FFF

_TUPLE_ORIGINAL, _TUPLE_REPLY, _TUPLE_IP, _TUPLE_PROTO = 1, 2, 1, 2
_IP_SOURCE = {AF_INET: 1, AF_INET6: 3}  # the destination's is one more
_PROTO_NUMBER, _PROTO_SOURCE, _PROTO_DESTINATION = 1, 2, 3


class Endpoint(NamedTuple):
    """An address and a port."""

    address: str
    port: int


class Answer(NamedTuple):
    """What the kernel says to a request."""

    sequence: int
    errno: int
    """0, or why there is no connection: ENOENT when none is known."""
    replies_from: Endpoint | None
    """Who really answers."""


def request(sequence: int, source: Endpoint, destination: Endpoint) -> bytes:
    """Ask for the TCP connection whose first packet went from one to the other."""
    family = AF_INET6 if ":" in destination.address else AF_INET
    kind = _IP_SOURCE[family]
    addresses = _attribute(kind, inet_pton(family, source.address)) + _attribute(
        kind + 1, inet_pton(family, destination.address)
    )
    protocol = (
        _attribute(_PROTO_NUMBER, bytes((IPPROTO_TCP,)))
        + _attribute(_PROTO_SOURCE, _PORT.pack(source.port))
        + _attribute(_PROTO_DESTINATION, _PORT.pack(destination.port))
    )
    parts = _attribute(_TUPLE_IP | _NESTED, addresses) + _attribute(_TUPLE_PROTO | _NESTED, protocol)
    body = _GENERIC.pack(family, 0, 0) + _attribute(_TUPLE_ORIGINAL | _NESTED, parts)
    return _HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST, sequence, 0) + body


def answer(message: bytes) -> Answer:
    """Read an answer; raises ValueError for what is none."""
    try:
        _, kind, _, sequence, _ = _HEADER.unpack_from(message)
        if kind == _FAILED:
            (error,) = _ERROR.unpack_from(message, _HEADER.size)
            return Answer(sequence, -error, None)
        if kind != _NEW:
            raise ValueError(f"a message of type {kind}")
        family = message[_HEADER.size]
        found = dict(_attributes(message[_HEADER.size + _GENERIC.size :]))
        reply = dict(_attributes(found[_TUPLE_REPLY]))
        address = dict(_attributes(reply[_TUPLE_IP]))[_IP_SOURCE[family]]  # type: ignore[index]  # an IntEnum is an int
        (port,) = _PORT.unpack(dict(_attributes(reply[_TUPLE_PROTO]))[_PROTO_SOURCE])
        return Answer(sequence, 0, Endpoint(inet_ntop(family, address), port))
    except (struct.error, LookupError) as error:
        raise ValueError("no whole message") from error


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < _ATTRIBUTE.size:
            raise ValueError("an attribute without a length")
        yield kind & _TYPE_MASK, data[place + _ATTRIBUTE.size : place + length]
        place += length + 3 & ~3
