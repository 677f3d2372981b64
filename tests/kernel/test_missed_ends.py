"""Attempts whose end no probe saw: what the return of connect() proves of them, and what it does not.

The programs for changes of state do without the line that handles ends here, so that they miss every one.
"""

import ctypes
import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_connect.capture.child import Loaded
from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.layout import ATTEMPT, ClockOffsets, decode_event
from otel_connect.capture.loader import Wanted, load_probes, probe_directory
from otel_connect.capture.outcome import decide
from otel_connect.config import CaptureConfig
from otel_connect.encode.attributes import DURATION, RETRANSMITS, attempt_attributes
from otel_connect.model import ConnectEvent, Ending, EventFlag, Hook, Outcome, Verdict, Withheld
from tests.support.bench import Bench, Family, Target
from tests.support.collector import await_until
from tests.support.events import make_attempt
from tests.support.network import closed_port
from tests.support.peer import Answer, Behaviour

pytestmark = pytest.mark.captures

NOBODY = 0  # no process has this pid: nothing is left out
FINAL = Hook.ENTER | Hook.SYN_SENT | Hook.EXIT
TCP_USER_TIMEOUT = 18
TCP_FASTOPEN_CONNECT = 30
ESTABLISHED, SYN_SENT = 1, 2

HANDLE_END = "end(count, sk, old, new, first);"

# Connects a hundred times for each line, and keeps the sockets for the next one: they take the memory of others.
CONNECT_WHEN_TOLD = """
import os, socket, sys
for _ in sys.stdin:
    kept = []
    for _ in range(100):
        kept.append(socket.socket())
        kept[-1].connect_ex(("127.0.0.1", int(sys.argv[1])))
    print(flush=True)
"""


def load_without_ends(wanted: Wanted) -> Loaded:
    with tempfile.TemporaryDirectory() as folder:
        probes = Path(shutil.copytree(probe_directory(), folder, dirs_exist_ok=True))
        program = (probes / "connect.c").read_text(encoding="utf-8")
        assert program.count(HANDLE_END) == 1
        (probes / "connect.c").write_text(program.replace(HANDLE_END, ";"), encoding="utf-8")
        return load_probes(wanted, probes)


@contextmanager
def capturing(own_pid: int = NOBODY, **changes: Any) -> Iterator[KernelCapture]:
    with KernelCapture(CaptureConfig(**changes), own_pid, load=load_without_ends) as capture:
        yield capture


def ended(capture: KernelCapture) -> list[ConnectEvent]:
    taken = capture.drain()
    assert not taken.more
    return ours(taken.events)


def ours(events: Iterable[ConnectEvent]) -> list[ConnectEvent]:
    return [event for event in events if event.pid == os.getpid()]


def connect(bench: Bench, target: Target, timeout_ms: int = 0) -> int:
    """Connect and wait for the end; return the errno."""
    with bench.namespace.inside(socket.socket) as client:
        if timeout_ms:
            client.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms)
        return client.connect_ex((target.address, target.port))


@pytest.mark.parametrize(
    ("answer", "timeout_ms", "outcome", "number"),
    [
        (Answer.REFUSE, 0, Outcome.REFUSED, errno.ECONNREFUSED),
        (Answer.SILENT, 500, Outcome.TIMED_OUT, errno.ETIMEDOUT),
        (Answer.HOST_UNREACHABLE, 0, Outcome.UNREACHABLE, errno.EHOSTUNREACH),
        (Answer.NET_UNREACHABLE, 0, Outcome.UNREACHABLE, errno.ENETUNREACH),
        (Answer.PARAMETER_PROBLEM, 0, Outcome.LOCAL_ERROR, errno.EPROTO),
        (Answer.RESET, 0, Outcome.UNKNOWN, errno.ECONNRESET),
    ],
)
def test_connect_itself_says_what_became_of_its_attempt(
    answer: Answer, timeout_ms: int, outcome: Outcome, number: int
) -> None:
    with Bench() as bench, capturing() as capture:
        began = time.monotonic_ns()
        assert connect(bench, bench.scripted(Family.IPV4, Behaviour(answer)), timeout_ms) == number
        took = time.monotonic_ns() - began
        (event,) = ended(capture)
        assert [event for event in capture.take_in_progress() if event.pid == os.getpid()] == []
    verdict = Verdict(outcome, None if outcome is Outcome.UNKNOWN else number)
    seen = FINAL | (Hook.RESET if answer in {Answer.REFUSE, Answer.RESET} else 0)
    assert (event.ending, event.hooks, decide(event)) == (Ending.RETURNED, seen, verdict)
    assert event.duration_ns is not None
    assert 0 < event.duration_ns <= took
    said = dict(attempt_attributes(make_attempt(**event._asdict(), outcome=outcome, errno=verdict.errno)))
    assert said[DURATION] == event.duration_ns / 1e9
    assert RETRANSMITS not in said  # the kernel has reset what it counted


