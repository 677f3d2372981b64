"""Perf buffers of the kernel, into which a program puts what the test says; and the packets that are read from them."""

import os
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from otel_connect.capture import bpf
from otel_connect.capture.child import Loaded
from otel_connect.capture.clock import Clocks
from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.layout import PACKET
from otel_connect.capture.loader import Wanted, load_probes
from otel_connect.capture.packets import Packets
from otel_connect.capture.perf import PerfBuffer, online_cpus
from otel_connect.config import CaptureConfig
from otel_connect.errors import ProbeError
from tests.support import refused_call
from tests.support.emitter import Emitter
from tests.support.lookups import CLIENT, SERVER, datagram

SIZE = 8192
CPU = min(os.sched_getaffinity(0))


@pytest.fixture
def buffer() -> Iterator[PerfBuffer]:
    with closing(PerfBuffer(CPU, SIZE)) as made:
        yield made


@pytest.fixture
def emitter(buffer: PerfBuffer) -> Iterator[Emitter]:
    buffers = bpf.create_perf_array(os.sysconf("SC_NPROCESSORS_CONF"))
    bpf.put(buffers, struct.pack("=i", buffer.descriptor), CPU)
    with Emitter(buffers) as made:
        yield made
    os.close(buffers)


def same(found: list[bytes], expected: list[bytes]) -> bool:
    """Compare records but for what they are padded with at the end, less than eight bytes."""
    lengths = [0 <= len(one) - len(other) < 8 for one, other in zip(found, expected, strict=True)]
    return all(lengths) and [one[: len(other)] for one, other in zip(found, expected, strict=True)] == expected


def test_records_come_out_as_they_went_in_wherever_they_wrap(buffer: PerfBuffer, emitter: Emitter) -> None:
    chance = random.Random(7)
    written = 0
    while written < 20 * SIZE:
        records = [chance.randbytes(chance.randrange(14, 1200)) for _ in range(chance.randrange(1, 6))]
        written += sum(map(len, records))
        assert all(emitter.put(record, CPU) for record in records)
        assert not buffer.empty
        assert same(list(buffer.samples(100)), records)
        assert buffer.empty


def test_what_finds_no_room_is_refused_and_leaves_what_is_there(buffer: PerfBuffer, emitter: Emitter) -> None:
    records = [bytes([number]) * 1000 for number in range(20)]
    taken = [record for record in records if emitter.put(record, CPU)]
    assert taken == records[: len(taken)]
    assert 0 < len(taken) < len(records)
    assert same(list(buffer.samples(100)), taken)
    # The kernel says of its own accord, ahead of the next record, that some are lost: the programs have counted them.
    assert emitter.put(records[-1], CPU)
    assert same(list(buffer.samples(1)), records[-1:])
    assert buffer.empty


def test_so_many_are_read_at_the_most(buffer: PerfBuffer, emitter: Emitter) -> None:
    records = [bytes([number]) * 100 for number in range(5)]
    assert all(emitter.put(record, CPU) for record in records)
    assert same(list(buffer.samples(2)), records[:2])
    assert not buffer.empty
    assert same(list(buffer.samples(3)), records[2:])
    assert buffer.empty


NETNS = 7
CPUS = min(online_cpus()), max(online_cpus())


@pytest.fixture
def now() -> list[int]:
    return [100]


@pytest.fixture
def packets(now: list[int]) -> Iterator[Packets]:
    made = Packets(Clocks(), lambda: now[0])
    made.open()
    yield made
    made.close()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_too_few_descriptors_for_the_buffers_are_no_lack_of_a_privilege() -> None:
    remedy = r"name servers \(Too many open files\); allow more open files.*, or set enrich.names = false"
    with closing(Packets(Clocks())) as made, no_more_descriptors(), pytest.raises(ProbeError, match=remedy) as seen:
        made.open()
    assert seen.value.exit_code == 78
    with no_more_descriptors(), pytest.raises(ProbeError, match=remedy) as seen:
        Packets(Clocks())
    assert seen.value.exit_code == 78


