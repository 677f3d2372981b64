"""The agent's loop in the process of a test, from the probes and the packets to what attempts are called."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from otel_connect.agent import Agent
from otel_connect.capture.kernel import KernelCapture
from otel_connect.config import CaptureConfig, EnrichConfig
from otel_connect.enrich.asking import start_reader
from otel_connect.figures import AgentState, NamesState
from otel_connect.model import Attempt, ServerName, Tallied, ThrottleEvent
from otel_connect.running import first_process, make_enricher
from tests.support.collector import await_until


class Collected:
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.tallied: list[Tallied] = []
        self.state: AgentState | None = None

    def write(self, attempts: Sequence[Attempt]) -> int:
        self.attempts += attempts
        return 0

    def count(self, tallied: Sequence[Tallied]) -> None:
        self.tallied += tallied

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        del events

    def tick(self, state: Callable[[], AgentState]) -> None:
        self.state = state()

    def close(self, state: AgentState) -> None:
        self.state = state


class Naming:
    """Captures and names every attempt of the host as long as the context lasts."""

    def __init__(self, config: CaptureConfig | None = None) -> None:
        self._config = config or CaptureConfig()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._capture = stack.enter_context(KernelCapture(self._config, os.getpid(), names=True))
            self._output = Collected()
            reader = stack.enter_context(start_reader())
            reader.await_first()
            enricher = make_enricher(EnrichConfig(), backends=None, reader=reader, init=first_process())
            agent = Agent(self._capture, enricher, self._output, 0.02, listening=self._capture.packets)
            self._stop = threading.Event()
            self._thread = threading.Thread(target=agent.run, args=(self._stop,))
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._stack.close()

    @property
    def names(self) -> NamesState:
        """What has been learned so far."""
        assert self._output.state is not None
        assert self._output.state.names is not None
        return self._output.state.names

    def attempts(self, pid: int, count: int, port: int) -> list[Attempt]:
        """Wait for so many attempts of a process to a port."""

        def ours() -> list[Attempt]:
            return [one for one in self._output.attempts if one.event.pid == pid and port in _ports(one)]

        await_until(lambda: len(ours()) >= count)
        return ours()

    def counted(self, pid: int, count: int) -> Counter[ServerName | None]:
        """Wait until so many attempts of a process have a record or are tallied; say how many were called what."""

        def ours() -> Counter[ServerName | None]:
            names: Counter[ServerName | None] = Counter()
            names.update(one.named.server for one in self._output.attempts if one.event.pid == pid)
            for one in self._output.tallied:
                if one.event.pid == pid and one.named is not None:
                    names[one.named.server] += one.attempts
            return names

        await_until(lambda: ours().total() >= count)
        return ours()

    def withheld(self, pid: int) -> int:
        """Say how many attempts of a process were tallied so far."""
        return sum(one.attempts for one in self._output.tallied if one.event.pid == pid)


def _ports(attempt: Attempt) -> tuple[int | None, int | None]:
    return attempt.event.peer_port, attempt.event.requested_port


def with_files(argv: Sequence[str], **files: Path) -> list[str]:
    """Return the argument list that runs a program with files of its own in /etc, such as ``hosts``; the pid stays."""
    mounts = "".join(f"mount --bind {path} /etc/{name.replace('_', '.')} && " for name, path in files.items())
    return ["unshare", "--mount", "--", "sh", "-c", f'{mounts}exec "$@"', "sh", *argv]
