"""Packet sockets of a network namespace: what they take, and what a flood does to them."""

import socket
from collections.abc import Iterator

import pytest

from otel_connect.capture.packets import Packets, listen
from otel_connect.model import Segment
from tests.support.collector import await_until
from tests.support.network import NetworkNamespace


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made, made.popen(["sleep", "infinity"]) as somebody:
        try:
            yield made
        finally:
            somebody.kill()


@pytest.fixture
def packets(namespace: NetworkNamespace) -> Iterator[Packets]:
    listening = listen()
    assert listening is not None
    with listening:

        def listened() -> bool:
            listening.drain(1)
            return namespace.inode in listening._sockets

        await_until(listened)
        yield listening


def ours(packets: Packets, namespace: NetworkNamespace, limit: int = 10_000) -> list[Segment]:
    return [segment for segment in packets.drain(limit) if segment.netns == namespace.inode]


def datagrams(namespace: NetworkNamespace, family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
    def make() -> tuple[socket.socket, socket.socket]:
        return socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)

    return namespace.inside(make)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_each_packet_of_port_53_is_taken_once_and_no_other(
    packets: Packets, namespace: NetworkNamespace, family: socket.AddressFamily, address: str
) -> None:
    client, server = datagrams(namespace, family)
    with client, server:
        server.bind((address, 53))
        for target in ((address, 54), (address, 53)):
            client.sendto(b"ask", target)
        _, back = server.recvfrom(100)
        server.sendto(b"answer", back)
        client.recv(100)
        found: list[Segment] = []

        def both() -> bool:
            found.extend(ours(packets, namespace))
            return len(found) >= 2

        await_until(both)
        assert [(one.payload, one.outgoing) for one in found] == [(b"ask", True), (b"answer", False)]
        assert {one.source for one in found} == {address}
        assert found[0].at_unix_ns <= found[1].at_unix_ns
        assert ours(packets, namespace) == []


def test_a_flood_is_read_in_parts_and_what_is_lost_is_counted(packets: Packets, namespace: NetworkNamespace) -> None:
    sent = 5000
    before = packets.dropped()
    client, server = datagrams(namespace, socket.AF_INET)
    with client, server:
        server.bind(("127.0.0.1", 53))
        for _ in range(sent):
            client.sendto(bytes(400), ("127.0.0.1", 53))
        taken = len(ours(packets, namespace, 100))
        assert 0 < taken <= 100
        while found := ours(packets, namespace, 100):
            assert len(found) <= 100
            taken += len(found)
        lost = packets.dropped() - before
        assert lost > 0
        assert taken + lost == sent
