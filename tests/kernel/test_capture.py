"""The probes themselves: their counters, full tables, attempts without an end, and what is left of them."""

import errno
import json
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.outcome import decide
from otel_connect.config import CaptureConfig
from otel_connect.model import ConnectEvent, KernelCounters, Outcome
from tests.support.bench import Bench, Family
from tests.support.collector import await_until
from tests.support.network import closed_port
from tests.support.peer import Answer, Behaviour

pytestmark = pytest.mark.captures

NOBODY = 0  # no process has this pid: nothing is left out


@contextmanager
def capturing(own_pid: int = NOBODY, **changes: Any) -> Iterator[KernelCapture]:
    with KernelCapture(CaptureConfig(**changes), own_pid) as capture:
        yield capture


def ours(events: list[ConnectEvent]) -> list[ConnectEvent]:
    return [event for event in events if event.pid == os.getpid()]


def refuse(times: int) -> None:
    with closed_port() as port:
        for _ in range(times):
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", port)) != 0


def fail_locally(times: int) -> None:
    for _ in range(times):
        with socket.socket() as client:
            assert client.connect_ex(("255.255.255.255", 9)) == errno.ENETUNREACH


def drained(capture: KernelCapture) -> list[ConnectEvent]:
    events = []
    more = True
    while more:
        taken = capture.drain()
        assert taken.undecodable == 0
        events += taken.events
        more = taken.more
    return events


def assert_balanced(counters: KernelCounters, in_progress: int) -> None:
    ended = counters.emitted + counters.ring_full + counters.throttled + counters.filtered + counters.unsent
    assert counters.seen == ended + counters.pending_full + in_progress


def pending(bench: Bench, stack: ExitStack, count: int) -> None:
    """Begin attempts that nobody answers, in this process."""
    for _ in range(count):
        target = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        client = stack.enter_context(bench.namespace.inside(socket.socket))
        client.setblocking(False)
        assert client.connect_ex((target.address, target.port)) != 0


def test_a_full_ring_is_counted_and_what_is_in_it_can_still_be_read() -> None:
    with capturing(ring_bytes=4096) as capture:
        refuse(100)
        counters = capture.counters()
        assert counters.seen >= 100
        assert counters.ring_full > 0
        assert_balanced(counters, capture.in_progress())
        assert len(drained(capture)) == counters.emitted
        refuse(5)
        assert len(ours(drained(capture))) == 5


def test_more_attempts_than_the_table_holds_are_counted() -> None:
    with Bench() as bench, ExitStack() as sockets, capturing(max_in_progress=2) as capture:
        pending(bench, sockets, 5)
        counters = capture.counters()
        assert counters.pending_full >= 3
        assert_balanced(counters, capture.in_progress())
        # Their ends have no beginning in the table.
        sockets.close()
        assert capture.counters().untracked >= 3


def test_attempts_in_progress_are_found_and_taken_once() -> None:
    with Bench() as bench, ExitStack() as sockets, capturing() as capture:
        pending(bench, sockets, 3)
        assert capture.in_progress() >= 3
        capture.detach()
        taken = ours(capture.take_in_progress())
        assert [decide(event).outcome for event in taken] == [Outcome.PENDING] * 3
        assert all(event.duration_ns is None for event in taken)
        assert ours(capture.take_in_progress()) == []
        assert capture.in_progress() == 0


def test_an_attempt_that_is_too_old_is_given_up_as_unknown() -> None:
    with Bench() as bench, ExitStack() as sockets, capturing(stale_after_s=60) as capture:
        pending(bench, sockets, 1)
        now = time.monotonic_ns()
        assert ours(capture.take_stale(now + 59_000_000_000)) == []
        (stale,) = ours(capture.take_stale(now + 61_000_000_000))
        assert decide(stale).outcome is Outcome.UNKNOWN


def test_the_agents_own_attempts_are_left_out_and_counted() -> None:
    with capturing(own_pid=os.getpid()) as capture:
        refuse(3)
        assert ours(drained(capture)) == []
        assert capture.counters().own == 3


def test_after_detaching_nothing_more_is_seen() -> None:
    with capturing() as capture:
        refuse(1)
        capture.detach()
        refuse(2)
        assert len(ours(drained(capture))) == 1


def test_the_round_trip_time_is_that_of_the_socket() -> None:
    """In microseconds; the kernel keeps eighths of them."""
    with capturing() as capture, socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            (round_trip_us,) = struct.unpack_from("=I", client.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 104), 68)
        (event,) = ours(drained(capture))
    assert event.srtt_us == round_trip_us > 0


def test_times_are_those_of_the_clocks() -> None:
    with capturing() as capture:
        before = time.time_ns()
        refuse(1)
        after = time.time_ns()
        (event,) = ours(drained(capture))
        assert before - 1_000_000 <= event.start_unix_ns <= after + 1_000_000
        assert event.duration_ns is not None
        assert 0 < event.duration_ns <= after - before


def test_sequences_are_unique_on_each_cpu() -> None:
    with capturing() as capture:
        for _ in range(20):
            refuse(10)
            fail_locally(10)
        identities = [(event.cpu, event.sequence) for event in drained(capture)]
        assert len(set(identities)) == len(identities) >= 400


def test_nothing_is_left_in_the_kernel() -> None:
    def living() -> set[int]:
        listed = subprocess.run(["bpftool", "--json", "prog", "list"], check=True, capture_output=True, text=True)
        return {program["id"] for program in json.loads(listed.stdout)}

    def our_programs() -> set[int]:
        descriptions = [
            path.read_text(encoding="ascii") for path in Path("/proc/self/fdinfo").iterdir() if path.exists()
        ]
        return {
            int(found[1]) for text in descriptions if (found := re.search(r"^prog_id:\s*(\d+)", text, re.MULTILINE))
        }

    assert our_programs() == set()
    with capturing() as capture:
        programs = our_programs()
        assert len(programs) == len(capture.hooks) + 1  # the state hook has two
        assert programs <= living()
    # They are freed when their last user in the kernel has finished, a moment later.
    await_until(lambda: not programs & living())
