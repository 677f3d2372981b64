"""A real OpenTelemetry Collector on free loopback ports, and what arrived in it as plain values.

    with Collector(tmp_path) as collector:
        send_to(collector.http_endpoint)
        [record] = collector.await_until(collector.log_records)

The configuration gets its addresses by the variables of `examples/collector-config`, so the very
file a user runs is the file a test runs.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from prometheus_client.openmetrics import parser

from tests.support.otlp_json import Fields, JsonLines, data_points, log_records, spans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from prometheus_client.samples import Sample

T = TypeVar("T")
RECIPE = Path(__file__).parents[1] / "collector"
TEST_CONFIG = RECIPE / "config.yaml"
START_STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
# A proxy in the environment is not for the loopback address.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@functools.cache
def collector_binary() -> Path:
    """Return the collector to run, built on first use; `tests/collector/README.md` says how."""
    built = subprocess.run([RECIPE / "build.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())


def await_until(condition: Callable[[], T], timeout: float = 10.0) -> T:
    """Return the first true value of the condition, or raise TimeoutError after so many seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout:g} s, last value {value!r}")
        time.sleep(POLL_SECONDS)
    return value


def free_ports(count: int) -> list[int]:
    """Return so many different free TCP ports of the loopback address.

    They lie below the range the kernel picks local ports from: a connection made while a collector
    is down can therefore not take the port it will want back.
    """
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            candidate = random.randrange(10_000, 32_000)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            ports.append(candidate)
    return ports


class Collector:
    """One collector process, its addresses, and what it has received."""

    def __init__(
        self,
        directory: Path,
        *,
        config: Path = TEST_CONFIG,
        overrides: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a collector that keeps its files in a directory, which is made when missing.

        `overrides` are YAML texts merged over the configuration in order, for example
        `receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 1}}}}`; `environment` adds
        variables the configuration reads, for example `JAEGER_OTLP`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        grpc, http, health, prometheus, metrics = free_ports(5)
        self.grpc_endpoint = f"http://127.0.0.1:{grpc}"
        self.http_endpoint = f"http://127.0.0.1:{http}"
        self.health_url = f"http://127.0.0.1:{health}/"
        self.prometheus_url = f"http://127.0.0.1:{prometheus}/metrics"
        self.file = directory / "received.jsonl"
        self._log = directory / "collector.log"
        self._sources = [str(config), *(f"yaml:{text}" for text in overrides)]
        self._environment = {
            **os.environ,
            "COLLECTOR_OTLP_GRPC": f"127.0.0.1:{grpc}",
            "COLLECTOR_OTLP_HTTP": f"127.0.0.1:{http}",
            "COLLECTOR_HEALTH": f"127.0.0.1:{health}",
            "COLLECTOR_PROMETHEUS": f"127.0.0.1:{prometheus}",
            "COLLECTOR_METRICS_PORT": str(metrics),
            "COLLECTOR_FILE": str(self.file),
            **(environment or {}),
        }
        self._received = JsonLines(self.file)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        if error is not None:
            self.kill()
            error.add_note(f"the collector's log ends with:\n{self.stderr[-4000:]}")
        elif self._process is not None:
            self.stop()

    def start(self) -> None:
        """Start the process and return when every component of it runs."""
        # The collector says "ready" a moment before it asks for its stop signals; one sent in between would
        # end it as if killed. An ignored SIGINT stays ignored until it asks, which /proc shows: see _ready.
        command = ["env", "--ignore-signal=INT", str(collector_binary())]
        command += [f"--config={source}" for source in self._sources]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        try:
            self.await_until(self._ready, START_STOP_SECONDS)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the process to stop (SIGINT, to it the same as SIGTERM), and assert that it ends with exit code 0."""
        process = self._running()
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(START_STOP_SECONDS)
        finally:
            self.kill()
        assert code == 0, f"the collector stopped with exit code {code}:\n{self.stderr[-4000:]}"

    def kill(self) -> None:
        """End the process at once (SIGKILL), if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *overrides: str) -> None:
        """Start the process again with the same addresses and file, stopping it first if it runs.

        `overrides` take the place of those it was made with; without any, its plain configuration is left.
        """
        if self._process is not None:
            self.stop()
        self._sources[1:] = [f"yaml:{text}" for text in overrides]
        self.start()

    def await_until(self, condition: Callable[[], T], timeout: float = 10.0) -> T:
        """Return the first true value of the condition; a collector that has ended fails at once."""

        def alive_and_true() -> T:
            if (code := self._running().poll()) is not None:
                raise RuntimeError(f"the collector ended with exit code {code}:\n{self.stderr[-4000:]}")
            return condition()

        return await_until(alive_and_true, timeout)

    @property
    def stderr(self) -> str:
        """What every run of this collector has written to its outputs."""
        return self._log.read_text(errors="backslashreplace") if self._log.exists() else ""

    def log_records(self) -> list[Fields]:
        """Return every log record received; `attributes`, `resource`, `scope` and `body` are plain values."""
        return log_records(self._received.documents())

    def spans(self) -> list[Fields]:
        """Return every span received; `attributes`, `resource` and `scope` are plain values."""
        return spans(self._received.documents())

    def metrics(self) -> list[Fields]:
        """Return every data point received, with the `name`, `unit` and `kind` of its metric.

        Sums and gauges have `value`, sums `isMonotonic` and `aggregationTemporality`, histograms `count`,
        `sum`, `bucketCounts` and `explicitBounds`; `attributes`, `resource` and `scope` are plain values.
        """
        return data_points(self._received.documents())

    def prometheus_samples(self) -> list[Sample]:
        """Return the samples of the Prometheus page, exemplars included."""
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        request = urllib.request.Request(self.prometheus_url, headers=accept)
        with DIRECT.open(request, timeout=5) as answer:
            page = answer.read().decode()
        families = parser.text_string_to_metric_families(page)  # type: ignore[no-untyped-call]  # not annotated
        return [sample for family in families for sample in family.samples]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the collector is not running")
        return self._process

    def _ready(self) -> bool:
        try:
            with DIRECT.open(self.health_url, timeout=1):
                return _handles_interrupt(self._running().pid)
        except urllib.error.HTTPError as answer:  # it listens, but not every component has started
            answer.close()
            return False
        except OSError:  # nobody listens yet
            return False


def _handles_interrupt(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)
