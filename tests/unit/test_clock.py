"""Offsets between clocks, of which a test sets one."""

import pytest

from otel_connect.capture.clock import Clocks
from otel_connect.capture.layout import ClockOffsets

DAY_NS = 86_400 * 10**9


class Machine:
    """Three clocks, and how often they were compared with care."""

    def __init__(self) -> None:
        self.monotonic = 5_000 * 10**9
        self.wall = 1_700_000_000 * 10**9
        self.samples = 0
        self.disturbed_ns = 0

    def sample(self) -> ClockOffsets:
        self.samples += 1
        return ClockOffsets(self.wall - self.monotonic, self.wall - 2 * self.monotonic)

    def clocks(self) -> Clocks:
        return Clocks(self.sample, self._wall, lambda: self.monotonic)

    def pass_s(self, seconds: int, *, set_by_ns: int = 0) -> None:
        self.monotonic += seconds * 10**9
        self.wall += seconds * 10**9 + set_by_ns

    def _wall(self) -> int:
        self.monotonic += self.disturbed_ns
        self.wall += self.disturbed_ns
        return self.wall


def test_the_clocks_are_compared_every_ten_seconds() -> None:
    machine = Machine()
    clocks = machine.clocks()
    for _ in range(30):
        machine.pass_s(1, set_by_ns=500_000)  # as fast as a kernel slews
        clocks.offsets()
    assert machine.samples == 4
    assert clocks.offsets().monotonic_ns == machine.wall - machine.monotonic


@pytest.mark.parametrize("jump_ns", [DAY_NS, -DAY_NS, 10**9, -(10**9), 60 * 10**6])
def test_a_clock_that_is_set_is_followed_at_once(jump_ns: int, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clocks = machine.clocks()
    for set_by_ns in (0, jump_ns, 0, -jump_ns, 0):
        machine.pass_s(1, set_by_ns=set_by_ns)
        assert clocks.offsets().monotonic_ns == machine.wall - machine.monotonic
    assert [message.partition(":")[0] for message in caplog.messages] == [
        f"wall time moved by {jump_ns / 1e9:+.1f} s",
        f"wall time moved by {-jump_ns / 1e9:+.1f} s",
    ]


def test_a_process_keeps_its_creation_time() -> None:
    machine = Machine()
    clocks = machine.clocks()
    before = clocks.offsets().boot_ns
    machine.pass_s(60, set_by_ns=DAY_NS)
    assert clocks.offsets().boot_ns == before


def test_what_comes_between_two_readings_is_no_jump(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clocks = machine.clocks()
    machine.disturbed_ns = 10**9
    for _ in range(5):
        clocks.offsets()
    assert machine.samples == 1
    assert not caplog.messages
