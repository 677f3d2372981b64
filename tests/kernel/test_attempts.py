"""What is an attempt, and what is none: one for each SYN that a program has the kernel send, however it asks for it.

And what no hook sees: the limits that probes/README.md states.
"""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from otel_connect.capture.outcome import decide
from otel_connect.model import ConnectEvent, EventFlag, Outcome
from tests.support.bench import Bench, Family, Target
from tests.support.captured import Captured, said
from tests.support.collector import await_until
from tests.support.network import NetworkNamespace
from tests.support.peer import Answer, Behaviour

NEAR = 0.02
TCP_REPAIR, TCP_FASTOPEN_CONNECT = 19, 30
LATER_S = 0.3
MPTCP_PORT = 7500

# Connects, has the kernel refuse connect() from then on (SECCOMP_RET_ERRNO, EPERM), and connects again.
FORBIDDEN = """
import ctypes, errno, socket, struct, sys, os
port, number = map(int, sys.argv[1:])
def connect():
    with socket.socket() as client:
        print(errno.errorcode[client.connect_ex(("127.0.0.1", port))], flush=True)
connect()
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
filter = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filter)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
connect()
"""
CONNECT = {"x86_64": 42, "aarch64": 203, "riscv64": 203, "s390x": 362}


def mine(seen: Captured, count: int) -> list[ConnectEvent]:
    return seen.of_process(os.getpid(), count)


def closed_by(bench: Bench, seen: Captured) -> list[ConnectEvent]:
    """Make an attempt that surely is one, so that nothing before it is still on its way; return all before it."""
    with bench.namespace.inside(socket.socket) as client:
        target = bench.closed(Family.IPV4)
        assert client.connect_ex((target.address, target.port)) == errno.ECONNREFUSED
    *before, last = mine(seen, 1)
    assert said([last]) == [("refused", errno.ECONNREFUSED)]
    return before


# ---- two threads, one socket


@pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, socket.IPPROTO_MPTCP])
@pytest.mark.parametrize(("how", "rounds"), [("nonblocking", 200), ("blocking", 200), ("held", 20)])
@pytest.mark.parametrize("answer", [Answer.REFUSE, Answer.HOST_UNREACHABLE])
def test_two_threads_that_connect_one_socket_make_as_many_attempts_as_syns(
    bench: Bench, seen: Captured, protocol: int, how: str, rounds: int, answer: Answer
) -> None:
    target = bench.scripted(Family.IPV4, Behaviour(answer, 0.005))
    argv = [str(bench.program("shared_socket")), target.host, str(target.port), str(rounds), str(protocol), how]
    with bench.namespace.popen(argv) as client:
        assert client.wait(30) == 0
    syns = bench.peer.syn_count(target.port)
    assert syns >= rounds
    events = seen.of_process(client.pid, syns)
    assert len(events) == syns
    assert {outcome for outcome, _ in said(events)} == {"refused" if answer is Answer.REFUSE else "unreachable"}


# ---- a SYN that leaves later


def deferred(bench: Bench, target: Target) -> socket.socket:
    """Connect without sending anything."""
    wanted = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    client = bench.namespace.inside(lambda: socket.socket(wanted))
    client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    assert client.connect_ex((target.host, target.port)) == 0
    return client


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(
    ("answer", "expected", "took_s", "retransmits"),
    [
        (Answer.ACCEPT, ("established", None), 0, 0),
        (Answer.REFUSE, ("refused", errno.ECONNREFUSED), 0, 0),
        (Answer.HOST_UNREACHABLE, ("unreachable", errno.EHOSTUNREACH), 0, 0),
        (Answer.SILENT, ("timed_out", errno.ETIMEDOUT), 3, 1),
    ],
)
def test_an_attempt_whose_syn_is_deferred_begins_when_it_leaves(
    bench: Bench,
    seen: Captured,
    family: Family,
    answer: Answer,
    expected: tuple[str, int | None],
    took_s: float,
    retransmits: int,
) -> None:
    target = bench.scripted(family, Behaviour(answer, NEAR))
    with deferred(bench, target) as client:
        time.sleep(LATER_S)  # what the program thinks about before it writes
        assert bench.peer.syn_count(target.port) == 0
        before_ns = time.time_ns()
        with suppress(OSError):  # a blocking write reports what became of the attempt
            client.send(b"x")
        (event,) = mine(seen, 1)
    assert said([event]) == [expected]
    assert event.syn_retransmits == retransmits
    assert event.flags & EventFlag.DEFERRED
    assert event.duration_ns is not None
    assert event.start_unix_ns >= before_ns - 1_000_000  # the kernel remembers a SYN that was repeated in milliseconds
    assert took_s <= event.duration_ns / 1e9 < took_s + LATER_S


def test_when_a_deferred_syn_left_that_was_repeated_and_answered_is_not_known(bench: Bench, seen: Captured) -> None:
    target = bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT, NEAR, on_syn=2))
    with deferred(bench, target) as client:
        time.sleep(LATER_S)
        before_ns = time.time_ns()
        client.send(b"x")
        (event,) = mine(seen, 1)
    assert (said([event]), event.syn_retransmits) == ([("established", None)], 1)
    assert event.start_unix_ns <= before_ns - LATER_S * 1e9 + 1_000_000  # that of connect()


def test_a_deferred_syn_that_cannot_be_sent_is_no_attempt(bench: Bench, seen: Captured) -> None:
    before = seen.capture.counters()
    target = bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT))._replace(host="192.0.2.77")
    with deferred(bench, target) as client:
        bench.namespace.route("prohibit", target.host)
        with pytest.raises(ConnectionAbortedError):
            client.send(b"x")
    assert closed_by(bench, seen) == []
    assert seen.capture.counters().unsent > before.unsent