def test_what_is_no_end_leaves_the_attempt_in_progress() -> None:
    with Bench() as bench, capturing() as capture:
        silent = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        with bench.namespace.inside(socket.socket) as polling, bench.namespace.inside(socket.socket) as blocked:
            polling.setblocking(False)
            assert polling.connect_ex((silent.address, silent.port)) == errno.EINPROGRESS
            assert polling.connect_ex((silent.address, silent.port)) == errno.EALREADY
            interrupt_connect(blocked, silent)
            assert connect(bench, bench.listener(Family.IPV4)) == 0  # its end was missed: nothing says which it was
            assert ended(capture) == []
            assert sum(event.pid == os.getpid() for event in capture.take_in_progress()) == 3


def test_nothing_says_of_a_deferred_attempt_that_its_syn_has_left() -> None:
    """So none is ever overdue, before its SYN or after; it is in progress until the agent ends."""
    with Bench() as bench, capturing() as capture:
        target = bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT))
        with bench.namespace.inside(socket.socket) as client:
            client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            assert client.connect_ex((target.address, target.port)) == 0
            waiting = recorded(capture)
            assert bench.peer.syn_count(target.port) == 0
            client.send(b"x")
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
            assert bench.peer.syn_count(target.port) == 1
            assert len(waiting) == 1
            assert recorded(capture) == waiting
        assert recorded(capture) == waiting  # the socket is gone by now
        assert ours(capture.take_stale(time.monotonic_ns() + 86_400_000_000_000)) == []
        (event,) = ours(capture.take_in_progress())
    assert event.flags & EventFlag.DEFERRED
    assert (event.ending, decide(event)) == (Ending.PENDING, Verdict(Outcome.PENDING, None))


def recorded(capture: KernelCapture) -> list[bytes]:
    """Return what the kernel side has of this process's attempts in progress."""
    records = [record for _, value in capture._in_progress.items() for (record,) in ATTEMPT.iter_unpack(value)]
    return [record for record in records if decode_event(record, ClockOffsets(0, 0)).pid == os.getpid()]


def interrupt_connect(client: socket.socket, target: Target) -> None:
    """Have a signal interrupt a blocking connect() that has a time limit: only then does a program see EINTR."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 60, 0))
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", target.port) + socket.inet_aton(target.address)
    libc = ctypes.CDLL(None, use_errno=True)  # Python would wait for the end
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        assert libc.connect(client.fileno(), address + bytes(8), 16) == -1
        assert ctypes.get_errno() == errno.EINTR
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_shutdown_by_another_thread_is_an_end_of_unknown_kind() -> None:
    with Bench() as bench, capturing() as capture:
        silent = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        with bench.namespace.inside(socket.socket) as client:
            thread = threading.Thread(target=client.connect_ex, args=((silent.address, silent.port),))
            thread.start()
            await_until(lambda: client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == SYN_SENT)
            client.shutdown(socket.SHUT_RDWR)
            thread.join(30)
        (event,) = ended(capture)
    assert (event.ending, event.hooks, decide(event)) == (Ending.RETURNED, FINAL, Verdict(Outcome.UNKNOWN, None))


def test_without_a_record_they_are_tallied_by_what_connect_returned() -> None:
    with closed_port() as port, capturing(process_rate=1, process_burst=4) as capture:
        for _ in range(20):
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        recorded = ended(capture)
        (tally,) = (tally for tally in capture.take_tallies() if tally.event.pid == os.getpid())
    assert (tally.withheld, tally.attempts + len(recorded)) == (Withheld.PROCESS_RATE, 20)
    assert (tally.event.hooks, decide(tally.event)) == (Hook.SYN_SENT, Verdict(Outcome.REFUSED, errno.ECONNREFUSED))
    assert tally.event.target == ("127.0.0.1", port)
    assert tally.duration_ns


def test_the_agents_own_sockets_do_not_end_an_attempt_whose_memory_they_have() -> None:
    argv = [sys.executable, "-I", "-S", "-c", CONNECT_WHEN_TOLD]
    with (
        Bench() as bench,
        closed_port() as port,
        subprocess.Popen([*argv, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as own,
        capturing(own.pid) as capture,
    ):
        assert own.stdin
        assert own.stdout
        order, answer = own.stdin, own.stdout
        silent = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        replaced: list[ConnectEvent] = []

        def replaces() -> bool:
            capture.take_in_progress()  # so that only the agent's sockets can replace what follows
            with ExitStack() as stack:
                for _ in range(100):
                    client = stack.enter_context(bench.namespace.inside(socket.socket))
                    client.setblocking(False)
                    client.connect_ex((silent.address, silent.port))
            order.write(b"\n")
            order.flush()
            answer.readline()
            replaced.extend(ended(capture))
            return bool(replaced)

        await_until(replaces)
        assert {event.ending for event in replaced} == {Ending.REPLACED}
        assert capture.counters().own
        order.close()
