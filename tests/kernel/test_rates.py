"""The whole agent at rates that matter: steady ones, floods beside a quiet program, very many peers."""

import json
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_connect.model import Outcome
from tests.bench.agent import LEDGER, Backend
from tests.support.agent import RunningAgent
from tests.support.collector import Collector
from tests.support.flood import Floods
from tests.support.otlp_json import log_records
from tests.support.soak import SOAK, LongRun, by_length

STEADY_RATE = 5000
STEADY_S = by_length(full=180, short=4)
SCATTERED = by_length(full=1_000_000, short=240_000)  # half of which takes what the heap grows to once
FLOOD_S = by_length(full=60, short=4)
NEIGHBOUR_RATE = 10
COUNTED_EVERY = {"OTEL_METRIC_EXPORT_INTERVAL": "1000"}


pytestmark = [pytest.mark.captures, pytest.mark.alone, pytest.mark.timeout(by_length(full=1200, short=300))]


@pytest.fixture(scope="module")
def floods() -> Iterator[Floods]:
    with Floods() as made:
        yield made


def seen_in_balance(agent: RunningAgent) -> int:
    """Return what the agent has seen; the accounts of both signals must add up, and nothing may wait."""
    ledgers = [line for line in agent.errors if ": seen " in line]
    assert len(ledgers) == 2
    assert not any("unaccounted" in line or "+ queued 0 +" not in line for line in ledgers)
    found = next(filter(None, map(LEDGER.search, ledgers)))
    return int(found[1])


class Sifted(Backend):
    """Keeps the last metrics, and counts log records by what their text begins with."""

    def __init__(self, *words: bytes) -> None:
        super().__init__()
        self.metrics = b""
        self.found: Counter[bytes] = Counter()
        self._words = words

    def take(self, path: str, body: bytes) -> None:
        super().take(path, body)
        if path == "/v1/metrics":
            self.metrics = body
        elif path == "/v1/logs":
            self.found.update({word: body.count(word) for word in self._words})

    def series(self, name: str) -> list[tuple[dict[str, str], int]]:
        """Return the attributes and the number of attempts of each data point of a metric."""
        counted = []
        for of_resource in ExportMetricsServiceRequest.FromString(self.metrics).resource_metrics:
            for metric in of_resource.scope_metrics[0].metrics:
                if metric.name == name and metric.WhichOneof("data") == "sum":
                    counted += [(point.attributes, point.as_int) for point in metric.sum.data_points]
                elif metric.name == name:
                    counted += [(point.attributes, point.count) for point in metric.histogram.data_points]
        return [({pair.key: pair.value.string_value for pair in pairs}, count) for pairs, count in counted]

    def attempts_of(self, program: str) -> dict[str, int]:
        """Return the attempts of a program by outcome."""
        counts: Counter[str] = Counter()
        for attributes, count in self.series("otel_connect.attempts"):
            if attributes["process.executable.name"] == program:
                counts[attributes["otel_connect.outcome"]] += count
        return dict(counts)


@contextmanager
def sifted(*words: bytes) -> Iterator[Sifted]:
    backend = Sifted(*words)
    try:
        yield backend
    finally:
        backend.server_close()


