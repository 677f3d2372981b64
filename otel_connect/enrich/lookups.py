"""Segments to and from name servers → lookups: answers that belong to a question seen before, and nothing else. Pure.

Whoever may send packets may send answers that nobody asked for; so an answer has to match in everything that a
resolver compares: both addresses, both ports, the identifier and the question.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from cachetools import LRUCache

from otel_connect.enrich.dns import MESSAGE_BYTES, Ignored, Question, Reply, read_question, read_reply
from otel_connect.model import Segment

_PORT = 53
_WAIT_NS = 10_000_000_000
_OUTSTANDING = 8192
_STREAMS = 256
_BEGINNING = 512
"""Of a message: its question is in it."""


class Lookup(NamedTuple):
    """A name that somebody asks for, and what is known of the answer."""

    netns: int
    process: tuple[int, int] | None
    """Who asked; see ``Segment``."""
    at_unix_ns: int
    question: Question
    reply: Reply | Ignored | None
    """The addresses, or why there are none; ``None``: it was only just asked."""


class _Key(NamedTuple):
    netns: int
    tcp: bool
    client: str
    client_port: int
    server: tuple[str, int]
    identifier: int
    name: bytes
    kind: int


class _Asked:
    __slots__ = ("answered", "at", "process")

    def __init__(self, at: int, process: tuple[int, int] | None) -> None:
        self.at = at
        self.process = process
        self.answered = False


class _Stream:
    __slots__ = ("_buffer", "_skip", "next")

    def __init__(self, following: int) -> None:
        self.next = following
        self._buffer = b""
        self._skip = 0  # bytes still to come of a message that is too long

    def take(self, payload: bytes) -> Iterator[tuple[bytes, bool]]:
        """Take what came next; give the messages that it completes, and whether they are whole."""
        self._buffer += payload[self._skip :]
        self._skip -= min(self._skip, len(payload))
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            kept = length if length <= MESSAGE_BYTES else _BEGINNING
            if len(self._buffer) < 2 + kept:
                return
            yield self._buffer[2 : 2 + kept], kept == length
            self._skip = max(0, 2 + length - len(self._buffer))
            self._buffer = self._buffer[2 + length :]


class Lookups:
    """Matches answers to questions; all it remembers is bounded by number and by time."""

    def __init__(self) -> None:
        self._asked: dict[_Key, _Asked] = {}
        self._streams: LRUCache[tuple[int, str, int, str, int], _Stream] = LRUCache(_STREAMS)
        self.unanswered = 0
        """Questions that got no answer in time."""
        self.ignored: Counter[Ignored] = Counter()
        """Answers that name nothing, by reason."""

    def see(self, segment: Segment) -> Iterator[Lookup]:
        """Take one packet; give the look-ups that it begins, and those that it ends."""
        self._forget(segment.at_unix_ns)
        if segment.tcp:
            for message, whole in self._messages(segment):
                yield from self._message(segment, message, None if whole else Ignored.TOO_LARGE)
        else:
            yield from self._message(segment, segment.payload, None if segment.whole else Ignored.TRUNCATED)

    def _message(self, segment: Segment, message: bytes, cut: Ignored | None) -> Iterator[Lookup]:
        """Take a message; ``cut`` says why there is only the beginning of it."""
        question = read_question(message)
        if question is None:
            if cut and not segment.outgoing:
                self.ignored[cut] += 1
        elif segment.outgoing and not question.is_answer:
            yield from self._question(segment, question)
        elif question.is_answer and not segment.outgoing:
            yield from self._answer(segment, message, question, cut)

    def _question(self, segment: Segment, question: Question) -> Iterator[Lookup]:
        """Wait for an answer from where the packet goes to, and from where the socket is connected to."""
        servers = {(segment.destination, segment.destination_port)}
        if segment.dialled is not None:
            servers.add((segment.dialled, _PORT))
        keys = [_key(segment, question, segment.source, segment.source_port, server) for server in servers]
        if any(key in self._asked for key in keys):
            return
        asked = _Asked(segment.at_unix_ns, segment.process)
        for key in keys:
            if len(self._asked) >= _OUTSTANDING:
                self._drop(next(iter(self._asked)))
            self._asked[key] = asked
        yield _lookup(segment, asked, question, None)

    def _answer(self, segment: Segment, message: bytes, question: Question, cut: Ignored | None) -> Iterator[Lookup]:
        key = _key(
            segment, question, segment.destination, segment.destination_port, (segment.source, segment.source_port)
        )
        asked = self._asked.get(key)
        if asked is None:
            self.ignored[Ignored.UNSOLICITED] += 1
        elif not asked.answered:  # else it is seen a second time, as it goes through a bridge, say
            asked.answered = True
            reply = cut or read_reply(message, question)
            if isinstance(reply, Ignored):
                self.ignored[reply] += 1
            yield _lookup(segment, asked, question, reply)

    def _forget(self, now: int) -> None:
        """Forget what has waited too long; what was asked first stands first."""
        while self._asked:
            first = next(iter(self._asked))
            if 0 <= now - self._asked[first].at <= _WAIT_NS:
                return
            self._drop(first)

    def _drop(self, key: _Key) -> None:
        self.unanswered += not self._asked.pop(key).answered

    def _messages(self, segment: Segment) -> Iterator[tuple[bytes, bool]]:
        """Put the messages of a connection together: each stands behind its length. What is out of order ends it.

        Gives each with whether it is whole: of one that is too long only the beginning is kept.
        """
        place = segment.netns, segment.source, segment.source_port, segment.destination, segment.destination_port
        if segment.syn:
            self._streams[place] = _Stream(segment.sequence + 1 & 0xFFFFFFFF)
            return
        stream = self._streams.get(place)
        if stream is None:
            return
        if segment.payload and segment.sequence == stream.next:
            stream.next = segment.sequence + len(segment.payload) & 0xFFFFFFFF
            yield from stream.take(segment.payload)
            if not segment.whole:
                self._streams.pop(place, None)
        elif segment.payload and (segment.sequence - stream.next) & 0x80000000 == 0:
            self._streams.pop(place, None)  # a piece is missing; one that came before is only sent again
        if segment.over:
            self._streams.pop(place, None)


def _lookup(segment: Segment, asked: _Asked, question: Question, reply: Reply | Ignored | None) -> Lookup:
    return Lookup(segment.netns, asked.process, segment.at_unix_ns, question, reply)


def _key(segment: Segment, question: Question, client: str, client_port: int, server: tuple[str, int]) -> _Key:
    return _Key(segment.netns, segment.tcp, client, client_port, server, *question[:3])
