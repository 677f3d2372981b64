"""The table of ends: what networks, hosts and programs do to a connect attempt, in every way to make one.

Those of calls, threads and processes are in ``call_cases``, those of sockets with a history in ``history_cases``.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from otel_connect.capture.hooks import ProbeSet
from tests.support.bench import Bench, Family, Run, destroy, kill
from tests.support.call_cases import CALLS_AND_PROCESSES
from tests.support.case import Case, Expected, Lost, Subject, Way, run_all
from tests.support.ends import (
    ABANDONED,
    ACCEPTED,
    ACCEPTED_LATE,
    ESTABLISHED,
    HASTY_MS,
    MAPPABLE,
    NO_CALL,
    NO_ICMPV6,
    NO_SYN,
    PATIENT_MS,
    REFUSED,
    RESET,
    SAME_SOCKET,
    SILENT,
    TIMED_OUT,
    TWO_SOCKETS,
    WAITING,
    Where,
    broadcast,
    denied,
    error_route,
    local_error,
    lost,
    rejecting,
    routed,
    scripted,
    self_target,
    subject,
    unreachable,
)
from tests.support.entries import RINGS, WITH_CALL, Entry
from tests.support.history_cases import HISTORIES
from tests.support.peer import Answer

__all__ = ["CASES", "SUBJECTS", "Case", "Where", "error_route", "run_all", "scripted"]


NO_CALL_ACCEPTED = {
    Entry.SENDTO: "MSG_FASTOPEN: no connect() call",
    Entry.DEFERRED: "TCP_FASTOPEN_CONNECT: returns 0, established at the first write",
    Entry.MPTCP: "MPTCP: the subflow",
    **dict.fromkeys(RINGS, "io_uring: no connect() call"),
}
REFUSED_32 = {Entry.COMPAT: "32-bit caller: no connect() call"}
MPTCP_CLOSED = {Entry.MPTCP: "MPTCP: closed while pending"}


def _answered() -> Iterator[Subject]:
    """Yield the attempts that the other side decides."""
    yield subject("accepted here", Bench.listener, ESTABLISHED, row="blocking, accepted", rows=NO_CALL_ACCEPTED)
    yield subject("accepted there", ACCEPTED, ESTABLISHED, row="non-blocking, accepted 20 ms away")
    for missing in (1, 2):
        yield subject(
            f"accepted after {missing} lost SYN",
            scripted(Answer.ACCEPT, on_syn=missing + 1),
            ESTABLISHED._replace(syn_retransmits=missing),
            row="accepted after a lost SYN",
            options={"syn_retries": missing} if missing > 1 else {},
        )
    yield subject("self-connect", self_target, ESTABLISHED, row="self-connect through SYN_RECV", options={"self": 1})
    yield subject("refused here", Bench.closed, REFUSED, row="RST, blocking")
    yield subject("refused there", scripted(Answer.REFUSE), REFUSED, row="RST, non-blocking", rows=REFUSED_32)
    yield subject("reset", scripted(Answer.RESET), RESET, row="RST in SYN_RECV (simultaneous open)")
    yield subject("silent", SILENT, TIMED_OUT, row="SYN timeout")
    yield subject(
        "TCP_USER_TIMEOUT",
        SILENT,
        TIMED_OUT._replace(syn_retransmits=None),
        row="TCP_USER_TIMEOUT",
        options={"user_timeout": 500},
    )


def _undeliverable() -> Iterator[Subject]:
    """Yield the attempts that a router, a firewall or the neighbourhood ends, and one that ICMP ends otherwise."""
    yield subject("no neighbour", Bench.neighbourless, unreachable("EHOSTUNREACH"), row="ARP failure")
    prohibited = {
        Family.IPV4: unreachable("EHOSTUNREACH"),
        Family.MAPPED: unreachable("EHOSTUNREACH"),
        Family.IPV6: unreachable("EACCES"),
    }
    for answer, expected, row in (
        (Answer.HOST_UNREACHABLE, unreachable("EHOSTUNREACH"), "ICMP host unreachable"),
        (Answer.NET_UNREACHABLE, unreachable("ENETUNREACH"), "ICMP net unreachable"),
        (Answer.PORT_UNREACHABLE, REFUSED, "ICMP port unreachable"),
        (Answer.PROHIBITED, prohibited, "ICMPv6 administratively prohibited"),
        (Answer.PARAMETER_PROBLEM, local_error("EPROTO", syn_sent=True), "ICMP parameter problem"),
    ):
        yield subject(f"ICMP {answer.name.lower()}", scripted(answer), expected, row=row)
    for answer, errno_name, row in (
        (Answer.HOST_UNKNOWN, "EHOSTDOWN", "ICMP host unknown"),
        (Answer.PROTOCOL_UNREACHABLE, "ENOPROTOOPT", "ICMP protocol unreachable"),
    ):
        what = f"ICMP {answer.name.lower()}"
        expected = unreachable(errno_name)
        yield subject(what, scripted(answer), expected, row=row, families=MAPPABLE, without=[f"IPv6: {NO_ICMPV6}"])
    yield from _held()
    for what, verdict, row, retransmits in (
        ("firewall resets", "meta l4proto tcp reject with tcp reset", "nft reject with tcp reset on output", 0),
        (
            "firewall rejects",
            "reject with icmpx type port-unreachable",
            "nft reject with icmp on output, then closed",
            None,
        ),
    ):
        yield subject(what, rejecting(verdict), REFUSED._replace(syn_sent=False, syn_retransmits=retransmits), row=row)


def _held() -> Iterator[Subject]:
    """Yield the attempts whose ICMP error comes while the call that sends the SYN still holds the socket."""
    for kind, four, six in (
        ("prohibit", "EHOSTUNREACH", "EACCES"),
        ("unreachable", "EHOSTUNREACH", "ENETUNREACH"),
        ("none", "ENETUNREACH", "ENETUNREACH"),
    ):
        by_family = {family: unreachable(four)._replace(syn_retransmits=None) for family in MAPPABLE}
        by_family[Family.IPV6] = unreachable(six)._replace(syn_retransmits=None)
        row = "ICMP while connect() holds the socket, then closed"
        yield subject(f"router {kind}", routed(kind), by_family, row=row)


def _local() -> Iterator[Subject]:
    """Yield the attempts that end before a SYN leaves."""
    for kind, expected, row in (
        ("prohibit", denied("EACCES"), "prohibit route"),
        ("unreachable", local_error("EHOSTUNREACH"), "unreachable route"),
        ("blackhole", local_error("EINVAL"), "blackhole route"),
        ("none", local_error("ENETUNREACH"), "no route"),
    ):
        what = "no route" if kind == "none" else f"{kind} route"
        yield subject(what, error_route(kind), expected, row=row, lost=lost((), NO_SYN))
    yield subject(
        "broadcast",
        broadcast,
        local_error("ENETUNREACH"),
        row="broadcast or multicast peer",
        families=MAPPABLE,
        without=["IPv6: it has no broadcast"],
        lost=lost((), NO_SYN),
    )
    yield subject(
        "wrong family",
        ACCEPTED,
        local_error("EAFNOSUPPORT"),
        row="wrong family",
        families=TWO_SOCKETS,
        without=[SAME_SOCKET],
        lost=lost((), NO_SYN),
        options={"address": "wrong"},
    )
    yield subject(
        "bad pointer",
        ACCEPTED,
        local_error("EFAULT"),
        row="bad address pointer",
        families=TWO_SOCKETS,
        without=[SAME_SOCKET],
        lost=_bad_pointer,
        options={"address": "bad"},
    )
    yield Subject(
        "no port left",
        "no port left",
        _no_port,
        lambda way: [local_error("EADDRNOTAVAIL")._replace(blocking=way.blocking)],
        lost=lost([("local_error", None)], "recorded without its errno"),
        rows={Entry.SENDTO: "no port left, return value not seen"},
    )
    yield Subject(
        "cgroup program",
        "EPERM by cgroup BPF",
        _forbidden,
        lambda way: [denied("EPERM")._replace(blocking=way.blocking)],
        lost=lost((), NO_SYN),
    )


def _bad_pointer(way: Way) -> Lost:
    """Say who does not see it: the kernel copies the address before it makes the request, or calls the function."""
    if way.entry in RINGS:
        return Lost((), "io_uring refuses the request before it is tried", frozenset(ProbeSet))
    return Lost((), NO_SYN, frozenset({ProbeSet.FEXIT}))


def _no_port(bench: Bench, way: Way) -> Run:
    """Have a client use a port that is already connected to its target."""
    target, port = bench.occupied(way.family)
    return bench.dial(target, way.entry, {"bind": port, "timeout": 0 if way.blocking else PATIENT_MS})


def _forbidden(bench: Bench, way: Way) -> Run:
    patience = {"timeout": 0 if way.blocking else PATIENT_MS}
    return bench.dial(ACCEPTED(bench, way.family), way.entry, patience, group=bench.forbidding)


def _given_up() -> Iterator[Subject]:
    """Yield the attempts that their program gives up, or that outlive an interruption."""
    for how, row in (
        ("close", "close() while pending"),
        ("linger", "close() while pending"),
        ("shutdown", "shutdown() while pending"),
        ("unspec", "connect(AF_UNSPEC) while pending"),
    ):
        what = f"given up by {how}"
        without = ["blocking sockets but those of io_uring: they wait in the call"]
        options = {"timeout": HASTY_MS, "give_up": how}
        yield subject(
            what,
            SILENT,
            ABANDONED,
            row=row,
            sockets=(False,),
            entries=WITH_CALL,
            without=without,
            options=options,
            rows=MPTCP_CLOSED if how in {"close", "linger"} else {},
        )
        yield Subject(
            f"time limit, {how}",
            "io_uring link timeout, then closed" if how == "close" else row,
            partial(_limited, how=how),
            lambda way: [ABANDONED._replace(blocking=way.blocking)],
            entries=RINGS,
            without=("all but io_uring: it is a request of its own",),
        )
    yield subject("killed", SILENT, ABANDONED, row="SIGKILL while blocked", on_syn=kill)
    destroyed = ABANDONED._replace(errno_name="ECONNABORTED")
    yield subject("ss -K", SILENT, destroyed, row="ss -K", on_syn=destroy)
    yield from _interrupted()


def _limited(bench: Bench, way: Way, how: str) -> Run:
    patience = 0 if way.blocking else 1
    return bench.dial(SILENT(bench, way.family), way.entry, {"limit": HASTY_MS, "timeout": patience, "give_up": how})


def _interrupted() -> Iterator[Subject]:
    for what, where, expected, row, options in (
        ("SO_SNDTIMEO, given up", SILENT, ABANDONED, "close() while pending", {}),
        (
            "SO_SNDTIMEO, established",
            ACCEPTED_LATE,
            ESTABLISHED,
            "SO_SNDTIMEO ran out, attempt goes on",
            {"go_on": 1},
        ),
        (
            "SO_SNDTIMEO, refused",
            scripted(Answer.REFUSE, 0.5),
            REFUSED,
            "SO_SNDTIMEO ran out, attempt goes on",
            {"go_on": 1},
        ),
    ):
        yield _waiting(what, where, expected, row, {"send_timeout": HASTY_MS, **options})
    goes_on = "signal on a blocking connect, attempt goes on"
    yield _waiting("signal", ACCEPTED_LATE, ESTABLISHED, goes_on, {"signal": "interrupt"})
    yield _waiting("signal and restart", ACCEPTED_LATE, ESTABLISHED, goes_on, {"signal": "restart"})
    yield _waiting(
        "closed by another thread", SILENT, TIMED_OUT, "closed by another thread while blocked", {"closer": 1}
    )


def _waiting(what: str, where: Where, expected: Expected, row: str, options: Mapping[str, object]) -> Subject:
    """Make one in which something happens while the program waits in its call."""
    without = (f"non-blocking sockets: {WAITING}", f"io_uring: {NO_CALL}")
    return subject(what, where, expected, row=row, sockets=(True,), entries=WITH_CALL, without=without, options=options)


SUBJECTS = (*_answered(), *_undeliverable(), *_local(), *_given_up(), *CALLS_AND_PROCESSES, *HISTORIES)
CASES: tuple[Case, ...] = tuple(case for subject in SUBJECTS for case in subject.cases())
