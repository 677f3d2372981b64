"""Packets to and from name servers, as they pass in the network namespaces of the host.

The sockets are opened by a process of its own (``opener``) and read here. Reading is bounded: what is too much
stays in the sockets' buffers, and what finds no room there the kernel drops and counts.
"""

import errno
import logging
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from otel_connect.capture.opener import REPORT, SNAPSHOT_BYTES, WANT, About
from otel_connect.capture.segments import decode_segment
from otel_connect.model import Asker, ConnectEvent, Segment

_log = logging.getLogger(__name__)

_NAMESPACES = 256
_FIRST_S = 30.0  # an interpreter has to start first
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_TIMESTAMPNS = 35
_STATISTICS = struct.Struct("=II")
_TIMESPEC = struct.Struct("@qq")
_OUTGOING = 4
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)


class Packets:
    """The packet sockets at work. Use as a context manager."""

    def __init__(self, channel: socket.socket, process: "subprocess.Popen[bytes] | None" = None) -> None:
        """Take sockets from a channel at whose other end an ``Opener`` is; ``process`` is the one it runs in."""
        self._channel = channel
        self._process = process
        self._sockets: dict[int, socket.socket] = {}
        self._names: dict[int, int] = {}
        self._asked: set[int] = set()
        self._dropped = 0
        self._told: set[tuple[int, int]] = set()
        self._poll = select.epoll()
        channel.settimeout(0)
        self._poll.register(channel, select.EPOLLIN)

    def __enter__(self) -> Self:
        """Nothing to do: the sockets are there already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets, and end the process that opens them."""
        self._poll.close()
        self._channel.close()
        for one in self._sockets.values():
            one.close()
        self._sockets = {}
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def namespaces(self) -> int:
        """How many network namespaces are listened in."""
        return len(self._sockets)

    def dropped(self) -> int:
        """Count the packets that found no room in the buffers of the sockets."""
        for one in self._sockets.values():
            self._dropped += _drops(one)
        return self._dropped

    def await_first(self) -> int:
        """Wait for the socket of the own network namespace; return 0, or the errno for which there is none."""
        self._channel.settimeout(_FIRST_S)
        try:
            refused = self._take_report()
        except TimeoutError:
            refused = errno.ETIMEDOUT
        finally:
            self._channel.settimeout(0)
        return 0 if self._sockets else refused or errno.ECHILD

    def follow(self, events: Iterable[ConnectEvent], askers: Iterable[Asker]) -> None:
        """Listen where these come from, too: their threads lead to the network namespaces that they are in."""
        for asker in askers:
            self._want(asker.netns, asker.pid)
        for event in events:
            self._want(event.netns, event.tid)

    def drain(self, limit: int) -> list[Segment]:
        """Read what has come, ``limit`` packets at the most, from all namespaces in turn."""
        segments: list[Segment] = []
        ready = [number for number, _ in self._poll.poll(0)]
        if self._channel.fileno() in ready:
            ready.remove(self._channel.fileno())
            self._take_report()
        for position, number in enumerate(ready):
            netns = self._names.get(number)
            if netns is not None and len(segments) < limit:
                share = max(1, (limit - len(segments)) // (len(ready) - position))
                self._read(self._sockets[netns], netns, share, segments)
        return segments

    def _want(self, netns: int, thread: int) -> None:
        """Have a network namespace listened in; it is asked for once, with a thread that is in it."""
        if netns in self._sockets or netns in self._asked:
            return
        if len(self._asked) >= 4 * _NAMESPACES:
            self._asked.clear()
        self._asked.add(netns)
        with suppress(OSError):  # its buffer is full, or it has ended: what is not asked for is found later, or told
            self._channel.send(WANT.pack(netns, thread))

    def _read(self, one: socket.socket, netns: int, limit: int, into: list[Segment]) -> None:
        for _ in range(limit):
            try:
                packet, ancillary, _, address = one.recvmsg(SNAPSHOT_BYTES, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:  # of an interface that went down, say: the socket goes on
                continue
            at = next((_nanoseconds(data) for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS), 0)
            segment = decode_segment(packet, netns, at, outgoing=address[2] == _OUTGOING)
            if segment is not None:
                into.append(segment)

    def _take_report(self) -> int:
        """Take one report of the opener; return its errno."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, REPORT.size, 1)
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            message, descriptors = b"", []
        if not message:
            self._poll.unregister(self._channel)
            self._tell(About.GONE, 0)
            return 0
        netns, about, number = REPORT.unpack(message)
        self._asked.discard(netns)
        if about == About.OPENED:
            self._add(netns, socket.socket(fileno=descriptors[0]))
        elif about == About.GONE:
            self._remove(netns)
        else:
            self._asked.add(netns)
            if self._sockets:
                self._tell(about, number)
        return int(number)

    def _add(self, netns: int, one: socket.socket) -> None:
        self._sockets[netns] = one
        self._names[one.fileno()] = netns
        self._poll.register(one, select.EPOLLIN)

    def _remove(self, netns: int) -> None:
        one = self._sockets.pop(netns, None)
        if one is not None:
            self._dropped += _drops(one)
            del self._names[one.fileno()]
            self._poll.unregister(one)
            one.close()

    def _tell(self, about: int, number: int) -> None:
        if (about, number) in self._told:
            return
        self._told.add((about, number))
        if about == About.FULL:
            _log.warning("names are learned in %d network namespaces, and in no further ones", len(self._sockets))
        elif about == About.REFUSED:
            _log.warning(
                "names are not learned in a network namespace (%s); grant CAP_SYS_ADMIN, CAP_NET_RAW and"
                " CAP_SYS_PTRACE to have those of containers",
                os.strerror(number),
            )
        else:
            _log.warning("the process that opens packet sockets has ended: no further network namespace is listened in")


def listen() -> Packets | None:
    """Start listening in all network namespaces that can be entered; say why not, and return ``None``, if in none.

    Call it before privileges are dropped.
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "otel_connect.capture.opener", str(there.fileno()), str(_NAMESPACES)],
            pass_fds=[there.fileno()],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    packets = Packets(here, process)
    refused = packets.await_first()
    if not refused:
        return packets
    packets.__exit__(None, None, None)
    _log.warning(
        "no names of peers from DNS: no packet socket can be opened (%s);"
        " grant CAP_NET_RAW, or set enrich.names = false",
        os.strerror(refused),
    )
    return None


def _drops(one: socket.socket) -> int:
    """Read the count of dropped packets, which the kernel sets to 0 with that."""
    return int(_STATISTICS.unpack(one.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))[1])


def _nanoseconds(timespec: bytes) -> int:
    seconds, nanoseconds = _TIMESPEC.unpack(timespec[: _TIMESPEC.size])
    return int(seconds * 1_000_000_000 + nanoseconds)
