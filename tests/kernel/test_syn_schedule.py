"""How long this kernel waits for the answer to a SYN: what tests/support/syn_schedule.py derives from its sources."""

import errno
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.network import NetworkNamespace
from tests.support.syn_schedule import Schedule, schedule

LINEAR = Path("/proc/sys/net/ipv4/tcp_syn_linear_timeouts")
NOBODY = "10.53.1.9"
_BUSY_S = 0.5  # a machine under load


@pytest.fixture
def silent() -> Iterator[dict[int, NetworkNamespace]]:
    """Make a network for each schedule that this kernel has, in which nobody answers; the key is its sysctl."""
    with ExitStack() as stack:
        networks = {}
        for linear in (0, 1) if LINEAR.exists() else (0,):
            networks[linear] = stack.enter_context(NetworkNamespace())
            networks[linear].sysctl("net.ipv4.tcp_syn_linear_timeouts", linear, optional=True)
            networks[linear].silent_neighbourhood("quiet", ["10.53.1.1/24"])
            networks[linear].ip(f"neigh add {NOBODY} lladdr 02:00:00:00:00:09 dev quiet nud permanent")
        yield networks


def attempt(namespace: NetworkNamespace) -> tuple[int, float]:
    """Make an attempt with one retry beside the linear ones; return its errno and how long it took, s."""

    def connect() -> tuple[int, float]:
        with socket.socket() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
            began = time.monotonic()
            return client.connect_ex((NOBODY, 80)), time.monotonic() - began

    return namespace.inside(connect)


def test_the_kernel_gives_up_when_the_schedule_says(silent: dict[int, NetworkNamespace]) -> None:
    with ThreadPoolExecutor(len(silent)) as pool:
        found = dict(zip(silent, pool.map(attempt, silent.values()), strict=True))
    for linear, (number, took) in found.items():
        expected: Schedule = schedule(linear, retries=1)
        assert number == errno.ETIMEDOUT
        assert expected.timeout.due <= took <= expected.timeout.latest + _BUSY_S, linear
