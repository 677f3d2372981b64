"""A peer on the far side of a TUN device that answers every SYN as a script says.

The kernel under test speaks to it as to any distant host. It answers by whole packets, so it can do what no
real server does on demand: lose the first SYN, refuse later, reset a half-open connection, or answer as a
router that knows no way.
"""

import fcntl
import heapq
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.network import NetworkNamespace
from tests.support.packets import ACK, FIN, RST, SYN, Segment, build_icmp_error, build_segment, parse_segment

PEER: Mapping[socket.AddressFamily, str] = {
    socket.AF_INET: "192.0.2.2",
    socket.AF_INET6: "2001:db8::2",
}
"""The peer's address of each family; it answers for every other address of the two networks too."""

_OWN_ADDRESSES = ("192.0.2.1/24", "2001:db8::1/64")
_INITIAL_SEQUENCE = 1000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class Answer(Enum):
    """What the peer answers to a SYN."""

    ACCEPT = "SYN-ACK, and a FIN as soon as the client sends or closes"
    REFUSE = "RST"
    RESET = "a SYN of its own (simultaneous open), then a RST to what the client answers"
    SILENT = "nothing"
    NET_UNREACHABLE = "ICMP: no route to the network"
    HOST_UNREACHABLE = "ICMP: no route to the host"
    HOST_UNKNOWN = "ICMP: the host is not known (IPv4 only)"
    PROTOCOL_UNREACHABLE = "ICMP: the host has no TCP (IPv4 only)"
    PORT_UNREACHABLE = "ICMP: nobody at the port"
    PROHIBITED = "ICMP: communication administratively prohibited"
    PARAMETER_PROBLEM = "ICMP: something is wrong with the header"


ICMP_ERRORS: Mapping[Answer, Mapping[int, tuple[int, int]]] = {
    Answer.NET_UNREACHABLE: {4: (3, 0), 6: (1, 0)},
    Answer.HOST_UNREACHABLE: {4: (3, 1), 6: (1, 3)},
    Answer.HOST_UNKNOWN: {4: (3, 7)},
    Answer.PROTOCOL_UNREACHABLE: {4: (3, 2)},
    Answer.PORT_UNREACHABLE: {4: (3, 3), 6: (1, 4)},
    Answer.PROHIBITED: {4: (3, 13), 6: (1, 1)},
    Answer.PARAMETER_PROBLEM: {4: (12, 0), 6: (4, 1)},
}
"""Type and code of each ICMP answer, by IP version."""


class Behaviour(NamedTuple):
    """How the peer treats connect attempts to a port or an address."""

    answer: Answer
    delay: float = 0.0
    """Seconds before each answer. An ICMP error that arrives while connect() still holds the socket is
    put aside by the kernel, so ICMP answers need a few milliseconds to act at once."""
    on_syn: int = 1
    """The first SYN that is answered; those before it are lost."""


SILENCE = Behaviour(Answer.SILENT)


class Syn(NamedTuple):
    """Whose SYN it was; retransmissions of one attempt are equal."""

    destination: str
    port: int
    source_port: int


def reply_to(behaviour: Behaviour, segment: Segment, packet: bytes, number: int) -> bytes | None:
    """Return the packet that answers a segment, if any; ``number`` counts the SYNs of the attempt from 1."""
    if segment.flags & RST:
        return None
    if segment.flags & SYN:
        if segment.flags & ACK:  # the client's half of a simultaneous open
            return _reply(segment, segment.acknowledgement, 0, RST)
        return _answer_syn(behaviour.answer, segment, packet) if number >= behaviour.on_syn else None
    received = len(segment.payload) + bool(segment.flags & FIN)
    if behaviour.answer is not Answer.ACCEPT or not received:
        return None
    # The peer keeps no state: whether its FIN was acknowledged already is in what the client acknowledges.
    closing = FIN if segment.acknowledgement == _INITIAL_SEQUENCE + 1 else 0
    return _reply(segment, segment.acknowledgement, segment.sequence + received, ACK | closing)


def _answer_syn(answer: Answer, segment: Segment, packet: bytes) -> bytes | None:
    acknowledgement = segment.sequence + len(segment.payload) + 1
    match answer:
        case Answer.ACCEPT:
            return _reply(segment, _INITIAL_SEQUENCE, acknowledgement, SYN | ACK)
        case Answer.REFUSE:
            return _reply(segment, 0, acknowledgement, RST | ACK)
        case Answer.RESET:
            return _reply(segment, _INITIAL_SEQUENCE, 0, SYN)
        case Answer.SILENT:
            return None
    return build_icmp_error(packet, *ICMP_ERRORS[answer][packet[0] >> 4])


