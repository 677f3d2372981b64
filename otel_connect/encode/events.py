"""What the agent says of itself as events: log records that are no attempts, of its own resource."""

from collections.abc import Sequence
from typing import NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_connect import __version__
from otel_connect.encode.attributes import INFO, SCHEMA_URL, SCOPE, WARN, valid_text
from otel_connect.encode.self_metrics import REASON, SIGNAL
from otel_connect.model import Request, Signal

STARTED = "otel_connect.agent.started"
STOPPED = "otel_connect.agent.stopped"
CONFIG_RELOADED = "otel_connect.agent.config_reloaded"
DATA_LOST = "otel_connect.agent.data_lost"

HOOKS = "otel_connect.hooks"
COUNT = "otel_connect.count"

Value = str | int | Sequence[str]


class AgentEvent(NamedTuple):
    """Something that happened to the agent."""

    name: str
    body: str
    """One line for a person."""
    attributes: tuple[tuple[str, Value], ...] = ()
    warning: bool = False


def started(hooks: Sequence[str]) -> AgentEvent:
    """Say that attempts are captured from now on."""
    return AgentEvent(STARTED, f"capturing TCP connect attempts ({', '.join(hooks)})", ((HOOKS, tuple(hooks)),))


def stopped(seen: int) -> AgentEvent:
    """Say that nothing is captured any more, and how many attempts were seen in all."""
    return AgentEvent(STOPPED, f"stopped after {seen} attempts", ((COUNT, seen),))


def config_reloaded() -> AgentEvent:
    """Say that another configuration is in force."""
    return AgentEvent(CONFIG_RELOADED, "the configuration was read again and is in force")


def data_lost(signal: Signal, reason: str, count: int) -> AgentEvent:
    """Say that records were lost since this was last said."""
    body = f"{count} records of {signal} were lost: {reason}"
    return AgentEvent(DATA_LOST, body, ((SIGNAL, str(signal)), (REASON, reason), (COUNT, count)), warning=True)


def encode_event(event: AgentEvent, resource: Resource, now_unix_ns: int) -> Request:
    """Make a request of one event. It counts no records: the account of log records is one of attempts."""
    severity = WARN if event.warning else INFO
    record = LogRecord(
        time_unix_nano=now_unix_ns,
        observed_time_unix_nano=now_unix_ns,
        severity_number=severity.number,  # type: ignore[arg-type]  # the enum of the stubs, an int to protobuf
        severity_text=severity.text,
        body=AnyValue(string_value=valid_text(event.body)),
        attributes=[KeyValue(key=key, value=_any_value(value)) for key, value in event.attributes],
        event_name=event.name,
    )
    scope = InstrumentationScope(name=SCOPE, version=__version__)
    scoped = ScopeLogs(scope=scope, log_records=[record], schema_url=SCHEMA_URL)
    logs = ResourceLogs(resource=resource, scope_logs=[scoped], schema_url=SCHEMA_URL)
    return Request(Signal.LOGS, ExportLogsServiceRequest(resource_logs=[logs]).SerializeToString(), 0)


def _any_value(value: Value) -> AnyValue:
    match value:
        case str():
            return AnyValue(string_value=valid_text(value))
        case int():
            return AnyValue(int_value=value)
        case _:
            return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=valid_text(each)) for each in value]))
