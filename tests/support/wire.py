"""Connect attempts as a packet socket sees them on a device: when the SYN left, how often, when an answer came."""

import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.network import NetworkNamespace
from tests.support.packets import ACK, RST, SYN, Segment, parse_segment

_ETH_P_ALL = 3
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_TIMESPEC = struct.Struct("@qq")
_SNAPSHOT = 128  # headers
_BUFFER = 1 << 25


class Crossing(NamedTuple):
    """An attempt on the wire."""

    syns_ns: tuple[int, ...]
    """When each of its SYNs left, ns since the Unix epoch by the clock that the kernel stamps packets with."""
    answer_ns: int
    """When the first SYN-ACK or RST came."""

    @property
    def duration_ns(self) -> int:
        return self.answer_ns - self.syns_ns[0]


class Wire:
    """A packet socket on a device of a namespace, for the length of a ``with`` block; needs root."""

    def __init__(self, namespace: NetworkNamespace, device: str) -> None:
        self._namespace = namespace
        self._device = device

    def __enter__(self) -> Self:
        self._socket = self._namespace.inside(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def crossings(self) -> dict[tuple[int, int], list[Crossing]]:
        """Return the attempts so far that were answered, by the ports of the client and the peer, oldest first."""
        begun: dict[tuple[int, int], list[int]] = {}
        crossed: dict[tuple[int, int], list[Crossing]] = {}
        for at_ns, segment in self._segments():
            ports = segment.source_port, segment.destination_port
            if segment.flags & (SYN | ACK) == SYN:
                begun.setdefault(ports, []).append(at_ns)
            elif segment.flags & (SYN | RST) and (syns := begun.pop(ports[::-1], None)):
                crossed.setdefault(ports[::-1], []).append(Crossing(tuple(syns), at_ns))
        return crossed

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        opened.bind((self._device, _ETH_P_ALL))
        return opened

    def _segments(self) -> Iterator[tuple[int, Segment]]:
        while True:
            try:
                packet, ancillary, *_ = self._socket.recvmsg(_SNAPSHOT, socket.CMSG_SPACE(_TIMESPEC.size))
            except BlockingIOError:
                return
            seconds, ns = _TIMESPEC.unpack(ancillary[0][2])
            if segment := parse_segment(packet):
                yield seconds * 1_000_000_000 + ns, segment
