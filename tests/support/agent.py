"""The agent as its users start it: a process, its standard output and its standard error."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.ledger import assert_balanced
from tests.support.otlp_json import log_records

COMMAND = Path(sys.executable).with_name("otel-connect")
_READY_S = 60.0


class RunningAgent:
    """``otel-connect run …`` from the moment it captures; leaving the context stops it and checks how it ended."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str | Path] = (COMMAND, "run"),
        ready_s: float = _READY_S,
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        if "--config" not in arguments:  # a variable would win over what the file says
            clean["OTEL_CONNECT_LISTEN"] = "off"  # or the agents of all tests want the same port
        self._state = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean | {"STATE_DIRECTORY": self._state.name} | dict(environment or {}),
        )
        self._killed = False
        self.output: list[str] = []
        self.errors: list[str] = []
        self._records: list[dict[str, Any]] = []
        self._records_of = 0  # lines of output that are in _records
        self._news: queue.Queue[None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.output), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.until(lambda: any("capturing" in line for line in self.errors), ready_s)
        except BaseException:
            self.process.kill()
            self._finish()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._killed:
            return
        if kind is None:
            assert self.stop() == 0, self.errors
        else:
            self.process.kill()
            self._finish()

    def stop(self) -> int:
        """Ask the agent to stop (SIGTERM), and return its exit code; asserts that its account adds up."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self._finish()
        if code == 0:
            assert_balanced(self.output, self.errors)
        return code

    def kill(self) -> None:
        """End the agent at once (SIGKILL); leaving the context then checks nothing."""
        self.process.kill()
        self._finish()
        self._killed = True

    def until(self, true: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait until something is true that new output can make true."""
        deadline = time.monotonic() + timeout_s
        while not true():
            left = deadline - time.monotonic()
            gone = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
            if left <= 0 or (gone and not true()):
                last = [line[:200] for line in (*self.output[-5:], *self.errors[-5:])]
                raise AssertionError(f"not so within {timeout_s} s; last said: {last}")
            try:
                self._news.get(timeout=min(left, 0.5))
            except queue.Empty:
                continue

    def attempts(self, *pids: int) -> list[dict[str, Any]]:
        """Return the log records of these processes so far, flat, in the order they ended (``--output json``)."""
        return [record for record in self.records() if record["attributes"].get("process.pid") in pids]

    def records(self) -> list[dict[str, Any]]:
        """Return those of all processes."""
        fresh = self.output[self._records_of :]
        self._records_of += len(fresh)
        self._records += log_records(json.loads(line) for line in fresh if line.startswith('{"resourceLogs"'))
        return self._records

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.decode("utf-8").removesuffix("\n"))
            self._news.put(None)
        self._news.put(None)

    def _finish(self) -> int:
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._state.cleanup()
        return code
