"""The process that opens packet sockets, in every network namespace of the host, and hands them to the agent.

It keeps the capabilities that this takes, so that the agent, which reads what strangers send, has none of them.
It ends when its socket to the agent is closed; why it is a process: docs/decisions/0034-names-from-dns.md.
"""

import ctypes
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum

from otel_connect.capture.privileges import restrict

WANT = struct.Struct("=II")
"""What the agent sends: a network namespace by its inode number, and a thread that is in it."""
REPORT = struct.Struct("=IIi")
"""What it gets: the namespace, what about it (``About``), and an errno."""

NEEDED = ("CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")
"""To open such sockets, to enter other network namespaces, and to find them in /proc."""

SNAPSHOT_BYTES = (16 << 10) + 256
"""Of a packet: the longest message that is read (``enrich.dns.MESSAGE_BYTES``) behind its headers."""
_BUFFER_BYTES = 1 << 20
_LOOK_EVERY_MS = 5000
_CLONE_NEWNET = 0x40000000
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0800, 0x86DD
_DNS = 53

# Operations of the classic BPF, and what it knows of a packet beside its bytes (linux/filter.h).
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_HALF_AT_X, _HEADER_LENGTH_TO_X = 0x48, 0xB1
_IF_EQUAL, _IF_SET, _RETURN = 0x15, 0x45, 0x06
_PROTOCOL, _PACKET_TYPE, _INTERFACE = 0xFFFFF000, 0xFFFFF004, 0xFFFFF008
_OUTGOING, _LOOPBACK = 4, 1

_libc = ctypes.CDLL(None, use_errno=True)


class About(IntEnum):
    """What is told of a network namespace."""

    OPENED = 0
    """The socket comes along."""
    GONE = 1
    """No process is in it any more; the socket alone keeps it."""
    REFUSED = 2
    FULL = 3
    """So many are open that this one is not."""


# Each step: a label, an operation, its operand, and for a comparison where to go when it holds and when not.
_Step = tuple[str, int, int, str, str]
_FILTER: tuple[_Step, ...] = (
    ("", _LOAD_WORD, _PROTOCOL, "", ""),
    ("", _IF_EQUAL, _ETH_P_IP, "", "not v4"),
    ("", _LOAD_HALF, 6, "", ""),
    ("", _IF_SET, 0x1FFF, "drop", ""),  # a later fragment has no ports
    ("", _LOAD_BYTE, 9, "", ""),
    ("", _IF_EQUAL, socket.IPPROTO_UDP, "v4 ports", ""),
    ("", _IF_EQUAL, socket.IPPROTO_TCP, "", "drop"),
    ("v4 ports", _HEADER_LENGTH_TO_X, 0, "", ""),
    ("", _LOAD_HALF_AT_X, 2, "", ""),
    ("", _IF_EQUAL, _DNS, "question", ""),
    ("", _LOAD_HALF_AT_X, 0, "", ""),
    ("", _IF_EQUAL, _DNS, "answer", "drop"),
    ("not v4", _IF_EQUAL, _ETH_P_IPV6, "", "drop"),
    ("", _LOAD_BYTE, 6, "", ""),
    ("", _IF_EQUAL, socket.IPPROTO_UDP, "v6 ports", ""),
    ("", _IF_EQUAL, socket.IPPROTO_TCP, "", "drop"),
    ("v6 ports", _LOAD_HALF, 42, "", ""),
    ("", _IF_EQUAL, _DNS, "question", ""),
    ("", _LOAD_HALF, 40, "", ""),
    ("", _IF_EQUAL, _DNS, "answer", "drop"),
    # On loopback a packet is both sent and received: a question is taken when sent, an answer when received.
    ("answer", _LOAD_WORD, _PACKET_TYPE, "", ""),
    ("", _IF_EQUAL, _OUTGOING, "drop", "take"),
    ("question", _LOAD_WORD, _PACKET_TYPE, "", ""),
    ("", _IF_EQUAL, _OUTGOING, "take", ""),
    ("", _LOAD_WORD, _INTERFACE, "", ""),
    ("", _IF_EQUAL, _LOOPBACK, "drop", "take"),
    ("take", _RETURN, SNAPSHOT_BYTES, "", ""),
    ("drop", _RETURN, 0, "", ""),
)


