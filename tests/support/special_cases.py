"""Ends that take a history: of the socket, of the process, or of another socket beside it."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

from otel_connect.capture.hooks import ProbeSet
from tests.support.bench import AbsentError, Bench, Family, Run, Target
from tests.support.case import Expected, Lost, Subject, Way
from tests.support.ends import (
    ABANDONED,
    ACCEPTED,
    ACCEPTED_LATE,
    ESTABLISHED,
    HASTY_MS,
    MAPPABLE,
    PATIENT_MS,
    REFUSED,
    SAME_SOCKET,
    SILENT,
    TWO_SOCKETS,
    Where,
    denied,
    local_error,
    scripted,
    subject,
    unreachable,
)
from tests.support.entries import RINGS, WITH_CALL, Entry
from tests.support.network import NetworkNamespace
from tests.support.peer import PEER, Answer, Behaviour
from tests.support.runtimes import Report

AT_ONCE = 0.002
"""Seconds: the call has let go of the socket, and the program is not asleep yet."""
ROUNDS = 20
NOBODY = 65534
REPAIRED_PORT = 45999
MPTCP_PORT = 7500

AT_END = "the end of the call brings the errno"
CALLS = "all but connect(): it is about calls of that"
WITHOUT_RINGS = tuple(entry for entry in Entry if entry not in RINGS)


def in_python(
    what: str,
    where: Where,
    expected: Sequence[Expected],
    mode: str,
    *,
    row: str,
    blocking: bool = True,
    without: str = "",
) -> Subject:
    """Make one by a mode of the Python client, which calls connect()."""
    wanted = [one._replace(blocking=blocking) for one in expected]

    def make(bench: Bench, way: Way) -> Run:
        return bench.run(where(bench, way.family), "--mode", mode)

    why = (SAME_SOCKET, CALLS, *([without] if without else []))
    return Subject(what, row, make, lambda _: wanted, TWO_SOCKETS, (blocking,), (Entry.CONNECT,), why)


def _calls() -> Iterator[Subject]:
    """Yield the programs whose calls and attempts differ in number, or whose thread is not the process."""
    one_socket = "the other kind of socket: it changes nothing"
    yield in_python(
        "connect() twice",
        ACCEPTED_LATE,
        [ESTABLISHED],
        "twice",
        row="non-blocking, accepted 20 ms away",
        blocking=False,
        without="blocking sockets: a call waits for the end",
    )
    yield in_python(
        "late report",
        scripted(Answer.REFUSE),
        [REFUSED],
        "late",
        row="RST, non-blocking",
        blocking=False,
        without="blocking sockets: a call waits for the end",
    )
    yield in_python("thread", ACCEPTED, [ESTABLISHED], "in-thread", row="blocking, accepted", without=one_socket)
    yield in_python("no attempt", ACCEPTED, [], "noise", row="", without=one_socket)
    yield Subject(
        "beside another service",
        "close() while pending",
        _beside,
        lambda _: [
            ABANDONED._replace(blocking=False, attributes={"otel_connect.superseded": False}),
            ESTABLISHED._replace(blocking=False),
        ],
        TWO_SOCKETS,
        (False,),
        (Entry.CONNECT,),
        (SAME_SOCKET, one_socket, "the other entries: it is about what the attempts have in common"),
    )
    yield Subject(
        "sendto() between calls",
        "RST, blocking",
        _mixed,
        lambda _: [REFUSED, ABANDONED._replace(blocking=False)] * ROUNDS,
        TWO_SOCKETS,
        (True,),
        (Entry.CONNECT,),
        (SAME_SOCKET, one_socket, CALLS),
    )
    for what, how in (("two threads", ""), ("overtaken thread", "held")):
        yield Subject(
            what,
            "RST, non-blocking",
            partial(_shared_socket, how=how),
            lambda way: [REFUSED._replace(blocking=way.blocking)],
            families=(Family.IPV4,),
            sockets=(False,) if how else (True, False),
            entries=(Entry.CONNECT, Entry.MPTCP),
            without=("IPv6: the family changes nothing", CALLS, *([one_socket] if how else [])),
            per_syn=True,
        )
    yield Subject(
        "further subflow",
        "MPTCP: the subflow",
        _joined,
        lambda way: [ESTABLISHED._replace(blocking=way.blocking)],
        (Family.IPV4,),
        (True,),
        (Entry.MPTCP,),
        ("IPv6: the family changes nothing", one_socket, "all but MPTCP: only that has subflows"),
        by_peer=True,
    )
    yield subject(
        "socketcall()",
        scripted(Answer.REFUSE),
        REFUSED,
        row="32-bit caller: no connect() call",
        entries=(Entry.COMPAT,),
        without=["all but 32-bit: only these have it"],
        word="socketcall32",
    )


def _beside(bench: Bench, way: Way) -> Run:
    """Connect to another service on the same port, while the attempt at the silent one is pending."""
    alive = bench.listener(way.family)
    bench.peer.on(alive.port, Behaviour(Answer.SILENT))
    silent = alive._replace(host=PEER[way.family.wire], address=PEER[way.family.wire])
    return bench.run(silent, "--mode", "beside", "--other", alive.host, str(alive.port))


def _mixed(bench: Bench, way: Way) -> Run:
    silent, closed = SILENT(bench, way.family), bench.closed(way.family)
    return bench.run(silent, "--mode", "mixed", "--other", closed.host, str(closed.port), attempts=ROUNDS)


def _joined(_: Bench, way: Way) -> Run:
    """Connect by MPTCP, and have a worker of the kernel open a further subflow."""
    network = f"198.19.{os.getpid() % 256}"
    target = Target(f"{network}.18", f"{network}.18", MPTCP_PORT)
    try:
        _mptcp().close()
    except OSError as error:
        raise AbsentError("this kernel has no MPTCP") from error
    with ExitStack() as stack:
        near, far = (stack.enter_context(NetworkNamespace()) for _ in range(2))
        for path in (1, 2):
            near.cable(far, f"path{path}", [(f"{network}.{path * 16 + 1}/28", f"{network}.{path * 16 + 2}/28")])
        for namespace in (near, far):
            namespace.ip("mptcp limits set subflows 4 add_addr_accepted 4")
        near.ip(f"mptcp endpoint add {network}.33 dev path2 subflow")
        listener, client = (stack.enter_context(space.inside(_mptcp)) for space in (far, near))
        listener.bind(("", MPTCP_PORT))
        listener.listen()
        client.connect((target.host, target.port))
        accepted = stack.enter_context(closing(listener.accept()[0]))
        accepted.send(b"x")  # the connection is an MPTCP one for good
        client.recv(1)
        client.send(b"y")
        accepted.recv(1)
        _await_subflow(near)
        port = client.getsockname()[1]
    report = Report(os.getpid(), "python", target.host, target.port, way.blocking, "ok", None, None, port, None)
    return Run(os.getpid(), target, (report,), 0, None, None)


def _mptcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)


def _await_subflow(namespace: NetworkNamespace) -> None:
    deadline = time.monotonic() + 10
    listed = ["ss", "-Htn", "state", "established", f"dport = {MPTCP_PORT}"]
    while len(namespace.run(listed).stdout.splitlines()) < 2:
        assert time.monotonic() < deadline, "the kernel opens no second subflow"
        time.sleep(0.02)


def _shared_socket(bench: Bench, way: Way, how: str) -> Run:
    target = scripted(Answer.REFUSE, 0.005)(bench, way.family)
    protocol = socket.IPPROTO_MPTCP if way.entry is Entry.MPTCP else socket.IPPROTO_TCP
    kind = how or ("blocking" if way.blocking else "nonblocking")
    argv = [str(bench.program("shared_socket")), target.host, str(target.port), str(ROUNDS), str(protocol), kind]
    run = bench.run_argv(argv, target)
    if run.exit_code == 1:
        raise AbsentError("this kernel has no MPTCP")
    return run


def after(
    what: str,
    before: Where,
    where: Callable[[Bench, Family], tuple[Target, dict[str, object]]],
    expected: Callable[[Way], Sequence[Expected]],
    *,
    row: str,
    lost: Callable[[Way], Lost | None] = lambda _: None,
    options: Mapping[str, object] = {},
) -> Subject:
    """Make one on a socket that another attempt was made with before."""

    def make(bench: Bench, way: Way) -> Run:
        first = before(bench, way.family)
        target, more = where(bench, way.family)
        patience = {} if way.blocking else {"timeout": PATIENT_MS}
        known = {"before": f"{first.host}:{first.port}"}
        return bench.dial(target, way.entry, {**known, **patience, **more, **options})

    return Subject(what, row, make, expected, lost=lost)


def _second_attempts() -> Iterator[Subject]:
    """Yield the attempts on a socket that has an errno, an ICMP error or a port of an earlier one."""
    refuse, no_errno = scripted(Answer.REFUSE), ("local_error", None)
    yield after(
        "same socket again",
        refuse,
        lambda bench, family: (refuse(bench, family), {}),
        lambda way: [REFUSED, REFUSED._replace(blocking=way.blocking)],
        row="RST, blocking",
    )
    at_end = "blocking sockets: nobody gives up while the call waits"
    for what, row, families, other in (
        ("ICMP", "given up, with the ICMP error of an earlier attempt", MAPPABLE, "IPv6: the next case"),
        ("ICMPv6", "given up, with the ICMPv6 error of an earlier attempt", (Family.IPV6,), "IPv4: the case before"),
    ):
        yield Subject(
            f"given up, {what} error before",
            row,
            _after_icmp,
            _after_icmp_expected,
            families,
            sockets=(False,),
            without=(at_end, other),
        )
    yield after(
        "no port left, undone before",
        SILENT,
        _occupied("bind"),
        lambda way: [
            ABANDONED._replace(blocking=False),
            local_error("EADDRNOTAVAIL")._replace(blocking=way.blocking),
        ],
        row="no port left",
        lost=lambda _: Lost((ABANDONED.said, no_errno), "recorded without its errno"),
        options={"undone": 1},
    )
    yield after(
        "no port left, refused before",
        Bench.closed,
        _occupied("ports"),
        lambda way: [
            REFUSED,
            local_error("EADDRNOTAVAIL")._replace(blocking=way.blocking, attributes={"network.local.port": None}),
        ],
        row="no port left",
        lost=lambda _: Lost((REFUSED.said, no_errno), "recorded without its errno"),
    )


def _occupied(option: str) -> Callable[[Bench, Family], tuple[Target, dict[str, object]]]:
    def where(bench: Bench, family: Family) -> tuple[Target, dict[str, object]]:
        target, port = bench.occupied(family)
        return target, {option: port}

    return where


def _after_icmp(bench: Bench, way: Way) -> Run:
    first, target = bench.routed(way.family, "prohibit"), SILENT(bench, way.family)
    patience = {"limit": HASTY_MS, "timeout": 1} if way.entry in RINGS else {"timeout": HASTY_MS, "at_once": 1}
    return bench.dial(target, way.entry, {"before": f"{first.host}:{first.port}", **patience})


def _after_icmp_expected(way: Way) -> Sequence[Expected]:
    """Of ICMPv6 the second attempt would show no more if the error had come again."""
    six = way.family is Family.IPV6
    first = unreachable("EACCES" if six else "EHOSTUNREACH")._replace(syn_retransmits=None)
    return [first, ABANDONED._replace(outcome="unknown" if six else "abandoned", blocking=False)]


def _taken_at_once() -> Iterator[Subject]:
    """Yield the programs that take the errno from the socket before its state changes."""
    for what, answer, expected, row in (
        ("errno taken at once", Answer.REFUSE, REFUSED, "RST, its error taken by SO_ERROR"),
        (
            "ICMP error taken at once",
            Answer.HOST_UNREACHABLE,
            unreachable("EHOSTUNREACH"),
            "ICMP, its error taken by SO_ERROR",
        ),
    ):

        def wanted(way: Way, expected: Expected = expected, icmp: bool = answer is not Answer.REFUSE) -> list[Expected]:
            six = way.family is Family.IPV6
            return [expected._replace(blocking=False, or_unknown=icmp and six)] * ROUNDS

        def make(bench: Bench, way: Way, answer: Answer = answer) -> Run:
            target = scripted(answer, AT_ONCE)(bench, way.family)
            return bench.dial(target, way.entry, {"spin": 1, "rounds": ROUNDS, "timeout": PATIENT_MS})

        why = (f"blocking sockets: {AT_END}", f"io_uring: {AT_END}")
        yield Subject(what, row, make, wanted, sockets=(False,), entries=WITH_CALL, without=why)


def _taken_in_call() -> Iterator[Subject]:
    """Yield the program that takes the ICMP error which came while its call held the socket."""

    def make(bench: Bench, way: Way) -> Run:
        return bench.dial(bench.routed(way.family, "unreachable"), way.entry, {"spin": 1, "timeout": PATIENT_MS})

    def wanted(way: Way) -> list[Expected]:
        errno_name = "ENETUNREACH" if way.family is Family.IPV6 else "EHOSTUNREACH"
        return [unreachable(errno_name)._replace(blocking=False, syn_retransmits=None)]

    def lost(way: Way) -> Lost | None:
        if way.family is not Family.IPV6:
            return None
        sent_later = frozenset(ProbeSet) if way.entry is Entry.DEFERRED else frozenset[ProbeSet]()
        return Lost((ABANDONED.said,), "recorded as abandoned: ICMPv6 leaves no other trace", sent_later)

    yield Subject(
        "ICMP error of the call taken",
        "ICMP while connect() holds the socket, then closed",
        make,
        wanted,
        sockets=(False,),
        entries=WITH_CALL,
        without=(f"blocking sockets: {AT_END}", f"io_uring: {AT_END}"),
        lost=lost,
    )


def _processes() -> Iterator[Subject]:
    """Yield what depends on whose attempt it is, or what else goes on."""
    yield subject(
        "effective user",
        scripted(Answer.REFUSE),
        REFUSED._replace(attributes={"process.user.id": NOBODY}),
        row="RST, blocking",
        options={"euid": NOBODY},
    )
    yield subject(
        "seccomp",
        ACCEPTED,
        denied("EPERM"),
        row="",
        entries=(Entry.CONNECT, Entry.MPTCP, Entry.DEFERRED),
        without=["the other entries: other system calls"],
        lost=lambda _: Lost((), "the filter ends the call before any hook sees it", frozenset(ProbeSet)),
        options={"forbidden": 1},
    )
    yield subject(
        "address of 24 bytes",
        Bench.listener,
        ESTABLISHED,
        row="blocking, accepted",
        families=(Family.IPV6, Family.MAPPED),
        without=["IPv4: its addresses have 16"],
        options={"length": 24},
    )
    yield Subject(
        "TCP_REPAIR",
        "",
        _repaired,
        lambda _: [],
        entries=(Entry.CONNECT, *RINGS, Entry.COMPAT),
        without=("fast open and MPTCP: they leave it out",),
    )


def _repaired(bench: Bench, way: Way) -> Run:
    options = {"repair": 1, "bind": REPAIRED_PORT, "timeout": 0 if way.blocking else PATIENT_MS}
    return bench.dial(SILENT(bench, way.family), way.entry, options)


SPECIAL = (*_calls(), *_second_attempts(), *_taken_at_once(), *_taken_in_call(), *_processes())
