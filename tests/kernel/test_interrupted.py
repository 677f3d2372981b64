"""Ends that arrive by softirq while a probe runs on that CPU: none may be missed.

The kernel skips a BPF program that is already running on a CPU. SYN timeouts fire in a softirq, which may
interrupt a task in the middle of the probe of its own attempt; so the ends are watched by two programs.

The kernel's own event log is the oracle: it says for every timeout which task it interrupted. A kernel may keep
programs away from a task altogether (some hosts do so with their supervisor); nothing is seen then, whatever the
probes are. Wherever programs run at all, every end must be seen.
"""

import errno
import os
import re
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.outcome import decide
from otel_connect.capture.preflight import TRACEFS
from otel_connect.config import CaptureConfig
from otel_connect.model import ConnectEvent, Outcome
from tests.support.bench import Bench, Family, Target
from tests.support.collector import await_until
from tests.support.network import closed_port
from tests.support.peer import Answer, Behaviour

pytestmark = pytest.mark.captures

TIMEOUTS = 1500

# Connects as fast as it can, so that probes run most of the time.
LOAD = """
import os, socket, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
while os.getppid() == int(sys.argv[3]):
    for _ in range(100):
        with socket.socket() as client:
            client.connect_ex(("127.0.0.1", int(sys.argv[2])))
"""


@contextmanager
def load_on_every_cpu() -> Iterator[None]:
    with closed_port() as port, ExitStack() as stack:
        for cpu in os.sched_getaffinity(0):
            argv = [sys.executable, "-I", "-S", "-c", LOAD, str(cpu), str(port), str(os.getpid())]
            process = stack.enter_context(subprocess.Popen(argv))
            stack.callback(process.kill)
        yield


class Clients:
    """Sockets that nobody answers, and what each was told in the end."""

    def __init__(self, stack: ExitStack, bench: Bench, target: Target, count: int) -> None:
        self._waiting = select.poll()
        self._by_descriptor: dict[int, socket.socket] = {}
        self.told: Counter[int] = Counter()
        for _ in range(count):
            client = stack.enter_context(bench.namespace.inside(socket.socket))
            client.setblocking(False)
            client.connect_ex((target.address, target.port))
            self._by_descriptor[client.fileno()] = client
            self._waiting.register(client, 0)  # errors are reported without being asked for

    def all_told(self) -> bool:
        for descriptor, _ in self._waiting.poll(0):
            self._waiting.unregister(descriptor)
            client = self._by_descriptor.pop(descriptor)
            self.told[client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)] += 1
        return not self._by_descriptor


class EventLog:
    """The kernel's log of the ends of attempts towards one port, in a tracing instance of its own."""

    def __init__(self, port: int) -> None:
        self._folder = (
            next(mount for mount in TRACEFS if (mount / "instances").is_dir()) / f"instances/test-{os.getpid()}"
        )
        self._folder.mkdir()
        (self._folder / "buffer_size_kb").write_text("4096")
        self._event = self._folder / "events/sock/inet_sock_set_state"
        (self._event / "filter").write_text(f"oldstate == 2 && newstate == 7 && dport == {port}")  # SYN_SENT, CLOSE
        (self._event / "enable").write_text("1")

    def close(self) -> None:
        (self._event / "enable").write_text("0")
        self._folder.rmdir()

    def interrupted(self) -> dict[int, str]:
        """Return which task (``name-pid``) each end interrupted, by the local port of its attempt."""
        lines = (self._folder / "trace").read_text(errors="replace").splitlines()
        found = [re.match(r"\s*(.+?)\s+\[\d+\] .* sport=(\d+) ", line) for line in lines if "sport=" in line]
        return {int(match[2]): match[1] for match in found if match}


def test_timeouts_under_load_are_all_seen() -> None:
    ended: list[ConnectEvent] = []

    def drain(capture: KernelCapture, rounds: int) -> bool:
        """Read the ring for so many rounds at the most: the load may fill it faster than it can be read."""
        for _ in range(rounds):
            taken = capture.drain()
            ended.extend(event for event in taken.events if event.pid == os.getpid())
            if not taken.more:
                return True
        return False

    with Bench() as bench, ExitStack() as stack, KernelCapture(CaptureConfig(ring_bytes=256 << 20), 0) as capture:
        target = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        log = stack.enter_context(closing(EventLog(target.port)))
        clients = Clients(stack, bench, target, TIMEOUTS)
        with load_on_every_cpu():
            await_until(lambda: (clients.all_told(), drain(capture, 10))[0], 60)
        await_until(lambda: drain(capture, 10), 60)
        counters = capture.counters()
        interrupted = log.interrupted()
    assert clients.told == {errno.ETIMEDOUT: TIMEOUTS}
    assert len(interrupted) == TIMEOUTS
    assert counters.ring_full == 0
    assert {decide(event).outcome for event in ended} == {Outcome.TIMED_OUT}
    seen = {event.local_port for event in ended}
    assert len(seen) == len(ended)
    reached = {interrupted[port] for port in seen if port}
    assert len(reached) >= len(os.sched_getaffinity(0))
    assert {port for port, task in interrupted.items() if task in reached} == seen