def packet_filter() -> bytes:
    """Assemble the filter: questions sent or passing, answers received, by UDP and TCP, IPv4 and IPv6."""
    places = {label: index for index, (label, *_) in enumerate(_FILTER) if label}

    def jump(label: str, index: int) -> int:
        return places[label] - index - 1 if label else 0

    return b"".join(
        struct.pack("=HBBI", operation, jump(true, index), jump(false, index), operand)
        for index, (_, operation, operand, true, false) in enumerate(_FILTER)
    )


def open_socket() -> socket.socket:
    """Open a packet socket for this thread's network namespace; raises OSError."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    try:
        instructions = packet_filter()
        held = ctypes.create_string_buffer(instructions, len(instructions))
        program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(held))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        _take_all(opened)  # only now it gets packets: those that the filter lets pass
    except BaseException:
        opened.close()
        raise
    return opened


class Opener:
    """Opens a socket for each network namespace it finds or is told of, ``limit`` at the most."""

    def __init__(self, channel: socket.socket, limit: int) -> None:
        self._channel = channel
        self._limit = limit
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._known: set[int] = set()
        self._refused: set[int] = set()

    def run(self) -> None:
        """Look through /proc from time to time, and do what the agent asks, until it hangs up."""
        self.want(os.fstat(self._own).st_ino, os.getpid())
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        self._look()
        while True:
            if not poll.poll(_LOOK_EVERY_MS):
                self._look()
                continue
            asked = self._channel.recv(WANT.size)
            if not asked:
                return
            self.want(*WANT.unpack(asked))

    def want(self, netns: int, thread: int) -> None:
        """Open a socket in a namespace, by a thread that is in it, unless there is one."""
        if netns in self._known:
            return
        if len(self._known) >= self._limit:
            self._refuse(netns, About.FULL, 0)
            return
        try:
            opened = self._open(netns, thread)
        except OSError as error:
            self._refuse(netns, About.REFUSED, error.errno or 0)
            return
        if opened is not None:
            with opened:
                self._known.add(netns)
                socket.send_fds(self._channel, [REPORT.pack(netns, About.OPENED, 0)], [opened.fileno()])

    def _open(self, netns: int, thread: int) -> socket.socket | None:
        try:
            there = os.open(f"/proc/{thread}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None  # it has gone
        try:
            if os.fstat(there).st_ino != netns:
                return None
            if netns == os.fstat(self._own).st_ino:
                return open_socket()
            _enter(there)
            try:
                return open_socket()
            finally:
                _enter(self._own)  # a process in a namespace keeps it
        finally:
            os.close(there)

    def _look(self) -> None:
        found = dict(_namespaces())
        for netns in self._known - found.keys():
            self._known.discard(netns)
            self._channel.send(REPORT.pack(netns, About.GONE, 0))
        self._refused &= found.keys()
        for netns, process in found.items():
            self.want(netns, process)

    def _refuse(self, netns: int, about: About, errno: int) -> None:
        if netns not in self._refused:
            self._refused.add(netns)
            self._channel.send(REPORT.pack(netns, about, errno))


def _namespaces() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - a host has thousands, and only names are needed
        if name.isdigit():
            with suppress(OSError):  # it has gone, or may not be asked
                yield os.stat(f"/proc/{name}/ns/net").st_ino, int(name)  # noqa: PTH116 - for the same reason


def _take_all(opened: socket.socket) -> None:
    """Bind to every interface and protocol, as Python itself can only since 3.12."""
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0, b"")
    _check(_libc.bind(opened.fileno(), address, len(address)))


def _enter(namespace: int) -> None:
    _check(_libc.setns(namespace, _CLONE_NEWNET))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """Serve the agent at the other end of the socket whose descriptor is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the agent, which hangs up when it ends
    restrict(NEEDED)
    with suppress(BrokenPipeError, ConnectionResetError):
        Opener(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])).run()


if __name__ == "__main__":
    main()
