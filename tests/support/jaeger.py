"""A real Jaeger on free loopback ports, and what its query API answers.

with Jaeger(tmp_path) as jaeger:
    send_to(jaeger.otlp)
    jaeger.await_until(lambda: jaeger.traces("shop"))
"""

import functools
import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from tests.support.collector import DIRECT, await_until, free_ports

T = TypeVar("T")
RECIPE = Path(__file__).parents[1] / "jaeger"
_START_STOP_S = 30.0


@functools.cache
def jaeger_binary() -> Path:
    """Return the Jaeger to run, built on first use; `tests/jaeger/README.md` says how."""
    built = subprocess.run([RECIPE / "build.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())


class Found(NamedTuple):
    """One span as Jaeger has it."""

    trace_id: str
    span_id: str
    service: str
    operation: str
    start_us: int
    duration_us: int
    tags: dict[str, Any]
    process_tags: dict[str, Any]


class Jaeger:
    """One Jaeger process that keeps everything in memory."""

    def __init__(self, directory: Path) -> None:
        """Prepare a Jaeger that writes its log into a directory."""
        # Every listener that it has wants a port, whether or not anybody asks there.
        otlp_grpc, otlp_http, query, query_grpc, admin, collector, model, sampling = free_ports(8)
        self.otlp = f"127.0.0.1:{otlp_grpc}"
        self.query_url = f"http://127.0.0.1:{query}"
        self._log = directory / "jaeger.log"
        self._arguments = [
            "--collector.otlp.enabled=true",
            f"--collector.otlp.grpc.host-port={self.otlp}",
            f"--collector.otlp.http.host-port=127.0.0.1:{otlp_http}",
            f"--query.http-server.host-port=127.0.0.1:{query}",
            f"--query.grpc-server.host-port=127.0.0.1:{query_grpc}",
            f"--admin.http.host-port=127.0.0.1:{admin}",
            f"--collector.http-server.host-port=127.0.0.1:{collector}",
            f"--collector.grpc-server.host-port=127.0.0.1:{model}",
            f"--http-server.host-port=127.0.0.1:{sampling}",
            *(f"--processor.{name}.server-host-port=127.0.0.1:0" for name in _UDP),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([jaeger_binary(), *self._arguments], stdout=log, stderr=log)
        try:
            self.await_until(self._answers, _START_STOP_S)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._kill()
        if error is not None:
            error.add_note(f"Jaeger's log ends with:\n{self._log.read_text(errors='backslashreplace')[-3000:]}")

    def await_until(self, condition: Callable[[], T], timeout: float = 20.0) -> T:
        """Return the first true value of the condition; a Jaeger that has ended fails at once."""

        def alive_and_true() -> T:
            if self._process is None or (code := self._process.poll()) is not None:
                raise RuntimeError(f"Jaeger ended with {code}:\n{self._log.read_text(errors='backslashreplace')}")
            return condition()

        return await_until(alive_and_true, timeout)

    def services(self) -> set[str]:
        """Return the names of all services."""
        return set(self.ask("/api/services") or ())

    def traces(self, service: str, *, tags: dict[str, str] | None = None, limit: int = 1000) -> list[Found]:
        """Return the spans of a service in the last hour, those with all these tags."""
        now_us = time.time_ns() // 1000
        question = {
            "service": service,
            "tags": json.dumps(tags or {}),
            "limit": str(limit),
            "start": str(now_us - 3_600_000_000),
            "end": str(now_us + 60_000_000),
        }
        return [
            found
            for trace in self.ask(f"/api/traces?{urllib.parse.urlencode(question)}") or ()
            for found in _spans(trace)
        ]

    def _answers(self) -> bool:
        try:
            self.services()
        except OSError:
            return False
        return True

    def ask(self, path: str) -> Any:
        """Return the data of an answer of the query API."""
        with DIRECT.open(f"{self.query_url}{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


_UDP = ("jaeger-compact", "jaeger-binary", "zipkin-compact")


def _spans(trace: dict[str, Any]) -> list[Found]:
    processes = trace["processes"]
    return [
        Found(
            span["traceID"],
            span["spanID"],
            processes[span["processID"]]["serviceName"],
            span["operationName"],
            span["startTime"],
            span["duration"],
            {tag["key"]: tag["value"] for tag in span["tags"]},
            {tag["key"]: tag["value"] for tag in processes[span["processID"]]["tags"]},
        )
        for span in trace["spans"]
    ]
