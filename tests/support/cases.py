"""The table of ends: for each way a connect attempt can end, a real one and what must be said about it.

Outcomes are spelled out, not taken from the product: the table is what the product is compared with.
``row`` names the same case in ``outcome_cases``, where the kernel's evidence is written down.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.support.bench import Bench, Family, Run, Target, options
from tests.support.peer import Answer, Behaviour

NEAR = 0.02
"""Seconds: long enough that connect() has let go of the socket before the answer comes."""

_PATIENT_MS = 15_000
_HASTY_MS = 150


class Expected(NamedTuple):
    """What must be said about one attempt; the client reports the same errno, if it reports one."""

    outcome: str
    errno_name: str | None
    syn_sent: bool
    """The kernel transmitted a SYN, be it only as far as a queue for a neighbour. An attempt that finds no
    free port passes through SYN_SENT and sends none."""
    syn_retransmits: int | None = 0
    """``None``: it depends on when the program gave up."""
    blocking: bool = True

    @property
    def result(self) -> str:
        """What the client calls it."""
        return {"established": "ok", "abandoned": "abandoned"}.get(self.outcome, "error")


class Case(NamedTuple):
    """One way to end; ``make`` runs the client to its end on a bench."""

    name: str
    family: Family
    make: Callable[[Bench], Run]
    expected: tuple[Expected, ...]
    """The attempts of the client's process in the order of their start; most make one."""
    row: str


def run_all(bench: Bench, cases: Iterable[Case], workers: int = 32) -> dict[str, Run]:
    """Make cases side by side, since many only wait; the runs are keyed by the names of their cases."""
    with ThreadPoolExecutor(workers) as pool:
        futures = {case.name: pool.submit(case.make, bench) for case in cases}
    return {name: future.result() for name, future in futures.items()}


Where = Callable[[Bench, Family], Target]

ESTABLISHED = Expected("established", None, syn_sent=True)
REFUSED = Expected("refused", "ECONNREFUSED", syn_sent=True)
RESET = Expected("reset", "ECONNRESET", syn_sent=True)
TIMED_OUT = Expected("timed_out", "ETIMEDOUT", syn_sent=True, syn_retransmits=1)
ABANDONED = Expected("abandoned", None, syn_sent=True)
EVERY = tuple(Family)
REAL = (Family.IPV4, Family.IPV6)
V4 = (Family.IPV4,)
V6 = (Family.IPV6,)
MAPPABLE = (Family.IPV4, Family.MAPPED)


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


def broadcast(bench: Bench, family: Family) -> Target:
    return bench.neighbourless(family)._replace(host="198.51.100.255", address="198.51.100.255")


def self_target(bench: Bench, family: Family) -> Target:
    """Port 0 makes the client bind a port of the kernel's choice and connect to that one."""
    return bench.listener(family)._replace(port=0)


def routed(kind: str) -> Where:
    return lambda bench, family: bench.routed(family, kind)


SILENT = scripted(Answer.SILENT)
ACCEPTED = scripted(Answer.ACCEPT)
ACCEPTED_LATE = scripted(Answer.ACCEPT, 0.5)


def in_families(
    name: str,
    families: Iterable[Family],
    where: Where,
    expected: Expected | list[Expected],
    *,
    row: str,
    timeout_ms: int = 0,
    kill_on_syn: bool = False,
    **client: object,
) -> Iterator[Case]:
    """Yield one case for each family; ``client`` are options of the Python client."""
    wanted = tuple(expected) if isinstance(expected, list) else (expected,)
    if timeout_ms:
        wanted = tuple(one._replace(blocking=False) for one in wanted)
    for family in families:

        def make(bench: Bench, family: Family = family) -> Run:
            arguments = options(**client)
            target = where(bench, family)
            return bench.run(target, *arguments, timeout_ms=timeout_ms, kill_on_syn=kill_on_syn)

        yield Case(f"{name}, {family.value}", family, make, wanted, row)


def both_ways(name: str, families: Iterable[Family], where: Where, expected: Expected, *, row: str) -> Iterator[Case]:
    """Yield each case with a blocking and with a non-blocking socket."""
    yield from in_families(name, families, where, expected, row=row)
    yield from in_families(f"{name}, non-blocking", families, where, expected, row=row, timeout_ms=_PATIENT_MS)


