"""Numbered records at a steady rate, so that afterwards the missing ones can be named.

A ``Feed`` gives every pipeline the same records at the same moments: the stock SDK pipeline, our exporter,
or anything else with a ``write``. The clock of a test is the number of records fed, not the time: a slow
machine makes a run longer, never different.
"""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Protocol, Self

import requests
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from otel_connect.config import ExportConfig
from otel_connect.config import Protocol as Wire
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.ledger import Account
from otel_connect.model import Signal
from tests.support.delivery import logs

EVENT_ID = "otel_connect.event.id"
_BODY = "curl[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)"
_TURNS_PER_SECOND = 20


class Pipeline(Protocol):
    """A way from a record to a backend."""

    @property
    def name(self) -> str:
        """What its records' ids begin with."""

    def write(self, ids: Sequence[str]) -> None:
        """Take one record for each id; never waits for the backend."""

    def close(self, timeout_s: float) -> None:
        """Send what is left until the time is up."""


class OurPipeline:
    """The exporter of this project."""

    def __init__(self, name: str, config: ExportConfig) -> None:
        self.name = name
        self.exporter = OtlpExporter(config)

    def write(self, ids: Sequence[str]) -> None:
        """Put one request with all of them, as the agent does with what it read at one time."""
        self.exporter.put(logs(*ids, padding=len(_BODY)))

    def close(self, timeout_s: float) -> None:
        """Flush, and assert that the ledger explains every record."""
        self.exporter.close(timeout_s)
        assert self.account.difference == 0, self.account

    @property
    def account(self) -> Account:
        """Where its log records are."""
        return self.exporter.accounts()[Signal.LOGS]


class StockPipeline:
    """``BatchLogRecordProcessor`` and the OTLP exporter of opentelemetry-python, with the specified defaults."""

    def __init__(self, name: str, endpoint: str, wire: Wire) -> None:
        self.name = name
        exporter: HttpLogExporter | GrpcLogExporter
        if wire is Wire.GRPC:
            exporter = GrpcLogExporter(endpoint=endpoint, insecure=True, timeout=10.0)
        else:
            self._session = requests.Session()
            exporter = HttpLogExporter(endpoint=f"{endpoint}/v1/logs", timeout=10.0, session=self._session)
        self._provider = LoggerProvider(Resource({}), shutdown_on_exit=False)
        self._provider.add_log_record_processor(
            BatchLogRecordProcessor(
                exporter,
                schedule_delay_millis=1000,
                max_export_batch_size=512,
                max_queue_size=2048,
            )
        )
        self._logger = self._provider.get_logger("stock")

    def write(self, ids: Sequence[str]) -> None:
        """Emit one record for each id."""
        now = time.time_ns()
        for one in ids:
            self._logger.emit(timestamp=now, body=_BODY, attributes={EVENT_ID: one})

    def close(self, timeout_s: float) -> None:
        """Flush the way an application does that ends."""
        del timeout_s  # the SDK's own, 30 s, cannot be given
        self._provider.shutdown()


class Feed:
    """Feeds until it is left; then every pipeline may flush.

    The ids are ``<pipeline>-<number>``, the numbers the same for all.
    """

    def __init__(self, pipelines: Sequence[Pipeline], records_per_second: int) -> None:
        self._pipelines = pipelines
        self._per_turn = records_per_second // _TURNS_PER_SECOND
        self._changed = threading.Condition()
        self._fed = 0
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed")

    @property
    def fed(self) -> int:
        """Records given to each pipeline so far."""
        with self._changed:
            return self._fed

    def ids(self, pipeline: Pipeline) -> set[str]:
        """Give the ids that a pipeline was given."""
        return {f"{pipeline.name}-{number}" for number in range(self.fed)}

    def await_fed(self, records: int, timeout_s: float = 3600.0) -> None:
        """Wait until each pipeline has been given so many records in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._fed >= records or self._error, timeout_s)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._feed(time.monotonic)
        except BaseException as error:  # noqa: BLE001 - handed to the thread of the test
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _feed(self, clock: Callable[[], float]) -> None:
        began = clock()
        for turn in count():
            if self._stopping.wait(max(began + turn / _TURNS_PER_SECOND - clock(), 0)):
                return
            numbers = range(turn * self._per_turn, (turn + 1) * self._per_turn)
            for pipeline in self._pipelines:
                pipeline.write([f"{pipeline.name}-{number}" for number in numbers])
            with self._changed:
                self._fed += self._per_turn
                self._changed.notify_all()
