"""Bytes of DNS messages → questions and replies, for what is needed to name a peer. Pure.

What strangers send is read here, so everything is bounded: the length of a message, the records and the steps of
a chain of aliases. Of a message only the header and the question are looked at, until it is known that somebody
asked for it.
"""

import struct
from collections.abc import Mapping
from enum import StrEnum
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

import dns.exception
import dns.name
import dns.wire

MESSAGE_BYTES = 16_384
"""A longer message is not read: 256 addresses fit into one, whatever their version and with their names written out."""
_ADDRESSES = 256
_RECORDS = 512
_ALIASES = 16
_LABELS = 512
_NAME_CHARACTERS = 253
A, AAAA = 1, 28
"""Kinds of questions."""
_CNAME, _IN = 5, 1
_LENGTHS = {A: (AF_INET, 4), AAAA: (AF_INET6, 16)}
_HEADER = struct.Struct("!HHHHHH")
_ANSWER, _OPERATION, _TRUNCATED, _CODE = 0x8000, 0x7800, 0x0200, 0x000F


class Ignored(StrEnum):
    """Why a message does not name an address."""

    MALFORMED = "malformed"
    """It is no DNS message."""
    TOO_LARGE = "too_large"
    """It is longer, or has more addresses or names, than are read."""
    TRUNCATED = "truncated"
    """It, or the packet that it came in, is not whole."""
    FAILED = "failed"
    """The name server found nothing, or refused."""
    NO_ADDRESS = "no_address"
    """It answers with no address at the end of its aliases."""
    UNSOLICITED = "unsolicited"
    """Nobody is known to have asked for it."""


UNREAD = frozenset({Ignored.MALFORMED, Ignored.TOO_LARGE, Ignored.TRUNCATED})
"""With these, a message may have told addresses to whoever asked."""


class Question(NamedTuple):
    """What a message asks, or answers to."""

    identifier: int
    name: bytes
    """In wire format, in lower case."""
    kind: int
    is_answer: bool


class Reply(NamedTuple):
    """The addresses that a name was found to have."""

    name: str
    """The one that was asked for, in lower case and without the last dot; what is not ASCII is escaped."""
    addresses: tuple[str, ...]
    ttl_s: int
    """The least of all records that led to them."""


def read_question(message: bytes) -> Question | None:
    """Read who a message belongs to; ``None`` unless it is a standard query for A or AAAA, or answers one.

    The beginning of a message is enough.
    """
    if len(message) <= _HEADER.size:
        return None
    identifier, flags, questions, *_ = _HEADER.unpack_from(message)
    if flags & _OPERATION or questions != 1:
        return None
    end = _HEADER.size
    while end < len(message) and (length := message[end]):
        if length > 63 or end > _HEADER.size + _NAME_CHARACTERS:  # a pointer has nothing to point to here
            return None
        end += 1 + length
    fixed = message[end + 1 : end + 5]
    if len(fixed) < 4 or end == _HEADER.size:
        return None
    kind, group = struct.unpack("!HH", fixed)
    if kind not in _LENGTHS or group != _IN:
        return None
    # The lengths of labels are less than the code of any letter.
    return Question(identifier, message[_HEADER.size : end + 1].lower(), kind, bool(flags & _ANSWER))


def read_reply(message: bytes, question: Question) -> Reply | Ignored:
    """Read the addresses of the name asked for out of an answer to this question."""
    _, flags, _, records, *_ = _HEADER.unpack_from(message)
    if why := _not_to_be_read(flags, records, len(message)):
        return why
    try:
        with dns.exception.ExceptionWrapper(dns.exception.FormError):  # type: ignore[no-untyped-call]
            name = dns.name.from_wire(question.name, 0)[0]
            aliases, addresses = _records(message, _HEADER.size + len(question.name) + 4, records, question.kind)
            text = name.to_text(omit_final_dot=True)
    except _TooMuch:
        return Ignored.TOO_LARGE
    except dns.exception.DNSException:
        return Ignored.MALFORMED
    return _follow(text, name, aliases, addresses) if len(text) <= _NAME_CHARACTERS else Ignored.MALFORMED


def _not_to_be_read(flags: int, records: int, length: int) -> Ignored | None:
    if flags & _TRUNCATED:
        return Ignored.TRUNCATED
    if flags & _CODE:
        return Ignored.FAILED
    return Ignored.TOO_LARGE if records > _RECORDS or length > MESSAGE_BYTES else None


_Aliases = dict[dns.name.Name, tuple[dns.name.Name, int]]
_Addresses = dict[dns.name.Name, list[tuple[str, int]]]


def _records(message: bytes, start: int, count: int, kind: int) -> tuple[_Aliases, _Addresses]:
    aliases: _Aliases = {}
    addresses: _Addresses = {}
    parser = dns.wire.Parser(message, start)
    names = _NameReader(parser)
    for _ in range(count):
        owner = names.read()
        record, group, ttl, length = parser.get_struct("!HHIH")
        with parser.restrict_to(length):
            if group == _IN and record == _CNAME:
                aliases[owner] = names.read(), ttl
            elif group == _IN and record == kind and length == _LENGTHS[kind][1]:
                text = inet_ntop(_LENGTHS[kind][0], parser.get_bytes(length))
                addresses.setdefault(owner, []).append((text, ttl))
            else:
                parser.get_remaining()
    return aliases, addresses


class _TooMuch(dns.exception.FormError):
    """There is more in a message than is read."""


class _NameReader:
    """Reads names, of so many labels in all: one after another may be long, and cost milliseconds."""

    def __init__(self, parser: dns.wire.Parser) -> None:
        self._parser = parser
        self._left = _LABELS
        self._pointed: dict[bytes, dns.name.Name] = {}
        self._latest = b"", dns.name.root

    def read(self) -> dns.name.Name:
        """Read a name; free are a pointer that was read before and a repeated name, and most are one of these."""
        wire, start = self._parser.wire, self._parser.current
        pointer = wire[start : start + 2]
        if pointer in self._pointed:
            self._parser.get_bytes(2)
            return self._pointed[pointer]
        raw, name = self._latest
        if raw and wire.startswith(raw, start):
            self._parser.get_bytes(len(raw))
            return name
        if self._left <= 0:
            raise _TooMuch
        name = dns.name.from_wire_parser(self._parser)
        self._left -= len(name.labels)
        if pointer[0] >= 0xC0:
            self._pointed[pointer] = name
        elif self._parser.current - start > 1:
            self._latest = wire[start : self._parser.current], name
        return name


def _follow(
    text: str,
    name: dns.name.Name,
    aliases: Mapping[dns.name.Name, tuple[dns.name.Name, int]],
    addresses: Mapping[dns.name.Name, list[tuple[str, int]]],
) -> Reply | Ignored:
    """Follow the aliases from the name asked for to the addresses at their end; names compare without case."""
    ttls: list[int] = []
    for _ in range(_ALIASES):
        if name in addresses:
            if len(addresses[name]) > _ADDRESSES:
                return Ignored.TOO_LARGE
            found = tuple(address for address, _ in addresses[name])
            return Reply(text, found, min(ttls + [ttl for _, ttl in addresses[name]]))
        if name not in aliases:
            break
        name, ttl = aliases[name]
        ttls.append(ttl)
    return Ignored.NO_ADDRESS