def _reply(segment: Segment, sequence: int, acknowledgement: int, flags: int) -> bytes:
    return build_segment(
        Segment(
            source=segment.destination,
            destination=segment.source,
            source_port=segment.destination_port,
            destination_port=segment.source_port,
            sequence=sequence,
            acknowledgement=acknowledgement,
            flags=flags,
        )
    )


class ScriptedPeer:
    """The TUN device inside a namespace and the thread behind it; without a script it stays silent."""

    def __init__(self, namespace: NetworkNamespace, device: str = "tun0") -> None:
        self._namespace = namespace
        self._device = device
        self._script: dict[int | str, Behaviour] = {}
        self._syns: Counter[Syn] = Counter()
        self._changed = threading.Condition()
        self._asked = self._reached = 0
        self._later: list[tuple[float, int, bytes]] = []
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._tun = self._namespace.inside(lambda: _open_tun(self._device))
        self._stopped, self._stop = os.pipe()
        self._bell = os.eventfd(0)
        for address in _OWN_ADDRESSES:
            self._namespace.ip(f"addr add {address} dev {self._device}" + (" nodad" if ":" in address else ""))
        self._namespace.ip(f"link set {self._device} up")
        self._thread = threading.Thread(target=self._serve, name=f"peer-{self._device}")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopped)
        os.close(self._bell)
        os.close(self._tun)
        if self._failure and not error:
            raise self._failure

    def on(self, where: int | str, behaviour: Behaviour) -> None:
        """Set the behaviour towards attempts to a port or, where the port has none, to an address."""
        self._script[where] = behaviour

    @property
    def syns(self) -> Counter[Syn]:
        """How many SYNs came, by destination, port and source port."""
        with self._changed:
            return self._syns.copy()

    def syn_count(self, port: int) -> int:
        """Return how many SYNs came for a port, from any source port."""
        return sum(number for syn, number in self.syns.items() if syn.port == port)

    def wait_for_syn(self, port: int, timeout: float = 10.0) -> None:
        """Wait until a SYN for a port has come; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(syn.port == port for syn in self._syns), timeout):
                raise TimeoutError(f"no SYN to port {port} in {timeout} s")

    def catch_up(self, timeout: float = 10.0) -> None:
        """Wait until every packet that was sent before this call has been read; raises TimeoutError."""
        with self._changed:
            self._asked += 1
            mine = self._asked
            os.eventfd_write(self._bell, 1)
            if not self._changed.wait_for(lambda: self._reached >= mine, timeout):
                raise TimeoutError(f"the packets of {self._device} were not read in {timeout} s")

    def _serve(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001 (raised at the end of the with block)
            self._failure = error

    def _turn(self) -> bool:
        """Wait for a packet, for a delayed answer to be due, or for the end, which returns ``False``."""
        wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
        asked = self._asked  # before the look: whoever asks later may have sent something since
        readable, _, _ = select.select([self._tun, self._stopped, self._bell], [], [], wait)
        if self._stopped in readable:
            return False
        if self._tun in readable:
            self._receive(os.read(self._tun, 65536))
        elif self._bell in readable and asked > self._reached:
            os.eventfd_read(self._bell)
            with self._changed:
                self._reached = asked
                self._changed.notify_all()
                if self._asked > asked:
                    os.eventfd_write(self._bell, 1)
        while self._later and self._later[0][0] <= time.monotonic():
            os.write(self._tun, heapq.heappop(self._later)[2])
        return True

    def _receive(self, packet: bytes) -> None:
        segment = parse_segment(packet)
        if segment is None:
            return
        syn = Syn(segment.destination, segment.destination_port, segment.source_port)
        if segment.flags & (SYN | ACK) == SYN:
            with self._changed:
                self._syns[syn] += 1
                self._changed.notify_all()
        behaviour = self._script.get(syn.port) or self._script.get(syn.destination) or SILENCE
        reply = reply_to(behaviour, segment, packet, self._syns[syn])
        if reply is None:
            return
        if behaviour.delay:
            heapq.heappush(self._later, (time.monotonic() + behaviour.delay, id(reply), reply))
        else:
            os.write(self._tun, reply)


def _open_tun(device: str) -> int:
    """Make a TUN device in the namespace of the calling thread and return its file descriptor."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    except BaseException:
        os.close(tun)
        raise
    return tun