def no_port_left(families: Iterable[Family]) -> Iterator[Case]:
    """Yield the cases in which the only port that the client may use is already connected to the target."""
    for family in families:

        def make(bench: Bench, family: Family = family) -> Run:
            target, port = bench.occupied(family)
            return bench.run(target, *options(bind=port))

        yield Case(f"no port left, {family.value}", family, make, (local_error("EADDRNOTAVAIL"),), "no port left")


def _answered() -> Iterator[Case]:
    """Yield the attempts that the other side decides."""
    yield from both_ways("accepted here", EVERY, Bench.listener, ESTABLISHED, row="blocking, accepted")
    yield from both_ways("accepted there", EVERY, ACCEPTED, ESTABLISHED, row="non-blocking, accepted 20 ms away")
    for lost, answered in ((1, 2), (2, 3)):
        yield from in_families(
            f"accepted after {lost} lost SYN",
            REAL,
            scripted(Answer.ACCEPT, on_syn=answered),
            ESTABLISHED._replace(syn_retransmits=lost),
            row="accepted after a lost SYN",
            syn_retries=lost,
        )
    yield from in_families(
        "self-connect", REAL, self_target, ESTABLISHED, row="self-connect through SYN_RECV", mode="self-connect"
    )
    yield from in_families("MPTCP", REAL, ACCEPTED, ESTABLISHED, row="MPTCP: the subflow", mptcp=True)
    for where, expected, row in (
        (ACCEPTED, ESTABLISHED, "MSG_FASTOPEN: no connect() call"),
        (scripted(Answer.REFUSE), REFUSED, "RST, blocking"),
    ):
        yield from in_families(f"fast open {expected.outcome}", REAL, where, expected, row=row, mode="fast-open")
    yield from both_ways("refused here", EVERY, Bench.closed, REFUSED, row="RST, blocking")
    yield from both_ways("refused there", EVERY, scripted(Answer.REFUSE), REFUSED, row="RST, non-blocking")
    yield from both_ways("reset", EVERY, scripted(Answer.RESET), RESET, row="RST in SYN_RECV (simultaneous open)")
    yield from both_ways("silent", EVERY, SILENT, TIMED_OUT, row="SYN timeout")
    yield from in_families(
        "TCP_USER_TIMEOUT",
        REAL,
        SILENT,
        TIMED_OUT._replace(syn_retransmits=None),
        row="TCP_USER_TIMEOUT",
        user_timeout_ms=500,
    )


def _undeliverable() -> Iterator[Case]:
    """Yield the attempts that a router or the neighbourhood ends, and one that ICMP ends otherwise."""
    yield from both_ways(
        "no neighbour",
        EVERY,
        Bench.neighbourless,
        unreachable("EHOSTUNREACH"),
        row="ARP failure",
    )
    v6_prohibited = "ICMPv6 administratively prohibited"
    for families, answer, expected, row in (
        (EVERY, Answer.HOST_UNREACHABLE, unreachable("EHOSTUNREACH"), "ICMP host unreachable"),
        (EVERY, Answer.NET_UNREACHABLE, unreachable("ENETUNREACH"), "ICMP net unreachable"),
        (EVERY, Answer.PORT_UNREACHABLE, REFUSED, "ICMP port unreachable"),
        (MAPPABLE, Answer.PROHIBITED, unreachable("EHOSTUNREACH"), "ICMP host unreachable"),
        (V6, Answer.PROHIBITED, unreachable("EACCES"), v6_prohibited),
        (MAPPABLE, Answer.HOST_UNKNOWN, unreachable("EHOSTDOWN"), "ICMP host unknown"),
        (MAPPABLE, Answer.PROTOCOL_UNREACHABLE, unreachable("ENOPROTOOPT"), "ICMP protocol unreachable"),
        (EVERY, Answer.PARAMETER_PROBLEM, local_error("EPROTO", syn_sent=True), "ICMP parameter problem"),
    ):
        yield from both_ways(f"ICMP {answer.name.lower()}", families, scripted(answer), expected, row=row)
    held = "ICMP while connect() holds the socket, then closed"
    for families, kind, errno_name in (
        (MAPPABLE, "prohibit", "EHOSTUNREACH"),
        (V6, "prohibit", "EACCES"),
        (MAPPABLE, "unreachable", "EHOSTUNREACH"),
        (V6, "unreachable", "ENETUNREACH"),
        (EVERY, "none", "ENETUNREACH"),
    ):
        expected = unreachable(errno_name)._replace(syn_retransmits=None)
        yield from both_ways(f"router {kind}", families, routed(kind), expected, row=held)


