"""Why a SYN died: what this host dropped of an attempt and for which reason, and whether a RST came for it.

The reasons are the kernel's own words; every drop is made by what an operator has: rules of a firewall, a queue without
room, a neighbour that nobody is.
"""

import errno
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from otel_connect.model import ConnectEvent, Drops, Hook
from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family, Target
from tests.support.captured import Captured, said
from tests.support.collector import await_until
from tests.support.firewall import Firewall
from tests.support.peer import Answer, Behaviour

pytestmark = pytest.mark.captures

NEAR = 0.02
WIRED = (Family.IPV4, Family.IPV6)
DROPPED_ONCE = Drops("netfilter_drop", 1, received=False)
REJECTED = ("refused", errno.ECONNREFUSED)
ROUTER = {socket.AF_INET: "198.18.0.2", socket.AF_INET6: "2001:db8:3::2"}


@pytest.fixture(scope="module")
def wall(bench: Bench) -> Firewall:
    return Firewall(bench.namespace)


@pytest.fixture
def firewall(wall: Firewall) -> Iterator[Firewall]:
    yield wall
    wall.open()


def new_socket(bench: Bench, family: Family) -> socket.socket:
    wanted = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    client = bench.namespace.inside(lambda: socket.socket(wanted))
    client.settimeout(30)
    return client


def mine(seen: Captured, count: int) -> list[ConnectEvent]:
    return seen.of_process(os.getpid(), count)


def evidence(event: ConnectEvent) -> tuple[Drops | None, bool]:
    """Return what was dropped of it, and whether a RST came."""
    return event.drops, bool(event.hooks & Hook.RESET)


def connect(bench: Bench, family: Family, target: Target) -> int:
    with new_socket(bench, family) as client:
        client.setblocking(True)
        return client.connect_ex((target.host, target.port))


@contextmanager
def begun(bench: Bench, family: Family, target: Target) -> Iterator[socket.socket]:
    """Begin an attempt that is given up at the end, if it is not over by then."""
    with new_socket(bench, family) as client:
        client.setblocking(False)
        assert client.connect_ex((target.host, target.port)) == errno.EINPROGRESS
        yield client


def silent(bench: Bench, family: Family) -> Target:
    return bench.scripted(family, Behaviour(Answer.SILENT))


# ---- a firewall of this host


def test_a_firewall_that_drops_every_syn(bench: Bench, seen: Captured, firewall: Firewall) -> None:
    targets = {family: silent(bench, family) for family in Family}
    for target in targets.values():
        firewall.out(target.port)
    with ThreadPoolExecutor() as pool:  # each takes the three seconds of two SYNs
        returned = list(pool.map(lambda pair: connect(bench, *pair), targets.items()))
    assert returned == [errno.ETIMEDOUT] * 3
    events = mine(seen, 3)
    assert said(events) == [("timed_out", errno.ETIMEDOUT)] * 3
    assert {event.peer_port for event in events} == {target.port for target in targets.values()}
    assert [evidence(event) for event in events] == [(DROPPED_ONCE._replace(packets=2), False)] * 3
    assert [event.syn_retransmits for event in events] == [1] * 3
    assert all(bench.peer.syn_count(target.port) == 0 for target in targets.values())


