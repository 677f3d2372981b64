"""Networks of the tests' own: namespaces, cables between them, and plain TCP listeners.

Nothing here touches the network of the machine but its loopback. Whatever is made is removed at the end of
its ``with`` block, also after a failure.
"""

import ctypes
import os
import selectors
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self, TypeVar

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

_CLONE_NEWNET = 0x40000000
_COMMAND_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count()
_Made = TypeVar("_Made")


class NetworkNamespace:
    """A network namespace with loopback up; needs root."""

    def __init__(self) -> None:
        self.name = f"otc-test-{os.getpid()}-{next(_numbers)}"
        self._file = Path("/run/netns") / self.name
        self._nsenter = shutil.which("nsenter") or "nsenter"

    def __enter__(self) -> Self:
        _run(["ip", "netns", "add", self.name])
        try:
            self.ip("link set lo up")
            # A fresh address is usable at once, without waiting for duplicate address detection.
            for scope in ("all", "default"):
                self.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
                self.sysctl(f"net.ipv6.conf.{scope}.accept_ra", 0)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def inode(self) -> int:
        """The number by which the kernel and ``/proc/<pid>/ns/net`` name the namespace."""
        return self._file.stat().st_ino

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the argument list that runs a program inside: nsenter executes it, so the pid stays."""
        return [self._nsenter, f"--net={self._file}", "--", *argv]

    def run(
        self, argv: Sequence[str], *, timeout: float = 30.0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; raises TimeoutExpired, and never on its exit code."""
        return subprocess.run(
            self.command(argv),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )

    def popen(self, argv: Sequence[str], *, stderr: IO[str] | None = None) -> subprocess.Popen[str]:
        """Start a program inside, its stdout in a pipe; the pid of the process is the program's own."""
        return subprocess.Popen(
            self.command(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        )

    def inside(self, make: Callable[[], _Made]) -> _Made:
        """Call a function in a thread that has entered the namespace: the sockets it makes belong there."""
        results: list[_Made] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                _enter(self._file)
                results.append(make())
            except BaseException as error:  # noqa: BLE001 (raised again below, in the caller's thread)
                errors.append(error)

        thread = threading.Thread(target=work, name=f"inside-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def ip(self, command: str) -> None:
        """Configure the namespace with one iproute2 command, without the leading ``ip``."""
        _run(["ip", "-n", self.name, *command.split()])

    def sysctl(self, key: str, value: object, *, optional: bool = False) -> None:
        """Set a network variable of the namespace, such as ``net.ipv4.tcp_syn_retries``."""
        path = Path("/proc/sys", *key.split("."))
        with suppress(FileNotFoundError) if optional else nullcontext():
            self.inside(lambda: path.write_text(f"{value}\n", encoding="ascii"))

    def route(self, kind: str, destination: str) -> None:
        """Route a destination to an error: ``prohibit``, ``unreachable`` or ``blackhole``."""
        family = "-6" if ":" in destination else "-4"
        self.ip(f"{family} route add {kind} {destination}")

    def silent_neighbourhood(self, device: str, addresses: Sequence[str]) -> None:
        """Make a cable with own addresses whose neighbours never answer ARP or neighbour discovery.

        The kernel asks once, for a fifth of a second, instead of three times for a second.
        """
        self.ip(f"link add {device} type veth peer name {device}-far")
        for version in ("ipv4", "ipv6"):
            self.sysctl(f"net.{version}.neigh.{device}.mcast_solicit", 1)
            self.sysctl(f"net.{version}.neigh.{device}.retrans_time_ms", 200)
        for address in addresses:
            self.ip(f"addr add {address} dev {device}" + (" nodad" if ":" in address else " brd +"))
        for end in (f"{device}-far", device):
            self.ip(f"link set {end} up")

    def cable(self, other: "NetworkNamespace", device: str, ends: Sequence[tuple[str, str]]) -> None:
        """Lay a veth pair to another namespace; ``ends`` are pairs of (our, their) address with prefix.

        Each end knows the other's hardware address, so that the first packet already crosses inside the
        call that sends it.
        """
        ours, theirs = "02:00:00:00:00:01", "02:00:00:00:00:02"
        self.ip(f"link add {device} address {ours} type veth peer name {device} address {theirs} netns {other.name}")
        for space, far_hardware, near in ((self, theirs, 0), (other, ours, 1)):
            for pair in ends:
                space.ip(f"addr add {pair[near]} dev {device}" + (" nodad" if ":" in pair[near] else ""))
            space.ip(f"link set {device} up")
            for pair in ends:
                far = pair[1 - near].partition("/")[0]
                space.ip(f"neigh replace {far} lladdr {far_hardware} dev {device} nud permanent")

    def _remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            _run(["ip", "netns", "del", self.name])


class Accepted(NamedTuple):
    """One connection that a listener accepted."""

    address: str
    port: int


class Listener:
    """A server that accepts every connection and closes each as soon as the client sends or closes.

    Without a namespace it listens on the loopback of the machine. ``accepted`` holds who came; a client can
    be connected a moment before it is there, so wait with ``wait_for``.
    """

    def __init__(
        self, family: socket.AddressFamily = socket.AF_INET, namespace: NetworkNamespace | None = None
    ) -> None:
        def listen() -> socket.socket:
            return socket.create_server((LOOPBACK[family], 0), family=family, backlog=512)

        self._socket = namespace.inside(listen) if namespace else listen()
        self.address: str = LOOPBACK[family]
        self.port: int = self._socket.getsockname()[1]
        self.accepted: list[Accepted] = []
        self._changed = threading.Condition()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"listener-{self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        self._stopped.close()
        self._socket.close()

    def wait_for(self, local_port: int, timeout: float = 10.0) -> None:
        """Wait until a client from a port has been accepted; raises TimeoutError."""

        def came() -> bool:
            return any(client.port == local_port for client in self.accepted)

        with self._changed:
            if not self._changed.wait_for(came, timeout):
                raise TimeoutError(f"nobody came from port {local_port} in {timeout} s")

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._socket.setblocking(False)
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            open_connections: set[socket.socket] = set()
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._stopped in ready:
                    break
                if self._socket in ready and (connection := self._accept()):
                    selector.register(connection, selectors.EVENT_READ)
                    open_connections.add(connection)
                for connection in open_connections & ready:
                    selector.unregister(connection)
                    open_connections.remove(connection)
                    with connection, suppress(OSError):  # the client may have reset it
                        connection.recv(65536)
            for connection in open_connections:
                connection.close()

    def _accept(self) -> socket.socket | None:
        try:
            connection, peer = self._socket.accept()
        except OSError:  # a client that is gone before it was accepted
            return None
        with self._changed:
            self.accepted.append(Accepted(peer[0], peer[1]))
            self._changed.notify_all()
        return connection


@contextmanager
def closed_port(
    family: socket.AddressFamily = socket.AF_INET, namespace: NetworkNamespace | None = None
) -> Iterator[int]:
    """Hold a loopback port that surely refuses: bound, so that nobody else takes it, but not listening."""

    def bind() -> socket.socket:
        holder = socket.socket(family)
        holder.bind((LOOPBACK[family], 0))
        return holder

    with namespace.inside(bind) if namespace else bind() as holder:
        yield holder.getsockname()[1]


def _enter(file: Path) -> None:
    """Move the calling thread, and no other, into a network namespace."""
    with file.open("rb") as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(file))


def _run(argv: Sequence[str]) -> None:
    """Run a command that must succeed; what it says on stderr becomes part of the exception."""
    try:
        subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stderr}".strip())
        raise