def _local() -> Iterator[Case]:
    """Yield the attempts that end before a SYN leaves, and a program whose calls are no attempts at all."""
    for kind, expected, row in (
        ("prohibit", denied("EACCES"), "prohibit route"),
        ("unreachable", local_error("EHOSTUNREACH"), "unreachable route"),
        ("blackhole", local_error("EINVAL"), "blackhole route"),
        ("none", local_error("ENETUNREACH"), "no route"),
    ):
        yield from both_ways(f"{kind} route", EVERY, error_route(kind), expected, row=row)
    yield from in_families("broadcast", V4, broadcast, local_error("ENETUNREACH"), row="broadcast or multicast peer")
    yield from no_port_left(EVERY)
    yield from in_families(
        "wrong family", REAL, ACCEPTED, local_error("EAFNOSUPPORT"), row="wrong family", mode="wrong-family"
    )
    yield from in_families(
        "bad pointer", REAL, ACCEPTED, local_error("EFAULT"), row="bad address pointer", mode="bad-pointer"
    )
    yield from in_families("no attempt", REAL, ACCEPTED, [], row="", mode="noise")


def _given_up() -> Iterator[Case]:
    """Yield the attempts that their program gives up, or that outlive an interruption."""
    given_up = ABANDONED._replace(syn_retransmits=None)
    for way, row in (
        ("close", "close() while pending"),
        ("linger", "close() while pending"),
        ("shutdown", "shutdown() while pending"),
        ("unspec", "connect(AF_UNSPEC) while pending"),
    ):
        yield from in_families(
            f"given up by {way}", EVERY, SILENT, given_up, row=row, timeout_ms=_HASTY_MS, give_up=way
        )
    for way in ("close", "linger"):
        yield from in_families(
            f"MPTCP, given up by {way}",
            REAL,
            SILENT,
            given_up,
            row="MPTCP: closed while pending",
            timeout_ms=_HASTY_MS,
            give_up=way,
            mptcp=True,
        )
    yield from in_families("killed", EVERY, SILENT, given_up, row="SIGKILL while blocked", kill_on_syn=True)
    yield from in_families(
        "SO_SNDTIMEO, given up", REAL, SILENT, given_up, row="close() while pending", send_timeout_ms=_HASTY_MS
    )
    for where, expected in ((ACCEPTED_LATE, ESTABLISHED), (scripted(Answer.REFUSE, 0.5), REFUSED)):
        yield from in_families(
            f"SO_SNDTIMEO, {expected.outcome}",
            REAL,
            where,
            expected,
            row="SO_SNDTIMEO ran out, attempt goes on",
            mode="go-on",
            send_timeout_ms=_HASTY_MS,
        )
    signal = "signal on a blocking connect, attempt goes on"
    yield from in_families("signal", REAL, ACCEPTED_LATE, ESTABLISHED, row=signal, mode="interrupted")
    yield from in_families(
        "signal and restart", REAL, ACCEPTED_LATE, ESTABLISHED, row=signal, mode="interrupted", restart=True
    )
    yield from in_families(
        "closed by another thread",
        REAL,
        SILENT,
        TIMED_OUT,
        row="closed by another thread while blocked",
        mode="closed-by-thread",
    )


def _counted() -> Iterator[Case]:
    """Yield the programs whose calls and attempts differ in number, or whose thread is not the process."""
    yield from in_families(
        "connect() twice",
        REAL,
        ACCEPTED_LATE,
        ESTABLISHED._replace(blocking=False),
        row="non-blocking, accepted 20 ms away",
        mode="twice",
    )
    yield from in_families(
        "late report",
        REAL,
        scripted(Answer.REFUSE),
        REFUSED._replace(blocking=False),
        row="RST, non-blocking",
        mode="late",
    )
    yield from in_families(
        "same socket again", REAL, scripted(Answer.REFUSE), [REFUSED, REFUSED], row="RST, blocking", mode="again"
    )
    yield from in_families("thread", REAL, ACCEPTED, ESTABLISHED, row="blocking, accepted", mode="in-thread")


CASES = (*_answered(), *_undeliverable(), *_local(), *_given_up(), *_counted())
