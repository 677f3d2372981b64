"""The bench: one network in which every end of a connect attempt can be had, and a way to run a client.

========================  ============================================================
loopback                  a listener and a closed port of each family
192.0.2.0/24              the scripted peer (2001:db8::/64)
198.51.100.0/24           a cable with no neighbours (2001:db8:1::/64)
203.0.113.0/24            routes that are errors, and no route at all (2001:db8:2::/64)
198.19.0.0/16             behind a router that knows no way (2001:db8:4::/48)
========================  ============================================================

A firewall of its own and a cgroup that may not connect are made when they are asked for.
"""

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import Enum
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.entries import Entry
from tests.support.firewall import Firewall
from tests.support.forbidden import forbidding_cgroup
from tests.support.network import Listener, NetworkNamespace, closed_port
from tests.support.oracle import ObservedAttempt, Trace, attempts
from tests.support.peer import PEER, Answer, Behaviour, ScriptedPeer
from tests.support.runtimes import PYTHON, Report, Runtime, available, c_client, read_reports

LONGEST_SECONDS = 30.0

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_NEIGHBOURLESS = {socket.AF_INET: "198.51.100.2", socket.AF_INET6: "2001:db8:1::2"}
_ERROR_ROUTES = {socket.AF_INET: "203.0.113.{}", socket.AF_INET6: "2001:db8:2::{}"}
_ROUTED = {socket.AF_INET: "198.19.{}.{}", socket.AF_INET6: "2001:db8:4:{}::{}"}
_KINDS = {"prohibit": 1, "unreachable": 2, "blackhole": 3, "none": 4}
_CABLE = [("198.18.0.1/24", "198.18.0.2/24"), ("2001:db8:3::1/64", "2001:db8:3::2/64")]
_ANY_PORT = 9
_CLIENT_WITHOUT_COOKIE = 1 | 4  # of net.ipv4.tcp_fastopen: TFO_CLIENT_ENABLE, TFO_CLIENT_NO_COOKIE
_ABSENT = "absent: "  # what the client ``dial`` says where the kernel has not what an attempt takes
_ENTER = 'echo 0 >"$0" && exec "$@"'


class AbsentError(Exception):
    """This machine has not what an attempt takes."""


class Family(Enum):
    """Which socket, and which address it is given."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"
    MAPPED = "IPv4 by an IPv6 socket"

    @property
    def wire(self) -> socket.AddressFamily:
        """The family of the packets."""
        return socket.AF_INET6 if self is Family.IPV6 else socket.AF_INET


class Target(NamedTuple):
    """Where a client is sent: ``host`` as it is told to the client, ``address`` as it is on the wire."""

    host: str
    address: str
    port: int


class Run(NamedTuple):
    """One client program that ran to its end."""

    pid: int
    target: Target
    reports: tuple[Report, ...]
    """What it said about its attempts; nothing if it was killed before."""
    exit_code: int
    """Negative: the signal that killed it."""
    syns: int | None
    """How many SYNs reached the scripted peer; ``None`` if it was sent elsewhere."""
    observed: tuple[ObservedAttempt, ...] | None
    """What strace saw; ``None`` if the bench does not trace."""
    absent: str = ""
    """Why it was not made: what this machine has not."""
    when_ns: range = range(0)
    """The time from the program's start to its end (Unix time, ns): pids come again."""


