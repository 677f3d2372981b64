"""One delivery for the exporters of a process: who opens and closes it, what it takes, what it counts."""

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_connect.config import ExportConfig
from otel_connect.errors import ConfigError
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.ledger import Reason
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Station
from otel_connect.plugin.exporters import DurableLogExporter, DurableMetricExporter, DurableSpanExporter
from otel_connect.plugin.quiet import quiet_context
from tests.support.collector import await_until
from tests.support.receiver import HttpReceiver, Reply
from tests.unit.test_plugin_batches import awkward, bodies, collected, spans
from tests.unit.test_plugin_encodable import log


class Opener:
    """Opens exporters in memory, and remembers them."""

    def __init__(self, endpoint: str = "http://127.0.0.1:1") -> None:
        self.config = ExportConfig(endpoint=endpoint, spool_directory="")
        self.opened: list[OtlpExporter] = []

    def __call__(self) -> Station:
        self.opened.append(OtlpExporter(self.config))
        return Station(self.opened[-1])


def test_three_exporters_share_one_that_ends_with_the_last() -> None:
    with HttpReceiver() as receiver:
        opener = Opener(receiver.endpoint)
        delivery = Delivery(opener)
        logs, metrics, traces = (
            DurableLogExporter(delivery),
            DurableMetricExporter(delivery),
            DurableSpanExporter(delivery),
        )
        assert len(opener.opened) == 1
        assert logs.export([log("a")]) is LogRecordExportResult.SUCCESS
        logs.shutdown()
        logs.shutdown()
        assert logs.export([log("late")]) is LogRecordExportResult.FAILURE
        assert not logs.force_flush(0)
        assert traces.export(spans(awkward)) is SpanExportResult.SUCCESS
        traces.shutdown()
        points = collected(lambda meter: meter.create_counter("c").add(1))
        assert metrics.export(points) is MetricExportResult.SUCCESS
        assert metrics.force_flush()
        metrics.shutdown(timeout_millis=5000, timeout=5)
        (exporter,) = opener.opened
        assert {signal: account.exported for signal, account in exporter.accounts().items()} == {
            Signal.LOGS: 1,
            Signal.METRICS: 1,
            Signal.TRACES: 2,
        }
        assert all(account.difference == 0 for account in exporter.accounts().values())
        assert delivery.accounts() == {}
        again = DurableLogExporter(delivery)
        again.export([log("b")])
        again.shutdown()
        taken = [request.body for request in receiver.requests if request.signal is Signal.LOGS]
    assert [bodies(body) for body in taken] == [["a"], ["b"]]
    assert len(opener.opened) == 2


def test_what_cannot_be_encoded_is_in_the_ledger_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with HttpReceiver() as receiver:
        opener = Opener(receiver.endpoint)
        exporter = DurableLogExporter(Delivery(opener))
        for _ in range(3):
            assert exporter.export([log("fine"), log(object())]) is LogRecordExportResult.SUCCESS
        assert exporter.export([log(object())]) is LogRecordExportResult.FAILURE
        assert exporter.export([]) is LogRecordExportResult.SUCCESS
        exporter.shutdown()
        assert all(bodies(request.body) == ["fine"] * len(request.ids) for request in receiver.requests)
    account = opener.opened[0].accounts()[Signal.LOGS]
    assert (account.accepted, account.exported, account.dropped) == (7, 3, {Reason.ENCODE_ERROR: 4})
    assert account.difference == 0
    assert len([record for record in caplog.records if "could not be encoded" in record.message]) == 1


def test_flush_waits_for_the_answer_and_not_for_ever() -> None:
    opener = Opener()  # nobody listens there
    delivery = Delivery(opener)
    exporter = DurableLogExporter(delivery)
    assert exporter.force_flush(0)
    exporter.export([log("a")])
    assert not exporter.force_flush(50)
    assert delivery.accounts()[Signal.LOGS].queued == 1
    exporter.shutdown(timeout_millis=0)
    assert opener.opened[0].accounts()[Signal.LOGS].dropped == {Reason.SHUTDOWN: 1}


@pytest.mark.parametrize("error", [ConfigError(["a file is bad"]), OSError("a disk is bad"), RuntimeError("no thread")])
def test_what_cannot_be_opened_is_said_once_and_takes_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def opener() -> Station:
        raise error

    exporter = DurableLogExporter(Delivery(opener))
    for _ in range(3):
        assert exporter.export([log("a")]) is LogRecordExportResult.FAILURE
    exporter.shutdown()
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(error) in line


def test_idle_it_opens_nothing_before_a_batch() -> None:
    opener = Opener()
    exporter = DurableLogExporter(Delivery(opener, idle=True))
    assert opener.opened == []
    exporter.export([log("a")])
    assert len(opener.opened) == 1
    exporter.shutdown(timeout_millis=0)