@pytest.mark.parametrize("family", Family)
def test_a_drop_of_an_attempt_that_is_given_up(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    target = silent(bench, family)
    firewall.out(target.port)
    with begun(bench, family, target):
        pass
    (event,) = mine(seen, 1)
    assert (said([event]), evidence(event)) == ([("abandoned", None)], (DROPPED_ONCE, False))


@pytest.mark.parametrize("family", Family)
def test_a_drop_of_an_attempt_that_is_still_pending(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    target = silent(bench, family)
    firewall.out(target.port)
    with begun(bench, family, target):
        taken = [event for event in seen.capture.take_in_progress() if event.pid == os.getpid()]
    assert [(said([event]), event.drops) for event in taken] == [([("pending", None)], DROPPED_ONCE)]


@pytest.mark.parametrize("family", Family)
def test_an_attempt_that_is_answered_after_a_drop_shows_why_it_took_a_second(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    target = bench.scripted(family, Behaviour(Answer.ACCEPT))
    firewall.out(target.port)
    with begun(bench, family, target):
        firewall.open()
        (event,) = mine(seen, 1)
    assert (said([event]), evidence(event)) == ([("established", None)], (DROPPED_ONCE, False))
    assert event.syn_retransmits == 1


@pytest.mark.parametrize("family", Family)
def test_a_reset_that_the_firewall_of_this_host_sends(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    target = silent(bench, family)
    firewall.out(target.port, "meta l4proto tcp reject with tcp reset")
    assert connect(bench, family, target) == errno.ECONNREFUSED
    (event,) = mine(seen, 1)
    assert (said([event]), evidence(event)) == ([REJECTED], (DROPPED_ONCE, True))


@pytest.mark.parametrize("family", Family)
def test_an_icmp_error_that_the_firewall_of_this_host_sends(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    target = silent(bench, family)
    firewall.out(target.port, "reject with icmpx type port-unreachable")
    assert connect(bench, family, target) == errno.ECONNREFUSED
    (event,) = mine(seen, 1)
    assert said([event]) == [REJECTED]
    reason, packets, received = event.drops or Drops("", 0, received=True)
    assert (reason, received) == ("netfilter_drop", False)
    assert packets == 1 + event.syn_retransmits  # the error of the first may meet a socket that is held
    assert not event.hooks & Hook.RESET


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("answer", [Answer.ACCEPT, Answer.REFUSE])
def test_an_answer_that_the_firewall_drops(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family, answer: Answer
) -> None:
    target = bench.scripted(family, Behaviour(answer, NEAR))
    firewall.into(target.port)
    with begun(bench, family, target):
        await_until(firewall.has_dropped)
    (event,) = mine(seen, 1)
    assert said([event]) == [("abandoned", None)]
    assert evidence(event) == (Drops("netfilter_drop", 1, received=True), False)


def test_drops_are_counted_anew_when_the_direction_changes(bench: Bench, seen: Captured, firewall: Firewall) -> None:
    """Else as many drops as SYNs would not mean that none of these left the host."""
    target = bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT))
    firewall.into(target.port)
    with begun(bench, Family.IPV4, target) as client:
        await_until(firewall.has_dropped)
        firewall.out(target.port)
        await_until(lambda: retransmits(client) == 1)
    (event,) = mine(seen, 1)
    assert (said([event]), evidence(event)) == ([("abandoned", None)], (DROPPED_ONCE, False))
    assert event.syn_retransmits == 1
    assert bench.peer.syn_count(target.port) == 1


def retransmits(client: socket.socket) -> int:
    """Return tcpi_retransmits: how often the SYN was sent again, or tried to be."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)[2]


# ---- no neighbour, no room in a queue


@pytest.mark.parametrize("family", Family)
def test_a_neighbour_that_nobody_is(bench: Bench, seen: Captured, family: Family) -> None:
    assert connect(bench, family, bench.neighbourless(family)) == errno.EHOSTUNREACH
    (event,) = mine(seen, 1)
    assert said([event]) == [("unreachable", errno.EHOSTUNREACH)]
    # of IPv6 the kernel drops it without a reason, as drivers free what they have sent: that proves nothing
    failed = None if family is Family.IPV6 else Drops("neigh_failed", 1, received=False)
    assert evidence(event) == (failed, False)


@pytest.mark.parametrize("family", Family)
def test_a_queue_without_room(bench: Bench, seen: Captured, family: Family) -> None:
    address = ROUTER[family.wire]
    target = Target(f"::ffff:{address}" if family is Family.MAPPED else address, address, 9)
    queue = ["tc", "qdisc", "replace", "dev", "way", "root"]
    assert bench.namespace.run([*queue, "pfifo", "limit", "0"]).returncode == 0
    try:
        with begun(bench, family, target):
            pass
    finally:
        assert bench.namespace.run(["tc", "qdisc", "del", "dev", "way", "root"]).returncode == 0
    (event,) = mine(seen, 1)
    assert (said([event]), evidence(event)) == (
        [("abandoned", None)],
        (Drops("qdisc_drop", 1, received=False), False),
    )


# ---- what is not this attempt's


@pytest.mark.parametrize("family", Family)
def test_what_another_socket_sends_to_the_same_port_is_not_taken(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    target = silent(bench, family)
    with begun(bench, family, target) as pending:
        firewall.out(target.port)
        wanted = pending.family
        with bench.namespace.inside(lambda: socket.socket(wanted, socket.SOCK_DGRAM)) as other:
            for connected in (False, True):
                if connected:
                    other.connect((target.host, target.port))
                with pytest.raises(PermissionError):
                    other.sendto(b"x", (target.host, target.port))
        with begun(bench, family, target):
            pass
    events = mine(seen, 2)
    assert said(events) == [("abandoned", None)] * 2
    assert [event.drops for event in events] == [None, DROPPED_ONCE]


@pytest.mark.parametrize("family", WIRED)
def test_what_another_namespace_drops_is_not_taken(bench: Bench, seen: Captured, family: Family) -> None:
    address, port = ROUTER[family.wire], 4444
    there = Firewall(bench.router)
    there.into(port)
    try:
        with begun(bench, family, Target(address, address, port)):
            await_until(there.has_dropped)
    finally:
        there.open()
    (event,) = mine(seen, 1)
    assert (said([event]), event.drops) == ([("abandoned", None)], None)


@pytest.mark.parametrize("family", Family)
def test_the_next_attempt_on_a_socket_has_none_of_the_drops_before_it(
    bench: Bench, seen: Captured, firewall: Firewall, family: Family
) -> None:
    dropped, accepted = silent(bench, family), bench.listener(family)
    firewall.out(dropped.port)
    with begun(bench, family, dropped) as client:
        client.shutdown(socket.SHUT_RDWR)
        client.connect_ex((accepted.host, accepted.port))
        events = mine(seen, 2)
    assert said(events) == [("abandoned", None), ("established", None)]
    assert [event.drops for event in events] == [DROPPED_ONCE, None]


@pytest.mark.parametrize("family", Family)
def test_nothing_is_said_of_a_peer_that_is_silent(bench: Bench, seen: Captured, family: Family) -> None:
    with begun(bench, family, silent(bench, family)):
        pass
    (event,) = mine(seen, 1)
    assert (said([event]), evidence(event)) == ([("abandoned", None)], (None, False))


# ---- a RST


class Reset(NamedTuple):
    said: tuple[str, int | None]
    came: bool


RESETS = {
    Answer.REFUSE: Reset(REJECTED, came=True),
    Answer.RESET: Reset(("reset", errno.ECONNRESET), came=True),
    Answer.PORT_UNREACHABLE: Reset(REJECTED, came=False),
    Answer.ACCEPT: Reset(("established", None), came=False),
}


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("answer", RESETS)
def test_whether_a_rst_came(bench: Bench, seen: Captured, family: Family, answer: Answer) -> None:
    target = bench.scripted(family, Behaviour(answer, NEAR))
    connect(bench, family, target)
    (event,) = mine(seen, 1)
    expected = RESETS[answer]
    assert (said([event]), evidence(event)) == ([expected.said], (None, expected.came))


def test_the_hook_is_one_of_those_that_are_said(seen: Captured) -> None:
    assert "raw_tracepoint:kfree_skb" in seen.capture.hooks


# ---- what the agent says of it


def test_the_agent_says_it_on_its_record(bench: Bench, firewall: Firewall) -> None:
    target = silent(bench, Family.IPV4)
    firewall.out(target.port, "meta l4proto tcp reject with tcp reset")
    with RunningAgent("--output", "json") as agent:
        pid = bench.run(target).pid
        agent.until(lambda: len(agent.attempts(pid)) == 1)
        (record,) = agent.attempts(pid)
    named = {"otel_connect.outcome": "refused", "otel_connect.rst.received": True}
    dropped = {
        "otel_connect.drop.reason": "netfilter_drop",
        "otel_connect.drop.count": 1,
        "otel_connect.drop.direction": "transmit",
    }
    assert (named | dropped).items() <= record["attributes"].items()