class Bench:
    """The network, for the length of a ``with`` block; needs root. Clients may run in several threads.

    With ``traced`` every client runs under strace, for a second opinion. The bench itself makes attempts
    only for ``occupied``, from the calling process. ``programs`` is a folder with the clients that are written in C, if
    they are not to be compiled.
    """

    def __init__(self, *, traced: bool = False, programs: Path | None = None) -> None:
        self._traced = traced
        self._programs = programs
        self._lock = threading.Lock()
        self._ports = count(20_001)
        self._routed = count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.namespace = stack.enter_context(NetworkNamespace())
            self.router = stack.enter_context(NetworkNamespace())
            self.peer = stack.enter_context(ScriptedPeer(self.namespace))
            self.listeners = {family: stack.enter_context(Listener(family, self.namespace)) for family in _FAMILIES}
            self._closed = {family: stack.enter_context(closed_port(family, self.namespace)) for family in _FAMILIES}
            self._lay_routes()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def listener(self, family: Family) -> Target:
        """Return a target that accepts."""
        listener = self.listeners[family.wire]
        return _target(family, listener.address, listener.port)

    def closed(self, family: Family) -> Target:
        """Return a target that refuses."""
        return _target(family, self.listeners[family.wire].address, self._closed[family.wire])

    def scripted(self, family: Family, behaviour: Behaviour) -> Target:
        """Return a target that answers as told; each call gives a port of its own."""
        port = next(self._ports)
        self.peer.on(port, behaviour)
        return _target(family, PEER[family.wire], port)

    def neighbourless(self, family: Family) -> Target:
        """Return a target on the cable that has no hardware address."""
        return _target(family, _NEIGHBOURLESS[family.wire], _ANY_PORT)

    def error_route(self, family: Family, kind: str) -> Target:
        """Return a target whose route is ``prohibit``, ``unreachable``, ``blackhole``, or ``none``, no route."""
        return _target(family, _ERROR_ROUTES[family.wire].format(_KINDS[kind]), _ANY_PORT)

    def routed(self, family: Family, kind: str) -> Target:
        """Return a target whose router sends an ICMP error while connect() still holds the socket."""
        number = next(self._routed)
        address = _ROUTED[family.wire].format(_KINDS[kind], number)
        if family.wire == socket.AF_INET:
            # A router answers one source only once a second (ip_error), so each run has its own.
            self.namespace.ip(f"addr add 198.18.1.{number}/32 dev way")
            self.namespace.ip(f"route add {address} via 198.18.0.2 src 198.18.1.{number}")
        return _target(family, address, _ANY_PORT)

    def occupied(self, family: Family) -> tuple[Target, int]:
        """Return a target with a connection from a local port that others may share, and that port."""
        target = self.scripted(family, Behaviour(Answer.ACCEPT))
        self._stack.enter_context(self.namespace.inside(lambda: _occupy(family, target)))
        holder_port = next(syn.source_port for syn in self.peer.syns if syn.port == target.port)
        return target, holder_port

    def rejecting(self, family: Family, verdict: str) -> Target:
        """Return a target that the firewall of this side rejects, by a verdict of nft; raises AbsentError."""
        if shutil.which("nft") is None:
            raise AbsentError("no nft here")
        target = self.scripted(family, Behaviour(Answer.SILENT))
        self._firewall.out(target.port, verdict)
        return target

    @property
    def forbidding(self) -> Path:
        """Return the file by which a client enters a cgroup that may not connect; raises AbsentError."""
        with self._lock:
            return self._forbidding_group

    def run(
        self,
        target: Target,
        *arguments: str,
        attempts: int = 1,
        timeout_ms: int = 0,
    ) -> Run:
        """Run the Python client to its end."""
        argv = [*PYTHON, target.host, str(target.port), str(attempts), str(timeout_ms), *arguments]
        return self.run_argv(argv, target)

    def dial(
        self,
        target: Target,
        entry: Entry,
        options: Mapping[str, object],
        *,
        on_syn: "OnSyn | None" = None,
        group: Path | None = None,
        word: str = "",
    ) -> Run:
        """Run the client ``dial`` to its end, in a cgroup perhaps; raises AbsentError if the kernel has not the entry.

        ``on_syn`` is called when a SYN of it has come to the scripted peer; ``word`` names another call of the entry.
        """
        words = [f"{name.replace('_', '-')}={value}" for name, value in options.items()]
        argv = [str(self.program("dial")), word or entry.program, target.host, str(target.port), *words]
        run = self.run_argv(["sh", "-c", _ENTER, str(group), *argv] if group else argv, target, on_syn=on_syn)
        if entry is Entry.COMPAT and run.exit_code == -signal.SIGSEGV:
            raise AbsentError("this kernel takes no calls of 32-bit programs")
        return run

    def program(self, name: str) -> Path:
        """Return the path of a client that is written in C."""
        return self._programs / name if self._programs else c_client(name)

    def run_argv(self, argv: Sequence[str], target: Target, *, on_syn: "OnSyn | None" = None) -> Run:
        """Run a client that reports in JSON lines to its end."""
        runtime = Runtime("client", argv[0], lambda *_: list(argv), _reports)
        return self.run_runtime(runtime, target, on_syn=on_syn)

    def run_runtime(
        self,
        runtime: Runtime,
        target: Target,
        *,
        attempts: int = 1,
        timeout_ms: int = 0,
        on_syn: "OnSyn | None" = None,
    ) -> Run:
        """Run a client of any runtime to its end; raises TimeoutExpired."""
        argv = runtime.argv(target.host, target.port, attempts, timeout_ms)
        before, began_ns = self.peer.syn_count(target.port), time.time_ns()
        with ExitStack() as stack:
            trace = stack.enter_context(Trace()) if self._traced else None
            process = stack.enter_context(self.namespace.popen(trace.command(argv) if trace else argv))
            stdout = self._finish(process, target, on_syn)
            observed = _observed(trace) if trace else None
        scripted = target.address in PEER.values()
        self.peer.catch_up()
        return Run(
            pid=process.pid,
            target=target,
            reports=runtime.reports(stdout, process.pid),
            exit_code=process.returncode,
            syns=self.peer.syn_count(target.port) - before if scripted else None,
            observed=observed,
            when_ns=range(began_ns, time.time_ns()),
        )

    def run_together(self, plans: Sequence[tuple[str, Target, int]], *, attempts: int) -> list[Run]:
        """Run programs at one time: each the name of its runtime, its target, and its ``timeout_ms``."""
        runtimes = {runtime.name: runtime for runtime in available()}

        def run(plan: tuple[str, Target, int]) -> Run:
            name, target, timeout_ms = plan
            return self.run_runtime(runtimes[name], target, attempts=attempts, timeout_ms=timeout_ms)

        with ThreadPoolExecutor(len(plans)) as pool:
            return list(pool.map(run, plans))

    def _finish(self, process: subprocess.Popen[str], target: Target, on_syn: "OnSyn | None") -> str:
        """Wait for a client's end and return its stdout; whatever goes wrong, it has ended afterwards."""
        try:
            if on_syn:
                self.peer.wait_for_syn(target.port)
                on_syn(self, process, target)
            return process.communicate(timeout=LONGEST_SECONDS)[0]
        except BaseException:
            process.kill()
            raise

    @cached_property
    def _firewall(self) -> Firewall:
        return Firewall(self.namespace)  # to make it twice changes nothing

    @cached_property
    def _forbidding_group(self) -> Path:
        try:
            return self._stack.enter_context(forbidding_cgroup())
        except (KeyError, OSError) as error:
            raise AbsentError("no programs for cgroups here") from error

    def _lay_routes(self) -> None:
        inner, outer = self.namespace, self.router
        # Two SYNs instead of the usual seven, so that a silent peer times out after three seconds. Linux 6.5
        # and later would send more of them a second apart (tcp_syn_linear_timeouts).
        inner.sysctl("net.ipv4.tcp_syn_retries", 1)
        inner.sysctl("net.ipv4.tcp_syn_linear_timeouts", 0, optional=True)
        # TCP_FASTOPEN_CONNECT defers the SYN to whatever peer, as with one that gave a cookie; always, also after a
        # time-out (before Linux 5.14 that kept fast open off for an hour).
        inner.sysctl("net.ipv4.tcp_fastopen", _CLIENT_WITHOUT_COOKIE)
        inner.sysctl("net.ipv4.tcp_fastopen_blackhole_timeout_sec", 0)
        inner.silent_neighbourhood("quiet", ["198.51.100.1/24", "2001:db8:1::1/64"])
        inner.cable(outer, "way", _CABLE)
        inner.ip("-6 route add 2001:db8:4::/48 via 2001:db8:3::2")
        outer.ip("route add 198.18.1.0/24 via 198.18.0.1")
        for key, value in (
            ("net.ipv4.ip_forward", 1),
            ("net.ipv6.conf.all.forwarding", 1),
            ("net.ipv4.icmp_ratelimit", 0),
            ("net.ipv6.icmp.ratelimit", 0),
        ):
            outer.sysctl(key, value)
        for kind, number in _KINDS.items():
            for family in _FAMILIES:
                if kind != "none":
                    inner.route(kind, _ERROR_ROUTES[family].format(number))
                    width = 24 if family == socket.AF_INET else 64
                    outer.route(kind, f"{_ROUTED[family].format(number, 0)}/{width}")


