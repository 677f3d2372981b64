"""An exporter on the bench: short pauses, answers that can be awaited, and at the end the ledger's identity."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterable

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_connect.config import ExportConfig, Protocol
from otel_connect.export.answer import Answer
from otel_connect.export.endpoint import Endpoint
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.ledger import Account
from otel_connect.export.sender import Backoff, State
from otel_connect.export.transport import Transport, open_transport
from otel_connect.model import Request, Signal
from tests.support.receiver import GrpcReceiver, HttpReceiver, Receiver, Reply, ServerTls, partial_success

HTTP, GRPC = Protocol.HTTP_PROTOBUF, Protocol.GRPC
QUICK = Backoff(first_s=0.01, longest_s=0.02, slow_s=0.02)
PATIENT = Backoff(first_s=600, longest_s=600, slow_s=600)
PROTOBUF = {"content-type": "application/x-protobuf"}


def logs(*ids: str, padding: int = 0) -> Request:
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    for one in ids:
        record = records.add()
        record.body.string_value = "x" * padding
        attribute = record.attributes.add(key="otel_connect.event.id")
        attribute.value.string_value = one
    return Request(Signal.LOGS, message.SerializeToString(), len(ids))


def metrics(*names: str) -> Request:
    message = ExportMetricsServiceRequest()
    entries = message.resource_metrics.add().scope_metrics.add().metrics
    for name in names:
        entries.add(name=name).sum.data_points.add(as_int=1)
    return Request(Signal.METRICS, message.SerializeToString(), len(names))


def traces(*ids: str) -> Request:
    message = ExportTraceServiceRequest()
    spans = message.resource_spans.add().scope_spans.add().spans
    for one in ids:
        attribute = spans.add().attributes.add(key="otel_connect.event.id")
        attribute.value.string_value = one
    return Request(Signal.TRACES, message.SerializeToString(), len(ids))


class Watched:
    """A transport whose answers can be awaited; what it sends is real."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._changed = threading.Condition()
        self.answers: list[Answer] = []

    def send(self, body: bytes) -> Answer:
        answer = self._inner.send(body)
        with self._changed:
            self.answers.append(answer)
            self._changed.notify_all()
        return answer

    def close(self) -> None:
        self._inner.close()

    def await_answers(self, count: int) -> Answer:
        """Wait for so many answers in all, and give that one; when the n-th is there, n - 1 have been acted on."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= count, 10), self.answers
            return self.answers[count - 1]


MEMORY = ""
"""In place of a spool directory."""


class Bench:
    """An exporter with its watched transports, and a spool directory of its own unless one is configured.

    Every test ends in ``close``, which asserts the identity; what is left in the spool stays ``queued``.
    """

    def __init__(
        self,
        config: ExportConfig,
        backoff: Backoff = QUICK,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._others = set(threading.enumerate())
        self.watched: dict[Signal, Watched] = {}
        self._directory = tempfile.TemporaryDirectory()
        if "spool_directory" not in config.model_fields_set:
            config = config.model_copy(update={"spool_directory": f"{self._directory.name}/spool"})
        self.exporter = OtlpExporter(config, backoff=backoff, clock=clock, wall_ns=wall_ns, opener=self._open)
        self.put = self.exporter.put

    def _open(self, endpoint: Endpoint) -> Transport:
        self.watched[endpoint.signal] = Watched(open_transport(endpoint))
        return self.watched[endpoint.signal]

    def await_answers(self, count: int) -> Answer:
        return self.watched[Signal.LOGS].await_answers(count)

    def answers(self, signal: Signal = Signal.LOGS) -> list[Answer]:
        return list(self.watched[signal].answers)

    def state(self) -> State:
        return self.exporter.health()[Signal.LOGS].state

    def close(self, timeout_s: float = 10.0, signal: Signal = Signal.LOGS) -> Account:
        self.exporter.close(timeout_s)
        for thread in set(threading.enumerate()) - self._others:
            if thread.name.startswith("export-"):  # left to itself at the end of the time: let it hang up
                thread.join(10)
        self._directory.cleanup()
        accounts = self.exporter.accounts()
        assert all(account.difference == 0 for account in accounts.values())
        return accounts[signal]


def configured(receiver: Receiver, protocol: Protocol, **options: object) -> ExportConfig:
    return ExportConfig.model_validate({"endpoint": receiver.endpoint, "protocol": protocol, **options})


def receive(
    protocol: Protocol, script: Iterable[Reply] = (), tls: ServerTls | None = None, port: int = 0
) -> HttpReceiver | GrpcReceiver:
    return (HttpReceiver if protocol is HTTP else GrpcReceiver)(script, tls=tls, port=port)


def grpc_error(code: grpc.StatusCode, retry_after_s: float | None = None) -> Reply:
    status = status_pb2.Status(code=code.value[0], message="scripted")
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(packed)
    return Reply(code=code, details="scripted", headers={"grpc-status-details-bin": status.SerializeToString()})


def lengthy(mebibytes: int) -> bytes:
    """Make a success that would be believed, were it not for its size."""
    return partial_success(Signal.LOGS, 0, "x" * (mebibytes << 20)).body
