"""The kernel side at work, and the processes of its events named without any look-up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from otel_connect.capture.kernel import KernelCapture
from otel_connect.config import CaptureConfig
from otel_connect.enrich.processes import Lookups, Processes, Shown
from otel_connect.model import ConnectEvent, Process, Surroundings
from tests.support.network import closed_port

USERS = {0: "root", 1234: None, 65534: "nobody"}
_ONCE = Path(__file__).parent / "clients/once.c"


class Seen(NamedTuple):
    """An attempt, and what is known of its process."""

    event: ConnectEvent
    process: Process
    surroundings: Surroundings


class Watch:
    """Takes what the kernel tells, and nothing from anywhere else."""

    def __init__(self, capture: KernelCapture) -> None:
        self._capture = capture
        self.asked: list[int] = []
        """Pids of whose surroundings the kernel did not tell all."""
        shown = Shown(command_args=True, vpid=True)
        self.processes = Processes(Lookups(surroundings=self._ask), lambda owner: USERS.get(owner.uid), 4096, shown)

    def take(self, pid: int | None = None) -> list[Seen]:
        """Take what there is now, as the agent does; of one process, or of all."""
        taken = []
        more = True
        while more:
            drained = self._capture.drain()
            self.processes.learn(drained.told)
            taken += [
                Seen(event, self.processes.name(event), self.processes.surroundings(event)) for event in drained.events
            ]
            more = drained.more
        return [seen for seen in taken if pid in {None, seen.event.pid}]

    def _ask(self, pid: int, _start_boot_ns: int) -> None:
        self.asked.append(pid)


class Watching:
    """One capture for the tests of a module: to load the probes takes longer than most of them."""

    def __init__(self, capture: KernelCapture, port: int) -> None:
        self._capture = capture
        self._port = port

    @contextmanager
    def __call__(self) -> Iterator[tuple[Watch, int]]:
        """Watch every attempt of the host from now on; with a port where nobody listens."""
        while self._capture.drain().more:
            pass
        yield Watch(self._capture), self._port


@contextmanager
def open_watch(*, command_args: bool = False) -> Iterator[Watching]:
    """Load the probes for as long as a block lasts."""
    with closed_port() as port, KernelCapture(CaptureConfig(), 0, command_args=command_args) as capture:
        yield Watching(capture, port)


@contextmanager
def once_program() -> Iterator[Path]:
    """Build ``clients/once.c``, for all users to run."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        once = Path(folder) / "once"
        subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", once, _ONCE], check=True)
        yield once
