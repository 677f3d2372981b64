"""Where packets are listened to: what the process that opens sockets is asked for."""

import socket

import pytest

from otel_connect.capture.opener import WANT
from otel_connect.capture.packets import Packets
from otel_connect.model import Asker
from tests.support.events import make_event


def test_threads_and_processes_lead_to_their_network_namespaces_once() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there, Packets(here) as packets:
        there.setblocking(False)
        event, asker = make_event(netns=7, tid=71), Asker(82, 1, 8, 1, "10.0.0.1", 40_000, "10.0.0.53")
        packets.follow([event, event._replace(tid=72)], [asker])
        packets.follow([event], [asker])
        asked = {WANT.unpack(there.recv(WANT.size)) for _ in range(2)}
        assert asked == {(7, 71), (8, 82)}
        with pytest.raises(BlockingIOError):
            there.recv(WANT.size)