OnSyn = Callable[[Bench, subprocess.Popen[str], Target], None]
"""What is to be done to a client once its SYN is out."""


def kill(_: Bench, process: subprocess.Popen[str], __: Target) -> None:
    """Kill the client."""
    process.kill()


def destroy(bench: Bench, _: subprocess.Popen[str], target: Target) -> None:
    """Have the kernel destroy the client's socket (SOCK_DESTROY)."""
    bench.namespace.run(["ss", "-K", "dport", "=", f":{target.port}"])


def _target(family: Family, address: str, port: int) -> Target:
    return Target(f"::ffff:{address}" if family is Family.MAPPED else address, address, port)


def _occupy(family: Family, target: Target) -> socket.socket:
    """Connect from a port of the kernel's choice that allows others to bind it too."""
    made = socket.socket(family.wire)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 6)  # however late the peer is on a busy machine
    made.bind(("", 0))
    made.connect((target.address, target.port))
    return made


def _reports(stdout: str, _pid: int) -> tuple[Report, ...]:
    for line in stdout.splitlines():  # it may have been used for an attempt before
        if line.startswith(_ABSENT):
            raise AbsentError(line.removeprefix(_ABSENT).strip())
    return read_reports(stdout)


def _observed(trace: Trace) -> tuple[ObservedAttempt, ...]:
    return tuple(attempts(trace.calls()))
