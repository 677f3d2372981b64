"""Lookups out of packets: what counts as an answer, and what never does."""

import random
import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.capture.segments import decode_segment
from otel_connect.enrich.dns import MESSAGE_BYTES, Ignored, Reply, read_question, read_reply
from otel_connect.enrich.lookups import Lookup, Lookups
from otel_connect.model import Segment
from tests.support.lookups import BEGAN, CLIENT, NETNS, SERVER, answer, answered, asked, datagram, question
from tests.support.soak import LongRun, by_length

MUTATED = by_length(full=1_000_000, short=20_000)
MOST_CALLS = 20_000  # of functions for one packet: a few milliseconds
SECOND = 1_000_000_000


def see(*segments: Segment) -> tuple[Lookups, list[Lookup]]:
    lookups = Lookups()
    return lookups, [found for segment in segments for found in lookups.see(segment) if isinstance(found.reply, Reply)]


def addresses(lookup: Lookup) -> tuple[str, ...]:
    assert isinstance(lookup.reply, Reply)
    return lookup.reply.addresses


def test_an_answer_to_a_question_is_a_lookup() -> None:
    ask = question("Web.Test")
    lookups, (found,) = see(asked(ask), answered(answer(ask, ("web.test", 300, "A", "10.9.9.9"))))
    assert found.netns == NETNS
    assert (found.process, found.at_unix_ns) == (None, BEGAN + 1)
    assert found.reply == Reply("web.test", ("10.9.9.9",), 300)
    assert not lookups.ignored


def test_aliases_are_followed_from_the_name_that_was_asked_for() -> None:
    ask = question("a.test", "AAAA")
    records = [
        ("c.test", 30, "AAAA", "fd00::1"),  # in any order
        ("b.test", 20, "CNAME", "c.test."),
        ("a.test", 60, "CNAME", "b.test."),
        ("stranger.test", 1, "AAAA", "fd00::2"),
    ]
    _, (found,) = see(asked(ask), answered(answer(ask, *records)))
    assert found.reply == Reply("a.test", ("fd00::1",), 20)


def test_aliases_that_go_round_end() -> None:
    ask = question("a.test")
    records = [("a.test", 1, "CNAME", "b.test."), ("b.test", 1, "CNAME", "a.test.")]
    lookups, found = see(asked(ask), answered(answer(ask, *records)))
    assert not found
    assert lookups.ignored == {Ignored.NO_ADDRESS: 1}


ASK = question()
RIGHT = answered(answer(ASK, ("web.test", 300, "A", "10.9.9.9")))
FORGED: dict[str, Callable[[], Segment]] = {
    "identifier": lambda: answered(answer(question(identifier=8), ("web.test", 300, "A", "10.9.9.9"))),
    "question": lambda: answered(answer(question("evil.test"), ("evil.test", 300, "A", "10.9.9.9"))),
    "type": lambda: answered(answer(question(kind="AAAA"), ("web.test", 300, "AAAA", "fd00::1"))),
    "server": lambda: RIGHT._replace(source="10.1.2.54"),
    "client": lambda: RIGHT._replace(destination="10.1.2.4"),
    "port": lambda: RIGHT._replace(destination_port=40_001),
    "namespace": lambda: RIGHT._replace(netns=NETNS + 1),
    "too late": lambda: RIGHT._replace(at_unix_ns=BEGAN + 11 * SECOND),
}


@pytest.mark.parametrize("forged", FORGED)
def test_an_answer_that_differs_in_anything_is_ignored(forged: str) -> None:
    lookups, found = see(asked(ASK), FORGED[forged]())
    assert not found
    assert lookups.ignored == {Ignored.UNSOLICITED: 1}


def test_the_first_answer_counts_and_no_second_one() -> None:
    second = answered(answer(ASK, ("web.test", 300, "A", "10.6.6.6")))
    _, found = see(asked(ASK), RIGHT, second)
    assert [addresses(one) for one in found] == [("10.9.9.9",)]


def test_an_answer_that_is_sent_from_here_is_none() -> None:
    _, found = see(asked(ASK), RIGHT._replace(outgoing=True))
    assert not found


