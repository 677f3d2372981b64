from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from otel_connect.config import EncodeConfig
from otel_connect.encode.attributes import severity, valid_text
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.line import display_line
from otel_connect.encode.logs import encode_logs
from otel_connect.encode.spans import SpanContext
from otel_connect.encode.wire import fragments, key_value, message, varint
from otel_connect.model import Attempt, Outcome, Request, ServerName, Signal
from tests.support.events import attempts, make_attempt
from tests.support.otlp import RESOURCES, SCHEMA_URL, SCOPE, attribute_messages, by_resource

CONTEXT = SpanContext(bytes(range(16)), bytes(range(8)))


def plain(attempt: Attempt, context: SpanContext | None) -> LogRecord:
    record = LogRecord(
        time_unix_nano=attempt.event.start_unix_ns,
        observed_time_unix_nano=attempt.observed_unix_ns,
        severity_number=severity(attempt).number,  # type: ignore[arg-type]
        severity_text=severity(attempt).text,
        body=AnyValue(string_value=valid_text(display_line(attempt))),
        attributes=attribute_messages(attempt),
        event_name="otel_connect.attempt",
    )
    if context is not None:
        record.flags, record.trace_id, record.span_id = 1, context.trace_id, context.span_id
    return record


def plain_request(batch: list[Attempt], contexts: list[SpanContext | None]) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    for resource, records in by_resource(batch, map(plain, batch, contexts)):
        scope_logs = ScopeLogs(scope=SCOPE, log_records=records, schema_url=SCHEMA_URL)
        request.resource_logs.append(ResourceLogs(resource=resource, scope_logs=[scope_logs], schema_url=SCHEMA_URL))
    return request


def encode(batch: list[Attempt], contexts: list[SpanContext | None]) -> bytes:
    return encode_logs(batch, [fragments(attempt) for attempt in batch], contexts, RESOURCES)


@given(st.lists(st.tuples(attempts, st.sampled_from([None, CONTEXT])), max_size=4))
def test_joined_fragments_are_what_protobuf_writes(batch: list[tuple[Attempt, SpanContext | None]]) -> None:
    of_attempts = [attempt for attempt, _ in batch]
    contexts = [context for _, context in batch]
    expected = plain_request(of_attempts, contexts)
    encoded = encode(of_attempts, contexts)
    assert ExportLogsServiceRequest.FromString(encoded) == expected
    assert encoded == expected.SerializeToString()


def test_each_workload_has_one_resource_with_its_records_in_order() -> None:
    batch = [make_attempt(service_name=name, comm=str(number)) for number, name in enumerate("abacb")]
    found = [
        (
            next(pair.value.string_value for pair in of_resource.resource.attributes if pair.key == "service.name"),
            [
                attribute.value.string_value
                for record in of_scope.log_records
                for attribute in record.attributes
                if attribute.key == "otel_connect.process.comm"
            ],
        )
        for of_resource in ExportLogsServiceRequest.FromString(encode(batch, [None] * 5)).resource_logs
        for of_scope in of_resource.scope_logs
    ]
    assert found == [("a", ["0", "2"]), ("b", ["1", "4"]), ("c", ["3"])]


def test_long_strings_have_long_lengths() -> None:
    attempt = make_attempt(executable_name="x" * 20_000, comm="y" * 200)
    assert encode([attempt], [None]) == plain_request([attempt], [None]).SerializeToString()


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_integers_as_protobuf_writes_them(number: int) -> None:
    assert message(b"", b"\x18" + varint(number)) == message(b"", AnyValue(int_value=number).SerializeToString())


def test_equal_values_of_different_types_stay_apart() -> None:
    assert len({key_value("k", 1), key_value("k", 1.0), key_value("k", True), key_value("k", "1")}) == 4


def test_record_of_a_refused_attempt() -> None:
    (record,) = (
        ExportLogsServiceRequest.FromString(encode([make_attempt()], [CONTEXT]))
        .resource_logs[0]
        .scope_logs[0]
        .log_records
    )
    assert record.event_name == "otel_connect.attempt"
    assert record.time_unix_nano == 1_700_000_000_123_456_789
    assert record.observed_time_unix_nano == 1_700_000_000_150_000_000
    assert (record.severity_number, record.severity_text) == (13, "WARN")
    assert record.body.string_value == "curl[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)"
    assert (record.trace_id, record.span_id, record.flags) == (*CONTEXT, 1)


@pytest.mark.parametrize(("port", "to"), [(None, ":443 (10.1.2.80)"), (80, ":80 (10.1.2.80:443)")])
def test_the_line_has_the_name_and_the_address(port: int | None, to: str) -> None:
    named = make_attempt(server=ServerName("shop.exa\x1bmple", "dns", "process", port))
    (record,) = ExportLogsServiceRequest.FromString(encode([named], [None])).resource_logs[0].scope_logs[0].log_records
    line = f"curl[4242] → shop.exa\\x1bmple{to} refused after 0.4 ms (ECONNREFUSED)"
    assert record.body.string_value == line


def test_hostile_names_cost_no_neighbour_its_record() -> None:
    batch = [make_attempt(comm="\ud800", executable_name="\udfff\x00"), make_attempt()]
    records = (
        ExportLogsServiceRequest.FromString(encode(batch, [None, None])).resource_logs[0].scope_logs[0].log_records
    )
    comms = [
        attribute.value.string_value
        for record in records
        for attribute in record.attributes
        if attribute.key == "otel_connect.process.comm"
    ]
    assert comms == ["\\ud800", "curl"]


def test_encoder_makes_a_log_for_each_attempt_and_spans_for_some() -> None:
    success = {"outcome": Outcome.ESTABLISHED, "errno": None}
    encoder = Encoder(EncodeConfig(span_successes_per_second=2), RESOURCES)
    signals = encoder.encode([make_attempt(), *repeat(make_attempt(**success), 5)])
    logs, traces = signals.requests
    assert (logs.signal, logs.records) == (Signal.LOGS, 6)
    assert (traces.signal, traces.records) == (Signal.TRACES, 3)
    assert signals.spans_left_out == 3


def test_encoder_makes_no_empty_request() -> None:
    encoder = Encoder(EncodeConfig(span_successes_per_second=0), RESOURCES)
    assert encoder.encode([]) == ((), 0)
    signals = encoder.encode([make_attempt(outcome=Outcome.ESTABLISHED, errno=None)])
    assert [request.signal for request in signals.requests] == [Signal.LOGS]
    assert signals.spans_left_out == 1
    assert isinstance(signals.requests[0], Request)
