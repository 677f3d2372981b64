"""Packets of name servers, as the probes take them: which ones, in what order, from whom; and what a flood does."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.packets import Packets
from otel_connect.config import CaptureConfig
from otel_connect.model import Segment
from tests.support.collector import await_until
from tests.support.network import NetworkNamespace

NOBODY = 0
DOCKER = "127.0.0.11"
VERSIONS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made:
        yield made


@pytest.fixture(scope="module")
def capture() -> Iterator[KernelCapture]:
    with KernelCapture(CaptureConfig(), NOBODY, names=True) as made:
        yield made


@pytest.fixture
def packets(capture: KernelCapture) -> Packets:
    assert capture.packets is not None
    return capture.packets


def ours(packets: Packets, namespace: NetworkNamespace, limit: int = 10_000) -> list[Segment]:
    return [segment for segment in packets.drain(limit) if segment.netns == namespace.inode]


def taken(packets: Packets, namespace: NetworkNamespace, count: int) -> list[Segment]:
    """Wait for so many packets, and see that there are no more."""
    found: list[Segment] = []

    def enough() -> bool:
        found.extend(ours(packets, namespace))
        return len(found) >= count

    await_until(enough)
    found += ours(packets, namespace)
    assert len(found) == count
    return found


def datagrams(namespace: NetworkNamespace, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    return namespace.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))


def look_up(client: socket.socket, server: socket.socket, address: str) -> None:
    """Have a client ask a server at an address, and get its answer."""
    server.bind((address, 53))
    client.connect((address, 53))
    client.send(b"ask")
    _, back = server.recvfrom(100)
    server.sendto(b"answer", back)
    assert client.recv(100) == b"answer"


def started(pid: int) -> int:
    """Read when a process began, in clock ticks since boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.parametrize(("family", "address"), VERSIONS)