def test_what_the_delivery_logs_about_itself_cannot_make_it_run_in_circles() -> None:
    # A processor that does not wait exports inside the call that logs.
    with HttpReceiver() as receiver:
        opener = Opener(receiver.endpoint)
        exporter = DurableLogExporter(Delivery(opener))
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        with pytest.warns(DeprecationWarning, match="LoggingHandler"):
            handler = LoggingHandler(logger_provider=provider)
        logger = logging.getLogger("otel_connect")
        logger.addHandler(handler)
        try:
            exporter.export([log("fine"), log(object())])
            quiet_context().run(logger.warning, "from a sending thread")
            logger.warning("from elsewhere")
        finally:
            logger.removeHandler(handler)
        provider.shutdown()
        said = [text for request in receiver.requests for text in bodies(request.body)]
    assert sorted(said) == ["fine", "from elsewhere"]


def test_a_batch_of_which_nothing_is_kept_is_a_failure_that_says_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    large = "x" * 4_000_000
    with HttpReceiver() as receiver:
        delivery = Delivery(Opener(receiver.endpoint))
        logs, metrics, traces = (
            DurableLogExporter(delivery),
            DurableMetricExporter(delivery),
            DurableSpanExporter(delivery),
        )
        assert traces.export(spans(lambda tracer: tracer.start_span(large).end())) is SpanExportResult.FAILURE
        points = collected(lambda meter: meter.create_counter("c", description=large).add(1))
        assert metrics.export(points) is MetricExportResult.FAILURE
        assert logs.export([log(large), log(object())]) is LogRecordExportResult.FAILURE
        assert logs.export([log(large), log("fine")]) is LogRecordExportResult.SUCCESS
        assert logs.force_flush()
        accounts = delivery.accounts()
        assert [accounts[signal].dropped[Reason.TOO_LARGE] for signal in Signal] == [2, 1, 1]
        assert accounts[Signal.LOGS].exported == 1
        assert not any(account.queued or account.difference for account in accounts.values())
        for exporter in (logs, metrics, traces):
            exporter.shutdown()
    lines = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert sorted(line.partition(":")[0] for line in lines) == sorted(Signal)
    assert all("larger than a request may be (export.request_bytes" in line for line in lines)


@pytest.mark.parametrize(("reason", "words"), [(Reason.QUEUE_FULL, "queue_bytes"), (Reason.SPOOL_FULL, "spool_bytes")])
def test_a_batch_that_finds_no_room_is_a_failure(
    reason: Reason, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room, directory = 1 << 20, str(tmp_path) if reason is Reason.SPOOL_FULL else ""
    with HttpReceiver([Reply(delay_s=1.0)]) as receiver:
        opener = Opener(receiver.endpoint)
        opener.config = ExportConfig(
            endpoint=receiver.endpoint, spool_directory=directory, spool_bytes=room, queue_bytes=room
        )
        delivery = Delivery(opener)
        exporter = DurableLogExporter(delivery)
        body = "x" * (room // 2 - 200)
        assert exporter.export([log(body)]) is LogRecordExportResult.SUCCESS
        await_until(lambda: bool(receiver.requests))  # it is under way, and so cannot be dropped for another one
        assert exporter.export([log(body)]) is LogRecordExportResult.FAILURE
        assert delivery.accounts()[Signal.LOGS].dropped == {reason: 1}
        exporter.shutdown()
    (line,) = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert words in line


@pytest.mark.timeout(20)
def test_what_is_logged_meanwhile_waits_for_no_lock_that_the_application_has(caplog: pytest.LogCaptureFixture) -> None:
    # As when a logging handler exports while it emits, or makes its exporter while logging is being configured.
    exporter = DurableLogExporter(Delivery(Opener()))
    logging.getLogger().setLevel(logging.getLogger().level)  # levels that loggers remember are forgotten
    with caplog.handler.lock or nullcontext(), logging._lock:  # type: ignore[attr-defined]
        assert exporter.export([log(object())]) is LogRecordExportResult.FAILURE
        failing = DurableLogExporter(Delivery(Opener("not a URL")))
    assert [record.name for record in caplog.records] == [
        "otel_connect.plugin.delivery",
        "otel_connect.plugin.last_words",
    ]
    failing.shutdown()
    exporter.shutdown()


FORK = """
import os, sys
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Outlet

class Parents:
    exporter, heir, tell, adapt = property(lambda self: self), None, None, None
    def close(self, timeout_s): pass
    def __del__(self): print("collected", os.getpid() == parent, flush=True)

parent = os.getpid()
delivery = Delivery(Parents)
os.register_at_fork(after_in_child=delivery.after_fork_in_child)
outlet = Outlet(Signal.LOGS, delivery)
child = os.fork()
if child:
    os.waitpid(child, 0)
    outlet.shutdown(0)
"""


def test_a_child_never_collects_what_is_its_parents() -> None:
    said = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n") == ["collected True", ""]


@pytest.mark.parametrize("make", [DurableLogExporter, DurableMetricExporter, DurableSpanExporter])
def test_every_exporter_flushes_and_ends_without_ever_having_exported(make: Callable[[Delivery], Any]) -> None:
    exporter = make(Delivery(Opener()))
    assert exporter.force_flush()
    exporter.shutdown()
    assert not exporter.force_flush()


def test_nothing_collected_is_nothing_sent() -> None:
    with HttpReceiver() as receiver:
        exporter = DurableMetricExporter(Delivery(Opener(receiver.endpoint)))
        assert exporter.export(MetricsData([])) is MetricExportResult.SUCCESS
        exporter.shutdown()
        assert receiver.requests == []