def resident_mib(agent: RunningAgent) -> float:
    lines = Path(f"/proc/{agent.process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def cpu_s(agent: RunningAgent) -> float:
    return time.clock_gettime(~agent.process.pid << 3 | 2)  # what clock_getcpuclockid(3) returns


class Growth:
    """Watches a file grow: when each of its bytes was there, at the latest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes: list[int] = []
        self._times: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def lines(self) -> Iterator[tuple[str, int]]:
        """Return each line with its time (Unix time, ns)."""
        end = 0
        with self._path.open("rb") as file:
            for line in file:
                end += len(line)
                yield line.decode(), self._times[bisect_left(self._sizes, end)]

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._look()
        self._look()

    def _look(self) -> None:
        if self._path.exists():
            self._sizes.append(self._path.stat().st_size)
            self._times.append(time.time_ns())


def test_a_steady_rate_reaches_the_collector_whole_and_soon(floods: Floods, tmp_path: Path, long_run: LongRun) -> None:
    attempts = STEADY_RATE * STEADY_S
    with Collector(tmp_path / "collector") as collector, Growth(collector.file) as growth:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint} | COUNTED_EVERY
        with RunningAgent(environment=environment) as agent:
            began, busy = time.monotonic(), cpu_s(agent)
            steady = floods.start("refused", attempts, name="steady", rate=STEADY_RATE)
            assert steady.report() == {Outcome.REFUSED: attempts}
            share = (cpu_s(agent) - busy) / (time.monotonic() - began)
        assert seen_in_balance(agent) >= attempts
    delays: list[float] = []
    identities: set[str] = set()
    for line, arrived in growth.lines():
        for record in log_records([json.loads(line)]):
            ours = record["eventName"] == "otel_connect.attempt" and record["attributes"]["process.pid"] == steady.pid
            if ours:
                delays.append((arrived - record["timeUnixNano"]) / 1e9)
                identities.add(record["attributes"]["otel_connect.event.id"])
    collector.file.unlink()  # there may be a lot of it
    p99 = sorted(delays)[len(delays) * 99 // 100]
    long_run(
        f"{attempts} attempts at {STEADY_RATE}/s to a real collector",
        f"{attempts - len(identities)} lost, p99 from the kernel to its file {p99:.2f} s, {share:.2f} of a core",
    )
    assert len(identities) == len(delays) == attempts
    if SOAK:  # which has the machine for itself
        assert p99 <= 2


def test_beside_a_flood_a_quiet_program_keeps_its_records(floods: Floods, long_run: LongRun) -> None:
    count = FLOOD_S * NEIGHBOUR_RATE
    started = b"otel_connect.agent.throttle.started"
    with sifted(b"quiet-one[", b"busy-one[", started) as backend:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint} | COUNTED_EVERY
        with RunningAgent(environment=environment) as agent:
            began, busy = time.monotonic(), cpu_s(agent)
            quiet = floods.start("refused", count, name="quiet-one", rate=NEIGHBOUR_RATE)
            flood = floods.start("mixed", name="busy-one")
            kept = quiet.report()
            flood.process.terminate()
            made = flood.report()
            share = (cpu_s(agent) - busy) / (time.monotonic() - began)
        seen = seen_in_balance(agent)
    long_run(
        f"the whole agent beside a flood of {sum(made.values()) / FLOOD_S:,.0f}/s for {FLOOD_S} s",
        f"{backend.found[b'quiet-one[']} of {count} records of the neighbour, {share:.2f} of a core",
    )
    assert kept == {Outcome.REFUSED: count}
    assert backend.found[b"quiet-one["] == count, agent.errors
    assert backend.attempts_of("quiet-one") == {"refused": count}
    assert backend.attempts_of("busy-one") == {outcome.value: number for outcome, number in made.items()}
    # One mention is that of the throttle's record, another that of its end.
    assert 0 < backend.found[b"busy-one["] < sum(made.values())
    assert backend.found[started] > 0
    assert seen >= count + sum(made.values())
    assert share <= 1


def test_very_many_peers_take_neither_memory_nor_series_without_end(floods: Floods, long_run: LongRun) -> None:
    half = SCATTERED // 2
    with sifted() as backend:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint} | COUNTED_EVERY
        with RunningAgent(environment=environment) as agent:
            memory = []
            for made in (half, 2 * half):
                assert floods.start("scattered", half, name="scattered-one").report() == {Outcome.REFUSED: half}
                # All of it has been read, encoded and sent: what is still on its way takes memory of its own.
                agent.until(lambda: backend.attempts_of("scattered-one") == {"refused": made}, 60)  # noqa: B023
                memory.append(resident_mib(agent))
        seen = seen_in_balance(agent)
    counted = backend.attempts_of("scattered-one")
    long_run(
        f"{2 * half} attempts to {min(half, 100_000)} peers",
        f"{counted.get('refused', 0)} counted; {memory[0]:.0f} MiB after half of them, then {memory[1]:.0f} MiB",
    )
    assert counted == {"refused": 2 * half}
    for name in ("otel_connect.attempts", "otel_connect.attempt.duration"):
        series = backend.series(name)
        assert len(series) <= 1000
        assert "_other" in {attributes.get("server.address") for attributes, _ in series}
    assert sum(count for _, count in backend.series("otel_connect.attempts")) == seen
    assert memory[1] <= memory[0] * 1.25


def test_throttled_and_collapsed_attempts_add_up_at_a_real_collector(floods: Floods, tmp_path: Path) -> None:
    attempts = 3000
    settings = tmp_path / "otel-connect.toml"
    settings.write_text(
        "[capture]\nprocess_rate = 200\nprocess_burst = 1000\n"
        "[encode]\ncollapse_repeats = 50\ncollapse_window_ms = 1000\n"
    )
    with Collector(tmp_path / "collector") as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint} | COUNTED_EVERY
        with RunningAgent("--config", str(settings), environment=environment) as agent:
            flood = floods.start("refused", attempts, name="insistent")
            assert flood.report() == {Outcome.REFUSED: attempts}
        seen_in_balance(agent)
        records = collector.log_records()
        points = collector.metrics()
    ours = [record for record in records if record["attributes"].get("process.pid") == flood.pid]
    alike = [record for record in ours if record["eventName"] == "otel_connect.attempt"]
    stood_for = sum(record["attributes"].get("otel_connect.repeat.count", 1) for record in alike)
    throttles = {record["eventName"]: record for record in ours if record not in alike}
    assert throttles.keys() == {"otel_connect.agent.throttle.started", "otel_connect.agent.throttle.stopped"}
    stopped = throttles["otel_connect.agent.throttle.stopped"]["attributes"]
    assert len(alike) < stood_for < attempts
    assert stood_for + stopped["otel_connect.throttle.attempts"] == attempts
    assert {record["resource"]["service.name"] for record in throttles.values()} == {"otel-connect"}
    last: dict[str, int] = {}
    for point in points:
        if point["attributes"].get("process.executable.name") == "insistent":
            last[point["name"]] = point["value"] if point["kind"] == "sum" else point["count"]
    assert last == {"otel_connect.attempts": attempts, "otel_connect.attempt.duration": attempts}