@pytest.mark.parametrize("connected", [True, False])
def test_each_question_and_each_answer_is_taken_once_and_nothing_else(
    packets: Packets, namespace: NetworkNamespace, family: socket.AddressFamily, address: str, connected: bool
) -> None:
    with datagrams(namespace, family) as client, datagrams(namespace, family) as server:
        server.bind((address, 53))
        client.sendto(b"other", (address, 54))
        if connected:
            client.connect((address, 53))
            client.send(b"ask")
        else:
            client.sendto(b"ask", (address, 53))
        _, back = server.recvfrom(100)
        server.sendto(b"answer", back)
        client.recv(100)
        question, answer = taken(packets, namespace, 2)
    assert (question.payload, question.outgoing, question.source) == (b"ask", True, address)
    assert (answer.payload, answer.outgoing, answer.source) == (b"answer", False, address)
    assert question.at_unix_ns <= answer.at_unix_ns
    assert question.dialled == (address if connected else None)
    assert answer.process is None
    assert question.process is not None
    pid, start_ns = question.process
    assert (pid, start_ns * os.sysconf("SC_CLK_TCK") // 10**9) == (os.getpid(), started(os.getpid()))


def test_who_asks_is_not_who_is_interrupted(packets: Packets, namespace: NetworkNamespace) -> None:
    """The neighbour does not say its address at first: the question waits, and leaves as an answer comes in."""
    with NetworkNamespace() as beside:
        namespace.cable(beside, "slow", [("10.53.2.1/24", "10.53.2.53/24")])
        namespace.ip("neigh del 10.53.2.53 dev slow")
        assert beside.run(["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=8"]).returncode == 0
        with datagrams(namespace) as client:
            client.connect(("10.53.2.53", 53))
            client.send(b"ask")
            assert ours(packets, namespace) == []
            assert beside.run(["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0"]).returncode == 0
            (question,) = taken(packets, namespace, 1)
    assert (question.payload, question.process) == (b"ask", None)


@pytest.mark.parametrize("size", [40, 1200, 4000])
def test_what_a_connection_carries_is_taken_whole(packets: Packets, namespace: NetworkNamespace, size: int) -> None:
    """The bytes of a connection are in pages, which no program can read by itself."""
    with NetworkNamespace() as beside:
        namespace.cable(beside, "cable", [("10.53.3.1/24", "10.53.3.53/24")])
        listening = beside.inside(socket.socket)
        client = namespace.inside(socket.socket)
        with listening, client:
            listening.bind(("10.53.3.53", 53))
            listening.listen()
            client.connect(("10.53.3.53", 53))
            server, _ = listening.accept()
            with server:
                client.sendall(b"ask")
                assert server.recv(100) == b"ask"
                server.sendall(b"a" * size)
                found: list[Segment] = []

                def all_of_it() -> bool:
                    found.extend(ours(packets, namespace))
                    return sum(len(one.payload) for one in found if not one.outgoing) >= size

                await_until(all_of_it)
    assert b"".join(one.payload for one in found if not one.outgoing) == b"a" * size
    assert b"".join(one.payload for one in found if one.outgoing) == b"ask"
    assert all(one.whole for one in found)
    assert next(one.syn for one in found if not one.outgoing)
    assert {one.process and one.process[0] for one in found if one.payload == b"ask"} == {os.getpid()}


def test_the_resolver_of_docker_listens_elsewhere(packets: Packets, namespace: NetworkNamespace) -> None:
    """What asks 127.0.0.11 on port 53 is sent to another port of that address, and the answer comes from port 53."""
    with datagrams(namespace) as client, datagrams(namespace) as server:
        server.bind((DOCKER, 0))
        rules = (
            "add table ip docker; add chain ip docker out { type nat hook output priority -100; };"
            f" add rule ip docker out ip daddr {DOCKER} udp dport 53 dnat to {DOCKER}:{server.getsockname()[1]}"
        )
        assert namespace.run(["nft", rules]).returncode == 0
        client.sendto(b"ask", (DOCKER, 53))
        _, back = server.recvfrom(100)
        server.sendto(b"answer", back)
        assert client.recvfrom(100) == (b"answer", (DOCKER, 53))
        question, answer = taken(packets, namespace, 2)
    assert (question.payload, question.outgoing) == (b"ask", True)
    assert (answer.payload, answer.outgoing, answer.source) == (b"answer", False, DOCKER)


def test_a_name_server_may_be_on_another_port_behind_a_translation(
    packets: Packets, namespace: NetworkNamespace
) -> None:
    with NetworkNamespace() as beside:
        namespace.cable(beside, "moved", [("10.53.4.1/24", "10.53.4.53/24")])
        with datagrams(namespace) as client, datagrams(beside) as server:
            server.bind(("10.53.4.53", 5353))
            rules = (
                "add table ip moved; add chain ip moved out { type nat hook output priority -100; };"
                " add rule ip moved out udp dport 53 dnat to 10.53.4.53:5353"
            )
            assert namespace.run(["nft", rules]).returncode == 0
            client.connect(("10.53.4.99", 53))
            client.send(b"ask")
            _, back = server.recvfrom(100)
            server.sendto(b"answer", back)
            assert client.recv(100) == b"answer"
            question, answer = taken(packets, namespace, 2)
    assert (question.dialled, question.destination, question.destination_port) == ("10.53.4.99", "10.53.4.53", 5353)
    assert (answer.source, answer.source_port, answer.outgoing) == ("10.53.4.53", 5353, False)


def test_what_passes_through_is_no_question_of_here(packets: Packets, namespace: NetworkNamespace) -> None:
    """A router: what comes in on one cable leaves by the other."""
    with NetworkNamespace() as near, NetworkNamespace() as far:
        near.cable(namespace, "near", [("10.53.5.2/24", "10.53.5.1/24")])
        namespace.cable(far, "far", [("10.53.6.1/24", "10.53.6.53/24")])
        near.ip("route add default via 10.53.5.1")
        far.ip("route add default via 10.53.6.1")
        assert namespace.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"]).returncode == 0
        with datagrams(near) as client, datagrams(far) as server:
            look_up(client, server, "10.53.6.53")
        found = packets.drain(10_000)
        assert [(one.netns, one.outgoing) for one in found if one.payload == b"ask"] == [(near.inode, True)]
        assert {one.outgoing for one in found if one.netns == namespace.inode} <= {False}


def test_an_answer_to_a_macvlan_is_seen_at_the_device_below_it_alone(
    packets: Packets, namespace: NetworkNamespace
) -> None:
    """The kernel tells of a received packet once, before it gives it to the macvlan, whose namespace is another."""
    with NetworkNamespace() as inner, NetworkNamespace() as beside:
        namespace.cable(beside, "below", [])
        namespace.ip("link add upper link below type macvlan mode bridge")
        namespace.ip(f"link set upper netns {inner.name}")
        for space, device, address in ((inner, "upper", "10.53.7.1/24"), (beside, "below", "10.53.7.53/24")):
            space.ip(f"addr add {address} dev {device}")
            space.ip(f"link set {device} up")
        with datagrams(inner) as client, datagrams(beside) as server:
            look_up(client, server, "10.53.7.53")
        found = packets.drain(10_000)
        assert {(one.netns, one.outgoing) for one in found if one.payload == b"ask"} == {(inner.inode, True)}
        answers = [(one.netns, one.outgoing) for one in found if one.payload == b"answer"]
        assert answers == [(namespace.inode, False)]


def test_a_flood_is_read_in_parts_and_what_is_lost_is_counted(
    capture: KernelCapture, packets: Packets, namespace: NetworkNamespace
) -> None:
    sent = 5000
    before = capture.counters().packets_lost
    with datagrams(namespace) as client, datagrams(namespace) as server:
        server.bind(("127.0.0.1", 53))
        for _ in range(sent):
            client.sendto(bytes(400), ("127.0.0.1", 53))
        payloads = []
        while found := ours(packets, namespace, 100):
            assert len(found) <= 100
            payloads += found
        assert [one.at_unix_ns for one in payloads] == sorted(one.at_unix_ns for one in payloads)
        lost = capture.counters().packets_lost - before
        assert lost > 0
        assert len(payloads) + lost == sent