def test_a_question_that_passes_through_is_not_of_here() -> None:
    incoming = asked(ASK, client=("172.17.0.2", 50_000))._replace(outgoing=False)
    lookups, found = see(incoming, RIGHT)
    assert not found
    assert lookups.ignored == {Ignored.UNSOLICITED: 1}


def test_a_lookup_is_of_the_process_that_asked() -> None:
    _, (found,) = see(asked(ASK, process=(12, 5)), RIGHT)
    assert found.process == (12, 5)


@pytest.mark.parametrize("dialled", [SERVER[0], "10.96.0.10"])
def test_an_answer_comes_from_where_the_question_went_or_from_where_its_socket_is_connected(dialled: str) -> None:
    question = asked(ASK)._replace(dialled="10.96.0.10")
    for source, found in ((SERVER[0], True), ("10.96.0.10", True), ("10.96.0.11", False)):
        assert bool(see(question, RIGHT._replace(source=source))[1]) is found
    moved = question._replace(destination_port=5353)
    for port, found in ((5353, True), (53, False), (54, False)):
        assert bool(see(moved, RIGHT._replace(source_port=port))[1]) is found
    assert len(see(question, RIGHT, RIGHT._replace(source=dialled))[1]) == 1, "once"


def many(count: int, *, kind: str = "A", distinct: bool = False) -> dns.message.Message:
    """Answer with so many addresses, each of a name of its own if they are to be distinct."""
    network = "10.9.{}.{}" if kind == "A" else "fd00::{:x}:{:x}"
    values = [network.format(number // 256, number % 256) for number in range(count)]
    made = dns.message.make_response(question(kind=kind))
    if distinct:
        made.answer = [dns.rrset.from_text(f"n{n}.test.", 1, "IN", kind, value) for n, value in enumerate(values)]
    else:
        made.answer = [dns.rrset.from_text("web.test.", 1, "IN", kind, *values)]
    return made


def written_out(message: dns.message.Message) -> bytes:
    """Write a message without any pointer."""
    wire = bytearray(message.to_wire()[: len(ASK.to_wire())])
    records = b"".join(
        name + struct.pack("!HHIH", one.rdtype, 1, one.ttl, len(data := item.to_wire())) + data
        for one in message.answer
        for item in one
        for name in (one.name.to_wire() or b"",)
    )
    wire[6:8] = struct.pack("!H", sum(map(len, message.answer)))
    return bytes(wire) + records


def refused(change: Callable[[dns.message.Message], Any]) -> Segment:
    message = answer(ASK, ("web.test", 300, "A", "10.9.9.9"))
    change(message)
    return answered(message)


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        (refused(lambda m: m.set_rcode(dns.rcode.NXDOMAIN)), Ignored.FAILED),
        (refused(lambda m: setattr(m, "flags", m.flags | dns.flags.TC)), Ignored.TRUNCATED),
        (refused(lambda m: setattr(m, "answer", [])), Ignored.NO_ADDRESS),
        (answered(many(257)), Ignored.TOO_LARGE),
        (answered(many(300, distinct=True)), Ignored.TOO_LARGE),
        (answered(many(1), padding=MESSAGE_BYTES), Ignored.TOO_LARGE),
        (RIGHT._replace(payload=RIGHT.payload[:-1]), Ignored.MALFORMED),
        (RIGHT._replace(whole=False), Ignored.TRUNCATED),
    ],
)
def test_answers_that_name_nothing_are_counted_by_reason(segment: Segment, reason: Ignored) -> None:
    lookups = Lookups()
    (begun, ended) = [found for one in (asked(ASK), segment) for found in lookups.see(one)]
    assert (begun.reply, ended.reply) == (None, reason)
    assert begun.question[:3] == ended.question[:3]
    assert lookups.ignored == {reason: 1}


@pytest.mark.parametrize("kind", ["A", "AAAA"])
@pytest.mark.parametrize("count", [60, 65, 256])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_answers_with_many_addresses_are_read(kind: str, count: int, compressed: bool, transport: str) -> None:
    ask = question(kind=kind)
    made = many(count, kind=kind)
    wire = made.to_wire() if compressed else written_out(made)
    if transport == "udp":
        segments = [asked(ask), answered(made, wire=wire)]
    else:
        message = struct.pack("!H", len(wire)) + wire
        segments = [*by_tcp([framed(ask)], outgoing=True), *by_tcp(cut(message, 1, 700, 2000), outgoing=False)]
    lookups, (found,) = see(*segments)
    assert set(addresses(found)) == {one.to_text() for one in made.answer[0]}
    assert len(addresses(found)) == count
    assert not lookups.ignored