OPEN = """
import sys
from otel_connect.capture.clock import Clocks
from otel_connect.capture.packets import Packets
from otel_connect.errors import ProbeError

try:
    Packets(Clocks()).open()
except ProbeError as error:
    print(error.exit_code, error)
"""


@pytest.mark.parametrize("call", ["perf_event_open", "bpf"])
@pytest.mark.parametrize(
    ("error", "code", "remedy"),
    [
        ("EMFILE", 78, "allow more open files, 1024 for example (ulimit -n, LimitNOFILE=), or set"),
        ("ENFILE", 78, "raise the sysctl fs.file-max, or set"),
        ("ENOMEM", 78, "no memory left: allow more, or set"),
        ("ENOSYS", 78, "(Function not implemented); set"),
        ("EPERM", 77, "allow perf_event_open (capabilities, seccomp profile, kernel.perf_event_paranoid), or set"),
        ("EACCES", 77, "allow perf_event_open (capabilities, seccomp profile, kernel.perf_event_paranoid), or set"),
    ],
)
def test_what_the_kernel_says_of_a_buffer_decides_the_remedy(call: str, error: str, code: int, remedy: str) -> None:
    command = [sys.executable, refused_call.__file__, call, error, sys.executable, "-c", OPEN]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"{code} no buffers for the packets of name servers (")
    assert f"{remedy} enrich.names = false" in said


def refuse(wanted: Wanted) -> Loaded:
    raise ProbeError(f"{len(wanted.typed)} programs are refused")


def load_and_take_all_descriptors(wanted: Wanted) -> Loaded:
    loaded = load_probes(wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return loaded


@pytest.mark.parametrize(
    ("load", "line"), [(refuse, "programs are refused"), (load_and_take_all_descriptors, "allow more open files")]
)
def test_a_start_that_fails_leaves_nothing_open(load: Callable[[Wanted], Loaded], line: str) -> None:
    before, limits = open_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with pytest.raises(ProbeError, match=line):
            KernelCapture(CaptureConfig(), 0, load=load, names=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_descriptors() == before


def at(nanoseconds: int) -> bytes:
    """Make what the probes put in for a packet of that time, which is its payload, too."""
    packet = datagram(SERVER, CLIENT, b"%d" % nanoseconds)
    return PACKET.pack(nanoseconds, 0, 0, NETNS, 0, 0, len(packet), False, b"") + packet


def drained(packets: Packets, limit: int = 100) -> list[int]:
    return [int(segment.payload) for segment in packets.drain(limit) if segment.netns == NETNS]


def test_packets_of_all_cpus_come_in_the_order_in_which_they_passed(packets: Packets) -> None:
    with Emitter(packets.map) as emitter:
        for time, cpu in ((10, 0), (30, 0), (20, 1), (40, 1)):
            assert emitter.put(at(time), CPUS[cpu])
        assert drained(packets) == [10, 20, 30, 40]
        assert drained(packets) == []


def test_what_passed_after_the_reading_began_waits_for_what_may_have_passed_before_it(
    packets: Packets, now: list[int]
) -> None:
    """One CPU has been read when another one puts an earlier packet in."""
    with Emitter(packets.map) as emitter:
        for time, cpu in ((99, 0), (101, 0), (100, 1)):
            assert emitter.put(at(time), CPUS[cpu])
        assert drained(packets) == [99, 100]
        assert emitter.put(at(100), CPUS[1])
        now[0] = 200
        assert drained(packets) == [100, 101]


def test_what_is_later_than_what_is_still_to_be_read_waits(packets: Packets) -> None:
    count = len(online_cpus())
    with Emitter(packets.map) as emitter:
        for time in (10, 20, 30, 40):
            assert emitter.put(at(time), CPUS[0])
        for time in (15, 25):
            assert emitter.put(at(time), CPUS[1])
        limit = 2 * count if CPUS[0] != CPUS[1] else 100
        found = [drained(packets, limit) for _ in range(3)]
    assert [time for times in found for time in times] == [10, 15, 20, 25, 30, 40]
    assert CPUS[0] == CPUS[1] or found[0] == [10, 15, 20]
