"""Segments to and from port 53 → lookups: answers that belong to a question seen before, and nothing else. Pure.

Whoever may send packets may send answers that nobody asked for; so an answer has to match in everything that a
resolver compares: both addresses, both ports, the identifier and the question.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from cachetools import LRUCache

from otel_connect.enrich.dns import MESSAGE_BYTES, Ignored, Question, Reply, read_question, read_reply
from otel_connect.model import Segment

_WAIT_NS = 10_000_000_000
_OUTSTANDING = 8192
_STREAMS = 256


class Lookup(NamedTuple):
    """A name that somebody asked for, and the addresses that it was told."""

    netns: int
    client: tuple[str, int]
    """Address and port of who asked."""
    server: str
    at_unix_ns: int
    reply: Reply


class _Key(NamedTuple):
    netns: int
    tcp: bool
    client: str
    client_port: int
    server: str
    identifier: int
    name: bytes
    kind: int


class _Asked:
    __slots__ = ("answered", "at")

    def __init__(self, at: int) -> None:
        self.at = at
        self.answered = False


class _Stream:
    __slots__ = ("buffer", "next")

    def __init__(self, following: int) -> None:
        self.next = following
        self.buffer = b""


class Lookups:
    """Matches answers to questions; all it remembers is bounded by number and by time."""

    def __init__(self) -> None:
        self._asked: dict[_Key, _Asked] = {}
        self._passing: LRUCache[tuple[int, int, bytes, int], int] = LRUCache(_OUTSTANDING)
        self._streams: LRUCache[tuple[int, str, int, str, int], _Stream] = LRUCache(_STREAMS)
        self.unanswered = 0
        """Questions that got no answer in time."""
        self.ignored: Counter[Ignored] = Counter()
        """Answers that name nothing, by reason."""

    def see(self, segment: Segment) -> Iterator[Lookup]:
        """Take one packet; give the lookups that it completes."""
        self._forget(segment.at_unix_ns)
        if segment.tcp:
            for message in self._messages(segment):
                yield from self._message(segment, message)
        elif segment.whole:
            yield from self._message(segment, segment.payload)
        elif not segment.outgoing and segment.source_port == 53:
            self.ignored[Ignored.TRUNCATED] += 1

    def _message(self, segment: Segment, message: bytes) -> Iterator[Lookup]:
        question = read_question(message)
        if question is None:
            return
        if not question.is_answer:
            self._question(segment, question)
        elif segment.source_port == 53 and not segment.outgoing:
            found = self._answer(segment, message, question)
            if isinstance(found, Lookup):
                yield found
            elif found is not None:
                self.ignored[found] += 1

    def _question(self, segment: Segment, question: Question) -> None:
        if segment.destination_port != 53:
            return
        passing = segment.netns, *question[:3]
        if not segment.outgoing:
            self._passing[passing] = segment.at_unix_ns
            return
        key = _key(segment, question, segment.source, segment.source_port, segment.destination)
        if segment.at_unix_ns - self._passing.get(passing, -_WAIT_NS) < _WAIT_NS:
            self.ignored[Ignored.FORWARDED] += key not in self._asked
            return
        if key not in self._asked:
            if len(self._asked) >= _OUTSTANDING:
                self._drop(next(iter(self._asked)))
            self._asked[key] = _Asked(segment.at_unix_ns)

    def _answer(self, segment: Segment, message: bytes, question: Question) -> Lookup | Ignored | None:
        key = _key(segment, question, segment.destination, segment.destination_port, segment.source)
        asked = self._asked.get(key)
        if asked is None:
            return Ignored.UNSOLICITED
        if asked.answered:
            return None  # seen a second time, as it goes through a bridge, say
        asked.answered = True
        reply = read_reply(message, question)
        if isinstance(reply, Ignored):
            return reply
        return Lookup(segment.netns, (key.client, key.client_port), key.server, segment.at_unix_ns, reply)

    def _forget(self, now: int) -> None:
        """Forget what has waited too long; what was asked first stands first."""
        while self._asked:
            first = next(iter(self._asked))
            if 0 <= now - self._asked[first].at <= _WAIT_NS:
                return
            self._drop(first)

    def _drop(self, key: _Key) -> None:
        self.unanswered += not self._asked.pop(key).answered

    def _messages(self, segment: Segment) -> Iterator[bytes]:
        """Put the messages of a connection together: each stands behind its length. What is out of order ends it."""
        place = segment.netns, segment.source, segment.source_port, segment.destination, segment.destination_port
        if segment.syn:
            self._streams[place] = _Stream(segment.sequence + 1 & 0xFFFFFFFF)
            return
        stream = self._streams.get(place)
        if stream is None:
            return
        if segment.payload and segment.sequence == stream.next:
            stream.next = segment.sequence + len(segment.payload) & 0xFFFFFFFF
            stream.buffer += segment.payload
            while len(stream.buffer) >= 2:
                length = int.from_bytes(stream.buffer[:2], "big")
                if len(stream.buffer) < 2 + length:
                    break
                yield stream.buffer[2 : 2 + length]
                stream.buffer = stream.buffer[2 + length :]
            if not segment.whole or len(stream.buffer) > MESSAGE_BYTES:
                self._streams.pop(place, None)
        elif segment.payload and (segment.sequence - stream.next) & 0x80000000 == 0:
            self._streams.pop(place, None)  # a piece is missing; one that came before is only sent again
        if segment.over:
            self._streams.pop(place, None)


def _key(segment: Segment, question: Question, client: str, client_port: int, server: str) -> _Key:
    return _Key(segment.netns, segment.tcp, client, client_port, server, *question[:3])
