"""Ends that depend on how a program calls, in which thread and process, and on what else it does meanwhile."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
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
    NO_SYN,
    PATIENT_MS,
    REFUSED,
    SAME_SOCKET,
    SILENT,
    TWO_SOCKETS,
    Where,
    denied,
    error_route,
    local_error,
    lost,
    scripted,
    subject,
)
from tests.support.entries import RINGS, Entry
from tests.support.network import NetworkNamespace
from tests.support.peer import PEER, Answer, Behaviour
from tests.support.runtimes import Report

ROUNDS = 20
NOBODY = 65534
REPAIRED_PORT = 45999
MPTCP_PORT = 7500

CALLS = "all but connect(): it is about calls of that"


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
            ESTABLISHED._replace(blocking=False, elsewhere=True),
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
        lambda _: [REFUSED._replace(elsewhere=True), ABANDONED._replace(blocking=False)] * ROUNDS,
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
            lambda way: [REFUSED._replace(blocking=way.blocking, syn_retransmits=None)],
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
    for what, where, expected in (
        ("address of 24 bytes", Bench.listener, ESTABLISHED),
        ("no route, address of 24 bytes", error_route("none"), local_error("ENETUNREACH")),
    ):
        yield subject(
            what,
            where,
            expected._replace(attributes={"otel_connect.requested.address": None}),
            row="no route" if expected.errno_name else "blocking, accepted",
            families=(Family.IPV6,),
            without=["IPv4: its addresses have 16", SAME_SOCKET],
            lost=lost((), NO_SYN) if expected.errno_name else lambda _: None,
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


CALLS_AND_PROCESSES = (*_calls(), *_processes())
