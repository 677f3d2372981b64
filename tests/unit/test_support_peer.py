"""What the scripted peer answers, without a device: one segment in, one packet or none out."""

import pytest

from tests.support.packets import ACK, FIN, PSH, RST, SYN, Segment, build_segment, parse_segment
from tests.support.peer import ICMP_ERRORS, Answer, Behaviour, reply_to

ADDRESSES = [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")]
BOTH = pytest.mark.parametrize(("source", "destination"), ADDRESSES, ids=["IPv4", "IPv6"])


def answer(behaviour: Behaviour, segment: Segment, number: int = 1) -> Segment | None:
    reply = reply_to(behaviour, segment, build_segment(segment), number)
    return None if reply is None else parse_segment(reply)


@BOTH
@pytest.mark.parametrize(
    ("what", "sequence", "acknowledgement", "flags"),
    [(Answer.ACCEPT, 1000, 78, SYN | ACK), (Answer.REFUSE, 0, 78, RST | ACK), (Answer.RESET, 1000, 0, SYN)],
)
def test_a_syn(source: str, destination: str, what: Answer, sequence: int, acknowledgement: int, flags: int) -> None:
    syn = Segment(source, destination, 40000, 80, 77, 0, SYN)
    assert answer(Behaviour(what), syn) == Segment(destination, source, 80, 40000, sequence, acknowledgement, flags)


def test_a_lost_syn() -> None:
    syn = Segment(*ADDRESSES[0], 40000, 80, 77, 0, SYN)
    behaviour = Behaviour(Answer.REFUSE, on_syn=3)
    assert [answer(behaviour, syn, number) is None for number in (1, 2, 3, 4)] == [True, True, False, False]
    assert answer(Behaviour(Answer.SILENT), syn) is None


def test_an_open_half_is_reset_where_its_reset_counts() -> None:
    half = Segment(*ADDRESSES[0], 40000, 80, 77, 1001, SYN | ACK)
    reset = answer(Behaviour(Answer.RESET), half)
    assert reset is not None
    assert (reset.flags, reset.sequence) == (RST, 1001)


@pytest.mark.parametrize(
    ("flags", "payload", "acknowledged", "expected"),
    [
        (ACK, b"", 1001, None),
        (ACK | PSH, b"hello", 1001, (FIN | ACK, 1001, 82)),
        (ACK | FIN, b"", 1001, (FIN | ACK, 1001, 78)),
        (ACK | FIN, b"", 1002, (ACK, 1002, 78)),
        (RST, b"", 1001, None),
    ],
    ids=["third packet of the handshake", "data", "close", "close after ours", "reset"],
)
def test_an_accepted_connection(
    flags: int, payload: bytes, acknowledged: int, expected: tuple[int, int, int] | None
) -> None:
    segment = Segment(*ADDRESSES[0], 40000, 80, 77, acknowledged, flags, payload)
    reply = answer(Behaviour(Answer.ACCEPT), segment)
    assert (reply and (reply.flags, reply.sequence, reply.acknowledgement)) == expected


@BOTH
@pytest.mark.parametrize("what", ICMP_ERRORS, ids=lambda what: what.name)
def test_an_icmp_error(source: str, destination: str, what: Answer) -> None:
    packet = build_segment(Segment(source, destination, 40000, 80, 77, 0, SYN))
    version = packet[0] >> 4
    segment = parse_segment(packet)
    assert segment is not None
    if version not in ICMP_ERRORS[what]:
        with pytest.raises(KeyError):
            reply_to(Behaviour(what), segment, packet, 1)
        return
    reply = reply_to(Behaviour(what), segment, packet, 1)
    assert reply is not None
    start = 20 if version == 4 else 40
    assert tuple(reply[start : start + 2]) == ICMP_ERRORS[what][version]
    assert reply[start + 8 :] == packet
