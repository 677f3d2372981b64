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

MESSAGE_BYTES = 4096
_RECORDS = 64
_ALIASES = 16
_LABELS = 512
_NAME_CHARACTERS = 253
_A, _CNAME, _AAAA, _IN = 1, 5, 28, 1
_LENGTHS = {_A: (AF_INET, 4), _AAAA: (AF_INET6, 16)}
_HEADER = struct.Struct("!HHHHHH")
_ANSWER, _OPERATION, _TRUNCATED, _CODE = 0x8000, 0x7800, 0x0200, 0x000F


class Ignored(StrEnum):
    """Why a message does not name an address."""

    MALFORMED = "malformed"
    """It is no DNS message, or one that is longer than is read."""
    TRUNCATED = "truncated"
    """It, or the packet that it came in, is not whole."""
    FAILED = "failed"
    """The name server found nothing, or refused."""
    NO_ADDRESS = "no_address"
    """It answers with no address at the end of its aliases."""
    UNSOLICITED = "unsolicited"
    """Nobody is known to have asked for it."""
    FORWARDED = "forwarded"
    """It belongs to a question that only passed through here."""


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
    """Read who a message belongs to; ``None`` unless it is a standard query for A or AAAA, or answers one."""
    if not _HEADER.size < len(message) <= MESSAGE_BYTES:
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
    if flags & _TRUNCATED:
        return Ignored.TRUNCATED
    if flags & _CODE:
        return Ignored.FAILED
    if records > _RECORDS:
        return Ignored.MALFORMED
    try:
        with dns.exception.ExceptionWrapper(dns.exception.FormError):  # type: ignore[no-untyped-call]
            name = dns.name.from_wire(question.name, 0)[0]
            aliases, addresses = _records(message, _HEADER.size + len(question.name) + 4, records, question.kind)
            text = name.to_text(omit_final_dot=True)
    except dns.exception.DNSException:
        return Ignored.MALFORMED
    if len(text) > _NAME_CHARACTERS:
        return Ignored.MALFORMED
    return _follow(text, name, aliases, addresses)


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


class _NameReader:
    """Reads names, of so many labels in all: one after another may be long, and cost milliseconds."""

    def __init__(self, parser: dns.wire.Parser) -> None:
        self._parser = parser
        self._left = _LABELS
        self._seen: dict[bytes, dns.name.Name] = {}

    def read(self) -> dns.name.Name:
        """Read a name; one that is only a pointer read before is free, as it mostly is."""
        pointer = self._parser.wire[self._parser.current : self._parser.current + 2]
        if pointer in self._seen:
            self._parser.get_bytes(2)
            return self._seen[pointer]
        if self._left <= 0:
            raise dns.exception.FormError
        name = dns.name.from_wire_parser(self._parser)
        self._left -= len(name.labels)
        if pointer[0] >= 0xC0:
            self._seen[pointer] = name
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
            found = tuple(address for address, _ in addresses[name])
            return Reply(text, found, min(ttls + [ttl for _, ttl in addresses[name]]))
        if name not in aliases:
            break
        name, ttl = aliases[name]
        ttls.append(ttl)
    return Ignored.NO_ADDRESS
