"""What counts as evidence of an attempt: only what this very attempt left, and all of that.

An application may take the socket's errno before the state changes, or use a socket again on which an earlier attempt
has left its errno, its ICMP error and its port.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from otel_connect.model import ConnectEvent
from tests.support.bench import Bench, Family, Target
from tests.support.captured import Captured, said
from tests.support.ends import PATIENT_MS
from tests.support.entries import Entry
from tests.support.network import Listener
from tests.support.peer import Answer, Behaviour

NEAR = 0.002  # seconds: connect() has let go of the socket, and the program is not asleep yet
SIMULTANEOUS_S = 0.3  # until the peer sends a SYN of its own: before the first retransmission
ROUNDS = 200
SHORT_SOCKADDR_IN6 = 24  # without the scope: SIN6_LEN_RFC2133

_libc = ctypes.CDLL(None, use_errno=True)


def connect(client: socket.socket, target: Target, length: int | None = None) -> int:
    """Connect as a C program does, a blocking call included; return the errno, or 0."""
    if client.family == socket.AF_INET:
        address = struct.pack("=H", socket.AF_INET) + struct.pack(
            "!H4s8x", target.port, socket.inet_aton(target.address)
        )
    else:
        packed = socket.inet_pton(socket.AF_INET6, target.host)
        address = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", target.port, 0, packed, 0)
    if _libc.connect(client.fileno(), address, length or len(address)) == 0:
        return 0
    return ctypes.get_errno()


def disconnect(client: socket.socket) -> None:
    assert _libc.connect(client.fileno(), struct.pack("=H26x", socket.AF_UNSPEC), 28) == 0


def new_socket(bench: Bench, family: Family) -> socket.socket:
    wanted = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    return bench.namespace.inside(lambda: socket.socket(wanted))


def mine(seen: Captured, count: int) -> list[ConnectEvent]:
    return seen.of_process(os.getpid(), count)


# ---- the errno is taken from the socket before its state changes


@pytest.mark.parametrize(
    ("family", "answer", "allowed"),
    [
        *((family, Answer.REFUSE, {("refused", errno.ECONNREFUSED)}) for family in Family),
        *(
            (family, Answer.HOST_UNREACHABLE, {("unreachable", errno.EHOSTUNREACH)})
            for family in (Family.IPV4, Family.MAPPED)
        ),
        (Family.IPV4, Answer.RESET, {("reset", errno.ECONNRESET)}),
        # of ICMPv6 no trace is left: it is not known what ended it, only that no program did
        (Family.IPV6, Answer.HOST_UNREACHABLE, {("unreachable", errno.EHOSTUNREACH), ("unknown", None)}),
    ],
)
def test_an_errno_that_the_program_takes_at_once_is_still_seen(
    bench: Bench, seen: Captured, family: Family, answer: Answer, allowed: set[tuple[str, int | None]]
) -> None:
    target = bench.scripted(family, Behaviour(answer, NEAR))
    run = bench.dial(target, Entry.CONNECT, {"spin": 1, "rounds": ROUNDS, "timeout": PATIENT_MS})
    assert len(run.reports) == ROUNDS
    assert all(report.errno for report in run.reports)
    events = seen.of_process(run.pid, ROUNDS)
    assert len(events) == ROUNDS
    assert set(said(events)) <= allowed


@pytest.mark.parametrize("family", [Family.IPV4, Family.MAPPED])
def test_an_icmp_error_that_met_a_locked_socket_is_seen_without_any_connect_call(
    bench: Bench, seen: Captured, family: Family
) -> None:
    target = bench.routed(family, "unreachable")
    with new_socket(bench, family) as client:
        client.setblocking(False)
        with suppress(BlockingIOError):  # or the SYN takes along what is sent
            client.sendto(b"x", socket.MSG_FASTOPEN, (target.host, target.port))
        assert select.select([], [client], [], 10)[1]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH
    assert said(mine(seen, 1)) == [("unreachable", errno.EHOSTUNREACH)]


def test_an_icmpv6_error_that_met_a_locked_socket_is_seen_as_long_as_nobody_took_it(
    bench: Bench, seen: Captured
) -> None:
    target = bench.routed(Family.IPV6, "unreachable")
    with new_socket(bench, Family.IPV6) as client:
        client.setblocking(False)
        with suppress(BlockingIOError):  # or the SYN takes along what is sent
            client.sendto(b"x", socket.MSG_FASTOPEN, (target.host, target.port))
    assert said(mine(seen, 1)) == [("unreachable", errno.ENETUNREACH)]


def test_the_same_icmpv6_error_again_on_one_socket_is_not_taken_for_a_close(bench: Bench, seen: Captured) -> None:
    """The kernel leaves the second one no other trace than the first: that is not known, and no end by the program."""
    target = bench.routed(Family.IPV6, "unreachable")
    with new_socket(bench, Family.IPV6) as client:
        client.setblocking(False)
        assert connect(client, target) == errno.EINPROGRESS
        disconnect(client)
        assert connect(client, target) == errno.EINPROGRESS
    assert said(mine(seen, 2)) == [("unreachable", errno.ENETUNREACH), ("unknown", None)]


def test_an_icmpv6_error_that_was_taken_from_a_locked_socket_is_not_known(bench: Bench, seen: Captured) -> None:
    target = bench.routed(Family.IPV6, "unreachable")
    with new_socket(bench, Family.IPV6) as client:
        client.setblocking(False)
        with suppress(BlockingIOError):  # or the SYN takes along what is sent
            client.sendto(b"x", socket.MSG_FASTOPEN, (target.host, target.port))
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETUNREACH
    assert said(mine(seen, 1)) == [("abandoned", None)]


# ---- a socket is used again


@contextmanager
def no_port(bench: Bench, family: Family) -> Iterator[Target]:
    """Leave the namespace one local port, and give a target that it is connected to already."""
    key = "net.ipv4.ip_local_port_range"
    before = bench.namespace.inside(lambda: Path("/proc/sys", *key.split(".")).read_text())
    with Listener(family.wire, bench.namespace) as listener, new_socket(bench, family) as holder:
        target = bench.listener(family)._replace(port=listener.port)
        bench.namespace.sysctl(key, "50000 50000")
        try:
            assert connect(holder, target) == 0
            yield target
        finally:
            bench.namespace.sysctl(key, before.strip())


def refused(bench: Bench, client: socket.socket, family: Family) -> None:
    assert connect(client, bench.closed(family)) == errno.ECONNREFUSED


def taken_back(bench: Bench, client: socket.socket, family: Family) -> None:
    """Leave ECONNRESET on the socket."""
    client.setblocking(False)
    assert connect(client, bench.scripted(family, Behaviour(Answer.SILENT))) == errno.EINPROGRESS
    disconnect(client)
    client.setblocking(True)


@pytest.mark.parametrize("before", [refused, taken_back])
@pytest.mark.parametrize("family", Family)
def test_no_port_left_on_a_socket_that_had_one(
    bench: Bench, seen: Captured, family: Family, before: Callable[[Bench, socket.socket, Family], None]
) -> None:
    with new_socket(bench, family) as client:
        before(bench, client, family)
        with no_port(bench, family) as target:
            assert connect(client, target) == errno.EADDRNOTAVAIL
    _, _, last = mine(seen, 3)
    assert said([last]) == [("local_error", errno.EADDRNOTAVAIL)]
    assert last.local_port is None


@pytest.mark.parametrize("family", Family)
def test_no_port_left_for_a_call_whose_return_is_not_seen(bench: Bench, seen: Captured, family: Family) -> None:
    with new_socket(bench, family) as client, no_port(bench, family) as target:
        refused(bench, client, family)
        seen.forget()
        with pytest.raises(OSError, match="Cannot assign"):
            client.sendto(b"x", socket.MSG_FASTOPEN, (target.host, target.port))
        (event,) = mine(seen, 1)
    assert (said([event]), event.local_port) == ([("local_error", None)], None)


@pytest.mark.parametrize("family", Family)
def test_a_port_that_the_program_bound_is_shown_although_the_attempt_failed(
    bench: Bench, seen: Captured, family: Family
) -> None:
    target, port = bench.occupied(family)
    seen.forget()
    with new_socket(bench, family) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        client.bind(("", port))
        assert connect(client, target) == errno.EADDRNOTAVAIL
    (event,) = mine(seen, 1)
    assert (said([event]), event.local_port) == ([("local_error", errno.EADDRNOTAVAIL)], port)


@pytest.mark.parametrize("family", Family)
def test_an_icmp_error_of_an_earlier_attempt_is_none_of_the_next(bench: Bench, seen: Captured, family: Family) -> None:
    with new_socket(bench, family) as client:
        first = connect(client, bench.routed(family, "prohibit"))
        assert first in {errno.EHOSTUNREACH, errno.EACCES}
        client.setblocking(False)
        assert connect(client, bench.scripted(family, Behaviour(Answer.SILENT))) == errno.EINPROGRESS
    # of ICMPv6 the second attempt would show no more if the error had come again
    last = "unknown" if family is Family.IPV6 else "abandoned"
    assert said(mine(seen, 2)) == [("unreachable", first), (last, None)]


@pytest.mark.parametrize("family", Family)
def test_every_attempt_on_one_socket_has_its_own_end_and_port(bench: Bench, seen: Captured, family: Family) -> None:
    targets = {
        errno.ECONNREFUSED: bench.scripted(family, Behaviour(Answer.REFUSE, NEAR)),
        errno.ECONNRESET: bench.scripted(family, Behaviour(Answer.RESET, NEAR)),
        0: bench.listener(family),
    }
    ports = []
    with new_socket(bench, family) as client:
        for number, target in targets.items():
            assert connect(client, target) == number
            ports.append(client.getsockname()[1])
        # the port of the established one is the only one that can still be asked for
    events = mine(seen, 3)
    assert said(events) == [("refused", errno.ECONNREFUSED), ("reset", errno.ECONNRESET), ("established", None)]
    assert events[-1].local_port == ports[-1]
    assert all(event.local_port for event in events)


@pytest.mark.parametrize("family", Family)
def test_an_attempt_that_both_ends_make_lasts_from_its_own_syn(bench: Bench, seen: Captured, family: Family) -> None:
    with new_socket(bench, family) as client:
        before = time.monotonic()
        assert connect(client, bench.scripted(family, Behaviour(Answer.RESET, SIMULTANEOUS_S))) == errno.ECONNRESET
        took = time.monotonic() - before
    (event,) = mine(seen, 1)
    assert event.syn_retransmits == 0
    assert event.duration_ns is not None
    assert SIMULTANEOUS_S <= event.duration_ns / 1e9 <= took


# ---- the address that the kernel took


def test_a_short_sockaddr_of_ipv6_is_read_as_far_as_the_kernel_reads_it(bench: Bench, seen: Captured) -> None:
    for target in (bench.listener(Family.IPV6), bench.error_route(Family.IPV6, "none")):
        for length in range(SHORT_SOCKADDR_IN6, 29):
            with new_socket(bench, Family.IPV6) as client:
                connect(client, target, length)
        events = mine(seen, 5)
        assert [(event.requested_address, event.requested_port) for event in events] == [target[1:]] * 5
        assert {event.target for event in events} == {target[1:]}
        seen.forget()


@pytest.mark.parametrize("length", [2, 15, 16, 23])
def test_an_address_that_the_kernel_refuses_to_take_is_not_shown(bench: Bench, seen: Captured, length: int) -> None:
    with new_socket(bench, Family.IPV6) as client:
        assert connect(client, bench.listener(Family.IPV6), length) == errno.EINVAL
    (event,) = mine(seen, 1)
    assert (said([event]), event.target) == ([("local_error", errno.EINVAL)], (None, None))
