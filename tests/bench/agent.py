"""The agent as its users start it, sending everything to a backend that throws it away."""

import re
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import NamedTuple

from otel_connect.encode.attributes import EVENT_NAME
from tests.support.agent import RunningAgent

_PATIENCE_S = 30
# What is measured is the cost of every record, the look at the limits included.
_LIMITS = """
capture.process_rate = 1000000
capture.process_burst = 1000000
capture.cgroup_rate = 1000000
capture.cgroup_burst = 1000000
"""
_EVENT_NAME = b"\x62" + bytes((len(EVENT_NAME),)) + EVENT_NAME.encode()  # field 12 of LogRecord
LEDGER = re.compile(r"logs: seen (\d+) = exported (\d+) \+ queued (\d+) \+ dropped (\d+)(?: \(.*?\))?(?P<rest>.*)")


class Backend(ThreadingHTTPServer):
    """OTLP over HTTP on loopback: counts log records, and throws everything away."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.log_records = 0
        Thread(target=self.serve_forever, daemon=True).start()

    def server_close(self) -> None:
        """End the thread too: it would spin on the closed socket."""
        self.shutdown()
        super().server_close()

    def take(self, path: str, body: bytes) -> None:
        """Look at a request before it is thrown away."""
        if path == "/v1/logs":  # which come by one connection, so that one thread counts
            # Much faster than to decode the body: every log record of an attempt names its event once.
            self.log_records += body.count(_EVENT_NAME)

    def await_log_records(self, total: int) -> None:
        """Wait until so many have come, or it takes so long that some must be lost."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.log_records < total and time.monotonic() < deadline:
            time.sleep(0.02)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def do_POST(self) -> None:
        self.server.take(self.path, self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the standard library's name
        """Stay quiet."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the agent says at its end about the log records of all attempts."""

    seen: int
    exported: int
    queued: int
    lost: int
    balances: bool

    @property
    def holds(self) -> bool:
        """Whether every attempt is accounted for, and none lost."""
        return self.balances and not self.lost

    def __str__(self) -> str:
        verdict = "balances" if self.balances else "DOES NOT BALANCE"
        return f"seen {self.seen} = exported {self.exported} + queued {self.queued} + lost {self.lost}: {verdict}"


class Memory(NamedTuple):
    """MiB."""

    now: float
    peak: float


class Watched:
    """A running agent, with its CPU time and memory."""

    def __init__(self, endpoint: str, settings: str = "") -> None:
        with NamedTemporaryFile("w", suffix=".toml") as file:  # which is read before it says that it captures
            file.write(_LIMITS + settings)
            file.flush()
            self._running = RunningAgent("--config", file.name, "--output", "otlp", "--endpoint", endpoint)
        self.pid = self._running.process.pid

    def cpu_s(self) -> float:
        """CPU time of all threads since the start."""
        return time.clock_gettime(~self.pid << 3 | 2)  # what clock_getcpuclockid(3) returns

    def memory(self) -> Memory:
        """Resident memory, now and at its peak."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        now, peak = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return Memory(now, peak)

    def stop(self) -> Ledger:
        """Stop the agent, and read what it says about its totals."""
        code = self._running.stop()
        found = next(filter(None, map(LEDGER.search, self._running.errors)), None)
        if code or found is None:
            raise RuntimeError(f"the agent ended with {code}: {self._running.errors}")
        seen, exported, queued, lost = map(int, found.groups()[:4])
        return Ledger(seen, exported, queued, lost, seen == exported + queued + lost and not found["rest"])