def test_a_message_too_long_on_a_connection_is_counted_and_the_next_one_read() -> None:
    two = question("other.test", identifier=8)
    long = answered(many(1), padding=40_000).payload
    back = struct.pack("!H", len(long)) + long + framed(answer(two, ("other.test", 300, "A", "10.9.9.8")))
    for places in ((), (300,), (1, 511, 600, 40_000, 40_050)):
        lookups, (found,) = see(
            *by_tcp([framed(ASK) + framed(two)], outgoing=True), *by_tcp(cut(back, *places), outgoing=False)
        )
        assert addresses(found) == ("10.9.9.8",)
        assert lookups.ignored == {Ignored.TOO_LARGE: 1}


def test_questions_without_an_answer_are_counted() -> None:
    later = question("later.test", identifier=9)
    lookups, _ = see(asked(ASK), asked(later, at=BEGAN + 11 * SECOND))
    assert lookups.unanswered == 1
    lookups, _ = see(asked(ASK), RIGHT, asked(later, at=BEGAN + 11 * SECOND))
    assert lookups.unanswered == 0


def test_outstanding_questions_are_bounded() -> None:
    lookups, _ = see(*(asked(question(identifier=n % 65536), client=("10.1.2.3", 1024 + n % 50)) for n in range(9000)))
    assert lookups.unanswered == 9000 - 8192


def by_tcp(pieces: list[bytes], *, outgoing: bool, first: int = 0xFFFFFFF0) -> list[Segment]:
    ends = (CLIENT, SERVER) if outgoing else (SERVER, CLIENT)
    made = [Segment(NETNS, BEGAN, outgoing, True, *ends[0], *ends[1], b"", first, syn=True)]
    position = first + 1
    for piece in pieces:
        made.append(made[0]._replace(payload=piece, sequence=position & 0xFFFFFFFF, syn=False))
        position += len(piece)
    return made


def framed(message: dns.message.Message) -> bytes:
    wire = message.to_wire()
    return struct.pack("!H", len(wire)) + wire


def cut(data: bytes, *places: int) -> list[bytes]:
    ends = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(ends) if a != b]


@given(places=st.lists(st.integers(0, 1000), max_size=6), again=st.integers(0, 5))
def test_messages_of_a_connection_are_put_together_however_they_are_cut(places: list[int], again: int) -> None:
    two = question("other.test", identifier=8)
    answers = framed(answer(ASK, ("web.test", 300, "A", "10.9.9.9"))) + framed(
        answer(two, ("other.test", 300, "A", "10.9.9.8"))
    )
    back = by_tcp(cut(answers, *places), outgoing=False)
    back.insert(min(again, len(back) - 1) + 1, back[min(again, len(back) - 1)])  # one is sent again
    _, found = see(*by_tcp([framed(ASK) + framed(two)], outgoing=True), *back)
    assert [addresses(one) for one in found] == [("10.9.9.9",), ("10.9.9.8",)]


def test_a_connection_with_a_gap_names_nothing() -> None:
    back = by_tcp(cut(framed(answer(ASK, ("web.test", 300, "A", "10.9.9.9"))), 9, 20), outgoing=False)
    del back[2]
    _, found = see(*by_tcp([framed(ASK)], outgoing=True), *back)
    assert not found


@given(st.binary(max_size=600))
def test_any_bytes_are_read_without_an_error(noise: bytes) -> None:
    for outgoing in (False, True):
        segment = decode_segment(noise, NETNS, BEGAN, outgoing=outgoing)
        if segment is not None:
            see(asked(ASK), segment)
    see(asked(ASK), RIGHT._replace(payload=noise))
    if (read := read_question(noise)) is not None:
        read_reply(noise, read)


