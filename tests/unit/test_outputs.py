"""Telemetry: batches in, requests out, and a ledger that balances whatever happens."""

import io
import json
from collections.abc import Mapping

import pytest

from otel_connect.config import Configuration, EncodeConfig, ExportConfig
from otel_connect.encode.resource import Resource
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.model import Balance, Outcome, Request, Signal
from otel_connect.outputs import JsonLines, Telemetry
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

    def put(self, request: Request) -> None:
        self.requests.append(request)
        self._ledger.accept(request.signal, request.records)
        if self._lose:
            self._ledger.drop(request.signal, Reason.QUEUE_FULL, request.records)
        else:
            self._ledger.export(request.signal, request.records)

    def accounts(self) -> Mapping[Signal, Account]:
        return self._ledger.snapshot()

    def close(self, timeout_s: float) -> None:
        """Nothing waits here."""

    def records(self, signal: Signal) -> int:
        return sum(request.records for request in self.requests if request.signal is signal)


def balance(seen: int) -> Balance:
    return Balance(seen, seen, 0, 0, {}, 0)


def telemetry(sink: Kept | JsonLines, clock: Clock | None = None) -> Telemetry:
    return Telemetry(CONFIGURATION, Resource({"service.name": "test"}), sink, clock or Clock())


def test_a_batch_waits_for_its_time_and_the_metrics_for_theirs() -> None:
    sink, clock = Kept(), Clock()
    output = telemetry(sink, clock)
    output.write([make_attempt(), make_attempt()])
    output.tick(lambda: balance(2))
    assert not sink.requests
    clock.now += 0.2
    output.tick(lambda: balance(2))
    assert (sink.records(Signal.LOGS), sink.records(Signal.TRACES), sink.records(Signal.METRICS)) == (2, 2, 0)
    clock.now += 1
    output.tick(lambda: balance(2))
    assert sink.records(Signal.METRICS) > 0


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
    output = telemetry(Kept(lose=lose))
    success = make_attempt(outcome=Outcome.ESTABLISHED, errno=None)
    output.write([make_attempt(), success, success])
    output.close(balance(3))
    assert [record.getMessage() for record in caplog.records] == [f"logs: {logs}", f"traces: {traces}"]


def test_what_cannot_be_encoded_costs_no_neighbour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = Kept()
    output = telemetry(sink)
    impossible = make_attempt(start_unix_ns=-(1 << 70))
    output.write([make_attempt(), impossible, make_attempt()])
    output.close(balance(3))
    assert sink.records(Signal.LOGS) == 2
    said = [record.getMessage() for record in caplog.records]
    assert "logs: seen 3 = exported 2 + queued 0 + dropped 1 (encode_error 1)" in said
    assert not any("unaccounted" in line for line in said)


def test_json_lines_are_one_request_each() -> None:
    stream = io.StringIO()
    output = telemetry(JsonLines(stream))
    output.write([make_attempt()])
    output.close(balance(1))
    assert {next(iter(json.loads(line))) for line in stream.getvalue().splitlines()} == {
        "resourceLogs",
        "resourceSpans",
        "resourceMetrics",
    }
