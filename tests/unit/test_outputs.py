"""Telemetry: batches in, requests out, and a ledger that balances whatever happens."""

import errno
import io
import json
import os
from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage

from otel_connect.config import Configuration, EncodeConfig, ExportConfig
from otel_connect.encode.events import data_lost, encode_event, started
from otel_connect.encode.json_lines import json_line
from otel_connect.encode.resource import Resource
from otel_connect.errors import ConfigError
from otel_connect.export.delay import Delays
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.export.sender import Health
from otel_connect.export.spool import SpoolState
from otel_connect.figures import NO_FIGURES, AgentState
from otel_connect.json_output import JsonLines
from otel_connect.model import Balance, Detail, Outcome, Request, Signal, Tallied, ThrottleEvent, Withheld
from otel_connect.outputs import Telemetry
from otel_connect.serve.lines import Lines
from tests.support.events import make_attempt

CONFIGURATION = Configuration(
    export=ExportConfig(flush_interval_ms=200, metric_interval_ms=1000),
    encode=EncodeConfig(span_successes_per_second=0),
)


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A sink that keeps requests and accepts all of them, or loses them."""

    def __init__(self, *, lose: bool = False) -> None:
        self.requests: list[Request] = []
        self._ledger = Ledger()
        self._lose = lose
        self.configurations: list[ExportConfig] = []
        self.closed_within_s: list[float] = []

    def put(self, request: Request) -> None:
        self.requests.append(request)
        self._ledger.accept(request.signal, request.records)
        if self._lose:
            self._ledger.drop(request.signal, Reason.QUEUE_FULL, request.records)
        else:
            self._ledger.export(request.signal, request.records)

    def accounts(self) -> Mapping[Signal, Account]:
        return self._ledger.snapshot()

    def health(self) -> Mapping[Signal, Health]:
        return {}

    def spool_state(self) -> SpoolState | None:
        return None

    def delays(self) -> Mapping[Signal, Delays]:
        return {}

    def reconfigure(self, config: ExportConfig) -> None:
        self.configurations.append(config)

    def close(self, timeout_s: float) -> None:
        self.closed_within_s.append(timeout_s)

    def records(self, signal: Signal) -> int:
        return sum(request.records for request in self.requests if request.signal is signal)


def state(seen: int) -> AgentState:
    return NO_FIGURES.state._replace(balance=Balance(seen, seen, 0, 0, {}, 0))


def telemetry(
    sink: Kept | JsonLines, clock: Clock | None = None, configuration: Configuration = CONFIGURATION
) -> Telemetry:
    return Telemetry(configuration, Resource({"service.name": "test"}), sink, clock or Clock())


def test_a_batch_waits_for_its_time_and_the_metrics_for_theirs() -> None:
    sink, clock = Kept(), Clock()
    output = telemetry(sink, clock)
    output.write([make_attempt(), make_attempt()])
    output.tick(lambda: state(2))
    assert not sink.requests
    clock.now += 0.2
    output.tick(lambda: state(2))
    assert (sink.records(Signal.LOGS), sink.records(Signal.TRACES), sink.records(Signal.METRICS)) == (2, 2, 0)
    clock.now += 1
    output.tick(lambda: state(2))
    assert sink.records(Signal.METRICS) > 0


def test_the_end_waits_for_a_backend_for_five_seconds_at_most() -> None:
    sink = Kept()
    telemetry(sink).close(state(0))
    assert sink.closed_within_s == [5.0]


def test_probes_that_were_skipped_are_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for missed in (0, 3):
        balance = state(0).balance._replace(probe_missed=missed)
        telemetry(Kept()).close(state(0)._replace(balance=balance))
    assert [line for line in caplog.messages if "skipped" in line] == [
        "probes skipped by the kernel at most 3 times: see docs/troubleshooting.md"
    ]


def test_a_large_batch_does_not_wait() -> None:
    sink = Kept()
    telemetry(sink).write([make_attempt()] * 5000)
    assert sink.records(Signal.LOGS) == 5000


@pytest.mark.parametrize(
    ("lose", "logs", "traces"),
    [
        (False, "seen 3 = exported 3 + queued 0 + dropped 0", "seen 3 = exported 1 + queued 0 + dropped 2 (sampled 2)"),
        (
            True,
            "seen 3 = exported 0 + queued 0 + dropped 3 (queue_full 3)",
            "seen 3 = exported 0 + queued 0 + dropped 3 (queue_full 1, sampled 2)",
        ),
    ],
)
def test_the_ledger_is_said_at_the_end(lose: bool, logs: str, traces: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = Kept(lose=lose)
    output = telemetry(sink)
    success = make_attempt(outcome=Outcome.ESTABLISHED, errno=None)
    output.write([make_attempt(), success, success])
    output.close(state(3))
    points = sink.records(Signal.METRICS)
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == [f"logs: {logs}", f"traces: {traces}"]
    exported, dropped = (0, points) if lose else (points, 0)
    (metrics,) = said[2:]
    assert metrics.startswith(f"metrics: made {points} = exported {exported} + queued 0 + dropped {dropped}")


def test_what_cannot_be_encoded_costs_no_neighbour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = Kept()
    output = telemetry(sink)
    impossible = make_attempt(start_unix_ns=-(1 << 70))
    output.write([make_attempt(), impossible, make_attempt()])
    output.close(state(3))
    assert sink.records(Signal.LOGS) == 2
    said = [record.getMessage() for record in caplog.records]
    assert "logs: seen 3 = exported 2 + queued 0 + dropped 1 (encode_error 1)" in said
    assert not any("unaccounted" in line for line in said)


def log_records(sink: Kept) -> list[LogRecord]:
    return [
        record
        for request in sink.requests
        if request.signal is Signal.LOGS
        for of_resource in ExportLogsServiceRequest.FromString(request.body).resource_logs
        for record in of_resource.scope_logs[0].log_records
        if record.event_name != "otel_connect.agent.stopped"
    ]


def last_metrics(sink: Kept) -> Iterator[Metric]:
    """Return the metrics of all resources in the last request of theirs."""
    last = [request for request in sink.requests if request.signal is Signal.METRICS][-1]
    for of_resource in ExportMetricsServiceRequest.FromString(last.body).resource_metrics:
        yield from of_resource.scope_metrics[0].metrics


def attempts_counted(sink: Kept) -> int:
    """Return the total of the attempt counter in the last metrics."""
    total = durations = 0
    for metric in last_metrics(sink):
        if metric.name == "otel_connect.attempts":
            total += sum(point.as_int for point in metric.sum.data_points)
        elif metric.name == "otel_connect.attempt.duration":
            durations += sum(point.count for point in metric.histogram.data_points)
    assert durations == total
    return total


def repeat_count(record: LogRecord) -> int:
    attributes = {pair.key: pair.value.int_value for pair in record.attributes}
    return attributes.get("otel_connect.repeat.count", 1)


def test_collapsed_repeats_are_sampled_in_the_account_and_whole_in_the_metrics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    sink, clock = Kept(), Clock()
    collapsing = CONFIGURATION.model_copy(
        update={"encode": EncodeConfig(collapse_repeats=10, collapse_window_ms=1000, span_successes_per_second=0)}
    )
    output = telemetry(sink, clock, collapsing)
    output.write([make_attempt()] * 25)
    clock.now += 0.2
    output.tick(lambda: state(25))
    assert [repeat_count(record) for record in log_records(sink)] == [1, 10, 10]
    clock.now += 1
    output.tick(lambda: state(25))
    assert [repeat_count(record) for record in log_records(sink)] == [1, 10, 10, 4]
    output.write([make_attempt()] * 5)
    output.close(state(30))
    assert sum(repeat_count(record) for record in log_records(sink)) == 30
    assert attempts_counted(sink) == 30
    assert [record.getMessage() for record in caplog.records][:2] == [
        "logs: seen 30 = exported 6 + queued 0 + dropped 24 (sampled 24)",
        "traces: seen 30 = exported 6 + queued 0 + dropped 24 (sampled 24)",
    ]


def test_what_waits_for_its_window_is_queued() -> None:
    sink = Kept()
    collapsing = CONFIGURATION.model_copy(update={"encode": EncodeConfig(collapse_repeats=10)})
    clock = Clock()
    output = telemetry(sink, clock, collapsing)
    output.write([make_attempt()] * 4)
    clock.now += 1.5
    output.tick(lambda: state(4))
    metrics = {metric.name: metric for metric in last_metrics(sink)}
    queued = metrics["otel_connect.agent.attempts.queued"].sum.data_points
    assert {point.as_int for point in queued} == {3}


def test_attempts_without_a_record_are_in_the_metrics_and_the_account(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = Kept()
    output = telemetry(sink)
    output.write([make_attempt()])
    attempt = make_attempt()
    details = ((Detail.WHOLE, attempt.named), (Detail.WITHOUT_PEER, attempt.named), (Detail.WITHOUT_PROCESS, None))
    output.count([Tallied(attempt.event, attempt.verdict, who, detail, 10, 4_000_000) for detail, who in details])
    lost = Balance(31, 1, 0, 0, {"kernel_throttled": 30}, 0)
    output.close(NO_FIGURES.state._replace(balance=lost))
    assert attempts_counted(sink) == 31
    assert "logs: seen 31 = exported 1 + queued 0 + dropped 30 (kernel_throttled 30)" in caplog.messages


def test_a_throttle_event_is_a_record_in_no_account(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = Kept()
    output = telemetry(sink)
    output.throttled([ThrottleEvent(True, Withheld.PROCESS_RATE, 77, 4242, "curl", 5, 1)])
    output.close(state(0))
    (record,) = log_records(sink)
    assert record.event_name == "otel_connect.agent.throttle.started"
    assert record.time_unix_nano == 1
    assert "curl[4242]" in record.body.string_value
    assert "logs: seen 0 = exported 0 + queued 0 + dropped 0" in caplog.messages


def test_json_lines_are_one_request_each() -> None:
    stream = io.BytesIO()
    output = telemetry(JsonLines(Lines(stream)))
    output.write([make_attempt()])
    output.close(state(1))
    assert {next(iter(json.loads(line))) for line in stream.getvalue().splitlines()} == {
        "resourceLogs",
        "resourceSpans",
        "resourceMetrics",
    }


def test_events_are_log_records_but_no_attempts() -> None:
    sink = Kept()
    output = telemetry(sink)
    output.event(started(["a"]))
    output.write([make_attempt(), make_attempt()])
    output.event(data_lost(Signal.LOGS, "queue_full", 3))
    output.close(state(2))
    bodies = [ExportLogsServiceRequest.FromString(each.body) for each in sink.requests if each.signal is Signal.LOGS]
    names = [record.event_name for body in bodies for record in body.resource_logs[0].scope_logs[0].log_records]
    assert names == [
        "otel_connect.agent.started",
        "otel_connect.agent.data_lost",
        *["otel_connect.attempt"] * 2,
        "otel_connect.agent.stopped",
    ]
    services = [body.resource_logs[0].resource.attributes[0].value.string_value for body in bodies]
    assert services == ["test", "test", "shop", "test"]
    outlet = output.outlet(state(2))
    assert outlet.accounts[Signal.LOGS] == (2, 0, 2, 0, {})
    assert all(account.difference == 0 for account in outlet.accounts.values())
    assert outlet.events == dict.fromkeys(set(names) - {"otel_connect.attempt"}, 1)


def test_a_configuration_is_taken_while_running_or_not_at_all() -> None:
    sink, clock = Kept(), Clock()
    output = telemetry(sink, clock)
    output.write([make_attempt()])
    quick = Configuration(export=ExportConfig(flush_interval_ms=10), encode=EncodeConfig(span_name="peer"))
    output.reconfigure(quick)
    assert sink.configurations == [quick.export]
    output.write([make_attempt()])
    clock.now += 0.2
    output.tick(lambda: state(2))
    (spans,) = [each for each in sink.requests if each.signal is Signal.TRACES]
    assert spans.body.count(b"tcp connect 10.1.2.80:443") == 2

    class Refusing(Kept):
        def reconfigure(self, config: ExportConfig) -> None:
            raise ConfigError([f"{config.endpoint}: cannot be used"])

    sink = Refusing()
    output = telemetry(sink, clock)
    with pytest.raises(ConfigError):
        output.reconfigure(quick)
    output.write([make_attempt()])
    clock.now += 0.1
    output.tick(lambda: state(1))
    assert not sink.requests  # the old interval is in force


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written = b""

    def write(self, data: memoryview) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = bytes(data[: min(self.room, 1000)])
        self.room -= len(taken)
        self.written += taken
        return len(taken)

    def isatty(self) -> bool:
        return False


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    request = encode_event(started(["a" * 200_000]), ResourceMessage(), 1)._replace(records=1)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read: list[bytes] = []
    with io.FileIO(reading) as reader, io.FileIO(writing, "wb") as stream:
        sink = JsonLines(Lines(stream, pause=lambda _seconds: read.append(reader.read(1 << 20) or b"")))
        sink.put(request)
        stream.close()
        line = b"".join([*read, *iter(lambda: reader.read(1 << 20) or b"", b"")])
    assert read
    assert line.decode() == json_line(request) + "\n"
    assert sink.accounts()[Signal.LOGS].exported == 1


def test_what_cannot_be_written_is_counted_and_costs_no_neighbour(caplog: pytest.LogCaptureFixture) -> None:
    request = encode_event(started(["a"]), ResourceMessage(), 1)._replace(records=5)
    whole = io.BytesIO()
    JsonLines(Lines(whole)).put(request)
    line = whole.getvalue()
    disk = Full(room=len(line) + 3)
    sink = JsonLines(Lines(disk))
    for _ in range(3):
        sink.put(request)
    disk.room = 1 << 20
    sink.put(request)
    sink.put(request)
    assert disk.written == line + line[:3] + b"\n" + line + line
    assert sink.accounts()[Signal.LOGS] == Account(25, 15, 0, {Reason.OUTPUT_IO: 10}, 0)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("expire_s", "after_s", "there"), [(60, 50, True), (60, 70, False), (3600, 70, True)])
@pytest.mark.parametrize("reloaded", [False, True])
def test_series_expire_as_configured(expire_s: int, after_s: float, there: bool, reloaded: bool) -> None:
    clock, kept = Clock(), Kept()
    configured = CONFIGURATION.model_copy(update={"encode": EncodeConfig(series_expire_s=expire_s)})
    telemetry = Telemetry(CONFIGURATION if reloaded else configured, Resource({}), kept, clock)
    if reloaded:
        telemetry.reconfigure(configured)
    telemetry.write([make_attempt()])
    for step in (1.5, after_s, 1.5, 1.5):
        clock.now += step
        telemetry.tick(lambda: NO_FIGURES.state)
    latest = [request for request in kept.requests if request.signal is Signal.METRICS][-1]
    assert (b"otel_connect.attempt.duration" in latest.body) is there