@pytest.mark.parametrize("family", Family)
def test_a_deferred_syn_that_its_program_gives_up_waiting_for(bench: Bench, seen: Captured, family: Family) -> None:
    target = bench.scripted(family, Behaviour(Answer.SILENT))
    with deferred(bench, target) as client:
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.send(b"x")
        bench.peer.wait_for_syn(target.port)
    assert said(mine(seen, 1)) == [("abandoned", None)]


def shut(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RDWR)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@pytest.mark.parametrize("give_up", [socket.socket.close, shut, reset])
@pytest.mark.parametrize("family", Family)
def test_a_socket_that_is_given_up_without_a_syn_made_no_attempt(
    bench: Bench, seen: Captured, family: Family, give_up: Callable[[socket.socket], None]
) -> None:
    before = seen.capture.counters()
    with deferred(bench, bench.scripted(family, Behaviour(Answer.ACCEPT))) as client:
        give_up(client)
    assert closed_by(bench, seen) == []
    assert seen.capture.counters().unsent > before.unsent


def test_a_socket_that_waits_for_its_first_write_is_never_overdue(bench: Bench, seen: Captured) -> None:
    target = bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT, NEAR))
    with deferred(bench, target) as client:
        stale = seen.capture.take_stale(time.monotonic_ns() + 86_400_000_000_000)
        assert [event for event in stale if event.pid == os.getpid()] == []
        client.send(b"x")
        assert said(mine(seen, 1)) == [("established", None)]


# ---- no SYN of a program's


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_that_is_restored_is_no_attempt(
    bench: Bench, seen: Captured, family: socket.AddressFamily
) -> None:
    before = seen.capture.counters()
    target = bench.scripted(Family.IPV6 if family == socket.AF_INET6 else Family.IPV4, Behaviour(Answer.SILENT))
    with bench.namespace.inside(lambda: socket.socket(family)) as client:
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        client.bind(("", 45999))
        assert client.connect_ex((target.host, target.port)) == 0
        assert bench.peer.syn_count(target.port) == 0
        assert closed_by(bench, seen) == []
        assert seen.capture.counters().unsent > before.unsent


@pytest.fixture
def two_paths() -> Iterator[tuple[NetworkNamespace, NetworkNamespace]]:
    """Two namespaces with two cables between them; the near one may use both for one MPTCP connection."""
    with NetworkNamespace() as near, NetworkNamespace() as far:
        for number in (1, 2):
            near.cable(far, f"path{number}", [(f"192.0.2.{number * 16 + 1}/28", f"192.0.2.{number * 16 + 2}/28")])
        for namespace in (near, far):
            namespace.ip("mptcp limits set subflows 4 add_addr_accepted 4")
        yield near, far


def subflows(namespace: NetworkNamespace) -> int:
    listed = namespace.run(["ss", "-Htn", "state", "established", f"dport = {MPTCP_PORT}"])
    return len(listed.stdout.splitlines())


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_further_subflows_of_an_mptcp_connection_are_no_attempts(
    seen: Captured, two_paths: tuple[NetworkNamespace, NetworkNamespace], when: str
) -> None:
    near, far = two_paths
    endpoint = "mptcp endpoint add 192.0.2.33 dev path2 subflow"
    if when == "before":  # a worker of the kernel opens the subflow, else the program that adds the endpoint
        near.ip(endpoint)

    def mptcp() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)

    with ExitStack() as stack:
        listener = stack.enter_context(far.inside(mptcp))
        listener.bind(("", MPTCP_PORT))
        listener.listen()
        client = stack.enter_context(near.inside(mptcp))
        client.connect(("192.0.2.18", MPTCP_PORT))
        accepted = stack.enter_context(closing(listener.accept()[0]))
        accepted.send(b"x")  # the connection is an MPTCP one for good
        client.recv(1)
        client.send(b"y")
        accepted.recv(1)
        if when == "after":
            near.ip(endpoint)
        await_until(lambda: subflows(near) == 2)
        events = seen.of(lambda event: event.netns == near.inode, 1)
    assert [(event.pid, str(decide(event).outcome)) for event in events] == [(os.getpid(), "established")]


# ---- what no hook sees


def test_what_seccomp_forbids_is_not_seen_and_leaves_nothing_behind(bench: Bench, seen: Captured) -> None:
    port = str(bench.closed(Family.IPV4).port)
    argv = [sys.executable, "-I", "-c", FORBIDDEN, port, str(CONNECT[os.uname().machine])]
    with bench.namespace.popen(argv) as client:
        told = client.communicate(timeout=20)[0].split()
    assert told == ["ECONNREFUSED", "EPERM"]
    assert closed_by(bench, seen) == []
    assert said(seen.of_process(client.pid, 1)) == [("refused", errno.ECONNREFUSED)]


@pytest.mark.parametrize("family", Family)
def test_a_local_failure_of_sendto_leaves_nothing_behind_and_is_seen_where_sends_are(
    bench: Bench, seen: Captured, family: Family
) -> None:
    wanted = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    nowhere, closed = bench.error_route(family, "none"), bench.closed(family)
    with bench.namespace.inside(lambda: socket.socket(wanted)) as client:
        with pytest.raises(OSError, match="unreachable"):
            client.sendto(b"x", socket.MSG_FASTOPEN, (nowhere.host, nowhere.port))
        assert client.connect_ex((closed.host, closed.port)) == errno.ECONNREFUSED
    sends = seen.capture.sight.sends
    *failed, event = mine(seen, 1 + sends)
    assert said(failed) == [("local_error", errno.ENETUNREACH)] * sends
    assert (decide(event).outcome, event.peer_address) == (Outcome.REFUSED, closed.address)
