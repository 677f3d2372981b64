"""Whether programs may attach somewhere is found out by attaching one, for a moment."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_connect.capture import preflight
from otel_connect.capture.bpf import Attach, may_attach
from otel_connect.capture.btf import TypeInformation

pytestmark = pytest.mark.captures


@pytest.fixture(scope="module")
def tracepoint() -> int:
    number = TypeInformation(preflight.read_btf()).typedef("btf_trace_tcp_receive_reset")
    assert number is not None
    return number


def opened() -> set[str]:
    return {descriptor.name for descriptor in Path("/proc/self/fd").iterdir()}


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let so many be opened, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # so that there is no gap before the last
    for descriptor in held[8 - count :]:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held[: 8 - count]:
            os.close(descriptor)


def test_what_the_kernel_allows(tracepoint: int) -> None:
    before = opened()
    with descriptors(2):
        assert may_attach(Attach.RAW_TRACEPOINT, tracepoint)
    assert opened() == before


@pytest.mark.parametrize("free", [0, 1])
def test_a_shortage_says_nothing_of_the_kernel(free: int, tracepoint: int) -> None:
    before = opened()
    with descriptors(free), pytest.raises(OSError, match="Too many open files"):
        may_attach(Attach.RAW_TRACEPOINT, tracepoint)
    assert opened() == before


def test_what_does_not_load() -> None:
    assert not may_attach(Attach.RAW_TRACEPOINT, 1)


def test_locked_memory_does_not_decide(tracepoint: int) -> None:
    """Before Linux 5.11 the programs of all processes of the user count."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, before[1]))
    try:
        assert may_attach(Attach.RAW_TRACEPOINT, tracepoint)
        assert resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] in {before[1], resource.RLIM_INFINITY}
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
