"""The probes at work for a whole module of tests, and what they say of one process or one network namespace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.outcome import decide
from otel_connect.config import CaptureConfig
from otel_connect.model import ConnectEvent
from tests.support.collector import await_until

_NOBODY = 0  # no process has this pid: nothing is left out


class Captured:
    """What became of attempts; those of others on the machine are passed over."""

    def __init__(self, capture: KernelCapture) -> None:
        self.capture = capture
        self._events: list[ConnectEvent] = []

    def forget(self) -> None:
        """Begin a test: pids come again."""
        self._drain()
        self._events.clear()

    def of(self, wanted: Callable[[ConnectEvent], bool], count: int) -> list[ConnectEvent]:
        """Wait for so many of the wanted attempts, and return all there are, in the order they began."""

        def found() -> list[ConnectEvent]:
            return [event for event in self._drain() if wanted(event)]

        if count:
            await_until(lambda: len(found()) >= count)
        return sorted(found(), key=lambda event: event.start_unix_ns)

    def of_process(self, pid: int, count: int) -> list[ConnectEvent]:
        """Wait for so many attempts of a process, and return all it made."""
        return self.of(lambda event: event.pid == pid, count)

    def _drain(self) -> list[ConnectEvent]:
        more = True
        while more:
            taken = self.capture.drain()
            assert taken.undecodable == 0
            self._events += taken.events
            more = taken.more
        return self._events


@contextmanager
def captured() -> Iterator[Captured]:
    """Load the probes, without limits."""
    config = CaptureConfig(process_rate=0, cgroup_rate=0, ring_bytes=1 << 24)
    with KernelCapture(config, _NOBODY) as capture:
        yield Captured(capture)


def said(events: list[ConnectEvent]) -> list[tuple[str, int | None]]:
    """Return the outcome of each, and the errno that proves it."""
    return [(str(outcome), errno) for outcome, errno in map(decide, events)]
