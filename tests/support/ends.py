"""What the subjects of the table of ends are made of: where a client is sent, what is expected, and the client."""

from collections.abc import Callable, Mapping, Sequence

from tests.support.bench import Bench, Family, OnSyn, Run, Target
from tests.support.case import BOTH, EVERY, Expected, Lost, Subject, Way
from tests.support.entries import Entry
from tests.support.peer import Answer, Behaviour

NEAR = 0.02
"""Seconds: long enough that connect() has let go of the socket before the answer comes."""

PATIENT_MS = 15_000
HASTY_MS = 150

Where = Callable[[Bench, Family], Target]
ByFamily = Expected | Mapping[Family, Expected]

ESTABLISHED = Expected("established", None, syn_sent=True)
REFUSED = Expected("refused", "ECONNREFUSED", syn_sent=True)
RESET = Expected("reset", "ECONNRESET", syn_sent=True)
TIMED_OUT = Expected("timed_out", "ETIMEDOUT", syn_sent=True, syn_retransmits=1)
ABANDONED = Expected("abandoned", None, syn_sent=True, syn_retransmits=None)
MAPPABLE = (Family.IPV4, Family.MAPPED)
TWO_SOCKETS = (Family.IPV4, Family.IPV6)

NO_SYN = "it fails before its SYN"
NO_ICMPV6 = "ICMPv6 has no such message"
SAME_SOCKET = "IPv4 by an IPv6 socket is the same here as IPv6"
WAITING = "nobody waits in a call of a non-blocking socket"
NO_CALL = "nobody waits in a call of io_uring"


def unreachable(errno_name: str) -> Expected:
    return Expected("unreachable", errno_name, syn_sent=True)


def denied(errno_name: str) -> Expected:
    return Expected("denied", errno_name, syn_sent=False)


def local_error(errno_name: str, *, syn_sent: bool = False) -> Expected:
    return Expected("local_error", errno_name, syn_sent=syn_sent)


def scripted(answer: Answer, delay: float = NEAR, on_syn: int = 1) -> Where:
    return lambda bench, family: bench.scripted(family, Behaviour(answer, delay, on_syn))


def error_route(kind: str) -> Where:
    return lambda bench, family: bench.error_route(family, kind)


def broadcast(_: Bench, family: Family) -> Target:
    mapped = "::ffff:" if family is Family.MAPPED else ""
    return Target(f"{mapped}198.51.100.255", "198.51.100.255", 9)


def self_target(bench: Bench, family: Family) -> Target:
    """Port 0 makes the client bind a port of the kernel's choice and connect to that one."""
    return bench.listener(family)._replace(port=0)


def routed(kind: str) -> Where:
    return lambda bench, family: bench.routed(family, kind)


def rejecting(verdict: str) -> Where:
    return lambda bench, family: bench.rejecting(family, verdict)


SILENT = scripted(Answer.SILENT)
ACCEPTED = scripted(Answer.ACCEPT)
ACCEPTED_LATE = scripted(Answer.ACCEPT, 0.5)


def lost(said: Sequence[tuple[str, str | None]], why: str) -> Callable[[Way], Lost | None]:
    return lambda _: Lost(tuple(said), why)


def subject(
    what: str,
    where: Where,
    expected: ByFamily,
    *,
    row: str,
    families: tuple[Family, ...] = EVERY,
    sockets: tuple[bool, ...] = BOTH,
    entries: tuple[Entry, ...] = tuple(Entry),
    without: Sequence[str] = (),
    lost: Callable[[Way], Lost | None] = lambda _: None,
    on_syn: OnSyn | None = None,
    options: Mapping[str, object] = {},
    word: str = "",
    rows: Mapping[Entry, str] = {},
) -> Subject:
    """Make one whose attempt the client ``dial`` makes, with these options."""

    def make(bench: Bench, way: Way) -> Run:
        patience = {} if way.blocking else {"timeout": PATIENT_MS}
        return bench.dial(where(bench, way.family), way.entry, {**patience, **options}, on_syn=on_syn, word=word)

    def wanted(way: Way) -> Sequence[Expected]:
        one = expected if isinstance(expected, Expected) else expected[way.family]
        return [one._replace(blocking=way.blocking)]

    return Subject(what, row, make, wanted, families, sockets, entries, tuple(without), lost, rows=rows)