@given(st.lists(st.binary(min_size=1, max_size=63), min_size=1, max_size=6))
def test_names_are_printable_whatever_their_bytes(labels: list[bytes]) -> None:
    name = dns.name.Name([*labels, b""]) if sum(map(len, labels)) + len(labels) < 255 else dns.name.from_text("a.")
    ask = dns.message.make_query(name, "A", id=7)
    made = dns.message.make_response(ask)
    made.answer = [dns.rrset.from_text(name, 1, "IN", "A", "10.9.9.9")]
    lookups, found = see(asked(ask), answered(made))
    for one in found:
        assert isinstance(one.reply, Reply)
        assert one.reply.name.isascii()
        assert one.reply.name.isprintable()
        assert len(one.reply.name) <= 253
        assert dns.name.from_text(one.reply.name) == name
    assert len(found) + lookups.ignored[Ignored.MALFORMED] == 1


class Calls:
    """Counts the calls of functions while it is on."""

    def __init__(self) -> None:
        self.count = self.most = 0

    def __call__(self, _frame: object, event: str, _argument: object) -> None:
        self.count += event in {"call", "c_call"}

    def of(self, work: Callable[[], object]) -> None:
        self.count = 0
        sys.setprofile(self)
        try:
            work()
        finally:
            sys.setprofile(None)
        self.most = max(self.most, self.count)


def hostile() -> bytes:
    """Make the answer that takes most work: many aliases, each name of it as long and as scattered as may be."""
    name = b"\x01a" * 120
    body = struct.pack("!HHHHHH", 7, 0x8180, 1, 512, 0, 0) + name + b"\0" + struct.pack("!HH", 1, 1)
    for index in range(512):
        target = struct.pack("!H", 0xC000 | 12 + 2 * (index % 60))
        body += struct.pack("!HHHIH", 0xC00C, 5, 1, 1, len(target)) + target
    return body


def test_the_answer_that_takes_most_work_is_bounded() -> None:
    message = hostile()
    read = read_question(message)
    assert read is not None
    calls = Calls()
    calls.of(lambda: read_reply(message, read))
    assert 1000 < calls.most <= MOST_CALLS


def mutate(chance: random.Random, packet: bytes) -> bytes:
    changed = bytearray(packet)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(5):
            case 0 if changed:
                changed[place] ^= 1 << chance.randrange(8)
            case 1 if changed:
                changed[place] = chance.choice([0, 1, 0x3F, 0x40, 0xC0, 0xFF])
            case 2:
                del changed[place:]
            case 3:
                changed[place:place] = chance.randbytes(chance.randint(1, 40))
            case _:
                changed[place : place + chance.randint(1, 4)] = struct.pack("!H", 0xC000 | chance.randrange(0x200))
    return bytes(changed)


def belongs(packet: bytes, right: bytes) -> bool:
    """Say from the bytes alone whether a packet answers what was asked: ends, identifier and question are the same."""
    start, mine = (packet[0] & 15) * 4, 20
    header = start + 8
    question_bytes = len(ASK.to_wire()) - 12
    return (
        packet[12:20] == right[12:20]
        and packet[start : start + 4] == right[mine : mine + 4]
        and packet[header : header + 2] == right[28:30]
        and packet[header + 12 : header + 12 + question_bytes].lower() == right[40 : 40 + question_bytes].lower()
    )


@pytest.mark.timeout(by_length(full=1800, short=300))
def test_mutated_packets_raise_nothing_take_no_time_and_are_not_believed(long_run: LongRun) -> None:
    chance = random.Random(6)
    records = [("web.test", 20, "CNAME", "b.test."), ("b.test", 20, "A", "10.9.9.9"), ("b.test", 20, "A", "10.9.9.8")]
    right = datagram(SERVER, CLIENT, answer(ASK, *records).to_wire())
    calls = Calls()
    believed = wrong = 0
    for _ in range(MUTATED):
        packet = mutate(chance, right)
        found: list[Lookup] = []

        def read(packet: bytes = packet, found: list[Lookup] = found) -> None:
            segment = decode_segment(packet, NETNS, BEGAN + 1, outgoing=False)
            found += see(asked(ASK), *([] if segment is None else [segment]))[1]

        calls.of(read)
        believed += len(found)
        wrong += bool(found) and not belongs(packet, right)
    long_run(f"{MUTATED} mutated answers of a name server", f"{believed} named, {wrong} that nobody asked for")
    assert believed, "mutations of what is not compared leave an answer"
    assert not wrong
    assert calls.most <= MOST_CALLS
