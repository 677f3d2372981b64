"""The table of answers, row by row; tests/fault sees the same rows through real sockets."""

import time
from email.utils import formatdate

import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from otel_connect.export.answer import (
    LONGEST_ANSWER,
    LONGEST_RETRY_AFTER_S,
    Action,
    Answer,
    from_grpc_response,
    from_grpc_status,
    from_http,
    printable,
)
from otel_connect.model import Signal

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def http(status: int, body: bytes | None = b"", **headers: str) -> Answer:
    return from_http(Signal.LOGS, status, {name.replace("_", "-"): value for name, value in headers.items()}, body, NOW)


def details(*messages: object) -> bytes:
    status = status_pb2.Status(code=8)
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)  # type: ignore[arg-type]
        status.details.append(packed)
    encoded: bytes = status.SerializeToString()
    return encoded


def retry_info(seconds: int, nanos: int = 0) -> object:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))


HTTP_ACTIONS = {
    Action.DELIVERED: {200, 202, 204},
    Action.RETRY: {429, 502, 503, 504},
    Action.RETRY_UNHEALTHY: {401, 403, 404, 405, 407, 501, *range(300, 309)},
    Action.SPLIT: {413},
}


@pytest.mark.parametrize("status", [200, 202, 204, *range(300, 309), *range(400, 432), *range(500, 512)])
def test_every_http_status(status: int) -> None:
    expected = next((action for action, members in HTTP_ACTIONS.items() if status in members), Action.REJECTED)
    answer = http(status)
    assert answer.action is expected
    assert answer.of_server is (status in {401, 407})
    assert not answer.is_known


def test_a_400_that_means_413() -> None:
    # The collector's receiver, with protobuf and with JSON as the client's type decides.
    said = "http: request body too large"
    body = status_pb2.Status(code=3, message=said).SerializeToString()
    assert http(400, body, Content_Type="application/x-protobuf").action is Action.SPLIT
    assert http(400, said.encode(), Content_Type="text/plain").action is Action.SPLIT
    assert http(400, b"http: request body too strange").action is Action.REJECTED
    assert http(500, said.encode()).action is Action.REJECTED


GRPC_ACTIONS = {
    Action.RETRY: {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"},
    Action.RETRY_UNHEALTHY: {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"},
    Action.SPLIT: {"RESOURCE_EXHAUSTED"},
}


@pytest.mark.parametrize("name", [name for name in code_pb2.Code.keys() if name != "OK"])  # noqa: SIM118  # no mapping
def test_every_grpc_code(name: str) -> None:
    expected = next((action for action, members in GRPC_ACTIONS.items() if name in members), Action.REJECTED)
    answer = from_grpc_status(code_pb2.Code.Value(name), "why", None)
    assert answer == Answer(expected, message=f"{name}: why", of_server=name == "UNAUTHENTICATED")


def test_a_code_of_the_future_is_a_refusal() -> None:
    assert from_grpc_status(99, "", None).action is Action.REJECTED


@pytest.mark.parametrize(
    ("encoded", "action", "wait"),
    [
        (details(retry_info(2, 500_000_000)), Action.RETRY, 2.5),
        (details(retry_info(0)), Action.RETRY, 0.0),
        (details(retry_info(-5)), Action.RETRY, 0.0),
        (details(retry_info(86_400)), Action.RETRY, LONGEST_RETRY_AFTER_S),
        (details(struct_pb2.Value(), retry_info(1)), Action.RETRY, 1.0),
        (details(struct_pb2.Value()), Action.SPLIT, None),
        (b"\xff\xff garbage", Action.SPLIT, None),
        (b"", Action.SPLIT, None),
        (None, Action.SPLIT, None),
    ],
)
def test_exhausted_is_retried_only_with_retry_info(encoded: bytes | None, action: Action, wait: float | None) -> None:
    answer = from_grpc_status(code_pb2.RESOURCE_EXHAUSTED, "", encoded)
    assert (answer.action, answer.retry_after_s) == (action, wait)


@pytest.mark.parametrize(
    ("code", "text", "action"),
    [
        ("UNAVAILABLE", "last error: Tls handshake failed (TSI_PROTOCOL_FAILURE)", Action.RETRY_UNHEALTHY),
        ("UNAVAILABLE", "last error: Ssl handshake failed: SSL_ERROR_SSL", Action.RETRY_UNHEALTHY),
        ("UNKNOWN", "Received http2 header with status: 302", Action.RETRY_UNHEALTHY),
        ("UNKNOWN", "Received http2 header with status: 413", Action.SPLIT),
        ("UNKNOWN", "Received http2 header with status: 500", Action.REJECTED),
        ("UNAVAILABLE", "Received http2 header with status: 503", Action.RETRY),
        ("UNKNOWN", "No status received", Action.RETRY_UNHEALTHY),
        (
            "RESOURCE_EXHAUSTED",
            "Stream removed (CLIENT: Received message larger than max (9 vs. 4))",
            Action.RETRY_UNHEALTHY,
        ),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 4)", Action.SPLIT),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (9 vs. 4)", Action.SPLIT),
        ("INTERNAL", "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", Action.RETRY),
    ],
)
def test_what_the_grpc_library_says_by_itself(code: str, text: str, action: Action) -> None:
    assert from_grpc_status(code_pb2.Code.Value(code), text, None).action is action


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("86400", LONGEST_RETRY_AFTER_S),
        ("9" * 6000, LONGEST_RETRY_AFTER_S),
        ("Wed, 21 Oct 2015 07:29:30 GMT", 90.0),
        ("Wed, 21 Oct 2015 07:29:30 -0000", 90.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        ("Wed, 21 Oct 2099 07:00:00 GMT", LONGEST_RETRY_AFTER_S),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Oct 2015 07:29:30 GMT", None),
    ],
)
def test_retry_after(value: str, wait: float | None) -> None:
    assert http(503, Retry_After=value).retry_after_s == wait
    assert http(400, Retry_After=value).retry_after_s is None


@pytest.mark.parametrize(
    ("signal", "response"),
    [
        (
            Signal.LOGS,
            ExportLogsServiceResponse(
                partial_success=ExportLogsPartialSuccess(rejected_log_records=3, error_message="no")
            ),
        ),
        (
            Signal.METRICS,
            ExportMetricsServiceResponse(
                partial_success=ExportMetricsPartialSuccess(rejected_data_points=3, error_message="no")
            ),
        ),
        (
            Signal.TRACES,
            ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=3, error_message="no")),
        ),
    ],
)
def test_partial_success(signal: Signal, response: ExportLogsServiceResponse) -> None:
    expected = Answer(Action.DELIVERED, rejected=3, message="no")
    assert from_http(signal, 200, PROTOBUF, response.SerializeToString(), NOW) == expected
    assert from_grpc_response(signal, response.SerializeToString()) == expected


def test_a_negative_count_of_rejected_records_is_none() -> None:
    response = ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(rejected_log_records=-3))
    assert from_grpc_response(Signal.LOGS, response.SerializeToString()) == Answer(Action.DELIVERED)


JSON = "application/json"
BELIEVED = [
    ("", b""),
    ("text/plain", b""),
    (JSON, b""),
    ("application/x-protobuf", b"\x0a\x00"),
    ("application/protobuf", b"\x0a\x00"),
    ("application/octet-stream", b"\x0a\x00"),
    ("Application/X-Protobuf; version=1", b"\x0a\x00"),
    ("application/x-protobuf", b"\x7a\x02a1"),  # field 15, a string
    ("application/x-protobuf", b"\x0a\x04\x7a\x02a1"),  # the same in partial_success
    (JSON, b"{}"),
    ("APPLICATION/JSON; Charset=UTF-8", b"{}"),
    ("application/problem+json", b"{}"),
    (JSON, b"\xef\xbb\xbf{}"),
    (JSON, b" \r\n\t{ }\n"),
    (JSON, b"\n"),
    ("", b"\r\n"),
    ("", b"{}"),
    ("application/x-protobuf", b"{}"),
    ("text/plain; charset=utf-8", b"{}\n"),  # what a server written in Go calls JSON when it names no type
    (JSON, b'{"partialSuccess":{}}'),
    (JSON, b'{"partialSuccess":null}'),
    (JSON, b'{"partialSuccess":{},"requestId":"a1"}'),
    (JSON, b'{"requestId":"a1"}'),
    (JSON, b'{"partialSuccess":{"advice":{"level":"ADVICE_LEVEL_NEW","of":[1,null]}}}'),
    (JSON, b'{"partialSuccess":{},"partial_success":{}}'),
    (JSON, b'{"code":0,"message":"taken"}'),
    (JSON, b'{"code":200,"message":"taken"}'),
    (JSON, b'{"code":"taken"}'),
]
NOT_BELIEVED = [
    (JSON, b"[" * 100_000),
    (JSON, b"\xff"),
    (JSON, b"[]"),
    (JSON, b"null"),
    (JSON, b'"OK"'),
    (JSON, b"123456789"),  # which would be protobuf
    (JSON, b"{"),
    (JSON, b"\x0a\x00"),
    (JSON, b'{"partialSuccess":"none"}'),
    (JSON, b'{"partialSuccess":["none"]}'),
    (JSON, b'{"partial_success":1}'),
    (JSON, b'{"partialSuccess":{"rejectedLogRecords":"some"}}'),
    (JSON, b'{"code":16,"message":"who?"}'),
    ("application/x-protobuf", b"\x08\x10\x12\x04who?"),  # the same, google.rpc.Status in protobuf
    ("application/x-protobuf", b"\x0a\x05"),
    ("text/html; charset=utf-8", b"<html>"),
    ("text/html", b""),
    ("Text/HTML", b"{}"),
    ("", b"<html>"),
    ("application/xml", b"<a/>"),
    ("text/plain", b"OK"),
    ("text/plain", b"54321"),  # which would be protobuf
    ("", b"OK"),
    ("application/x-protobuf", None),
]


@pytest.mark.parametrize(("content_type", "body"), BELIEVED)
@pytest.mark.parametrize("signal", list(Signal))
def test_every_answer_that_otlp_allows_is_a_success(signal: Signal, content_type: str, body: bytes) -> None:
    for status in (200, 202):
        assert from_http(signal, status, {"content-type": content_type}, body, NOW) == Answer(Action.DELIVERED)


@pytest.mark.parametrize(("content_type", "body"), NOT_BELIEVED)
def test_what_is_no_answer_of_otlp_is_no_success(content_type: str, body: bytes | None) -> None:
    assert http(200, body, Content_Type=content_type).action is Action.RETRY_UNHEALTHY
    assert http(202, body, Content_Type=content_type).action is Action.RETRY_UNHEALTHY


@pytest.mark.parametrize("content_type", ["", "text/html", JSON])
def test_no_content_is_a_success(content_type: str) -> None:
    assert http(204, Content_Type=content_type) == Answer(Action.DELIVERED)


FIELDS = {
    Signal.LOGS: ("rejectedLogRecords", "rejected_log_records"),
    Signal.METRICS: ("rejectedDataPoints", "rejected_data_points"),
    Signal.TRACES: ("rejectedSpans", "rejected_spans"),
}


@pytest.mark.parametrize("signal", list(Signal))
@pytest.mark.parametrize("rejected", ["2", '"2"', "2.0"])
@pytest.mark.parametrize("outer", ["partialSuccess", "partial_success"])
@pytest.mark.parametrize("spelling", [0, 1])
def test_a_partial_success_in_json(signal: Signal, rejected: str, outer: str, spelling: int) -> None:
    partial = f'{{"{FIELDS[signal][spelling]}":{rejected},"errorMessage":"no","advice":"x"}}'
    body = f'{{"{outer}":{partial},"requestId":"a1"}}'.encode()
    expected = Answer(Action.DELIVERED, rejected=2, message="no")
    assert from_http(signal, 200, {"content-type": JSON}, body, NOW) == expected


def test_grpc_answers_are_protobuf_alone() -> None:
    assert from_grpc_response(Signal.LOGS, b"\x7a\x02a1") == Answer(Action.DELIVERED)
    assert from_grpc_response(Signal.LOGS, b"{}").action is Action.RETRY_UNHEALTHY


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(503), "HTTP 503"),
        (http(400, b"bad\r\ndata\x1b]0;owned\x07"), "HTTP 400: bad data ]0;owned"),
        (http(400, b"<html><h1>No</h1></html>", Content_Type="text/html"), "HTTP 400: No"),
        (
            http(
                400, status_pb2.Status(message="why").SerializeToString(), **{"content-type": "application/x-protobuf"}
            ),
            "HTTP 400: why",
        ),
        (http(400, b"\xff\xff", Content_Type="application/x-protobuf"), "HTTP 400"),
        (http(400, b"\xff", Content_Type="text/plain"), "HTTP 400: \\xff"),
        (http(302, Location="https://elsewhere/"), "HTTP 302 redirects to https://elsewhere/; never followed"),
        (http(302), "HTTP 302 redirects to nowhere; never followed"),
    ],
)
def test_messages_are_one_printable_line(answer: Answer, message: str) -> None:
    assert answer.message == message


@settings(deadline=None)
@given(st.text())
def test_printable_never_steers_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) <= 301


@settings(deadline=None)
@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["content-type", "retry-after", "location"]), st.text()),
    st.binary(),
)
def test_no_http_answer_raises(status: int, headers: dict[str, str], body: bytes) -> None:
    for signal in Signal:
        assert from_http(signal, status, headers, body, NOW).message.isprintable()


@settings(deadline=None)
@given(st.integers(0, 20), st.text(), st.binary())
def test_no_grpc_answer_raises(code: int, text: str, status: bytes) -> None:
    assert from_grpc_status(code, text, status).message.isprintable()
    assert from_grpc_response(Signal.METRICS, status).action in {Action.DELIVERED, Action.RETRY_UNHEALTHY}


def test_informational_statuses_are_no_answer_of_a_backend() -> None:
    """Nor is anything below; http.client gives the numbers as they come."""
    for status in (1, 50, 100, 199):
        assert from_http(Signal.LOGS, status, {}, b"", NOW) == Answer(Action.REJECTED, message=f"HTTP {status}")


def test_a_wait_is_five_minutes_at_the_most_an_answer_4_mebibytes_and_a_message_300_characters() -> None:
    assert LONGEST_RETRY_AFTER_S == 300
    assert LONGEST_ANSWER == 4_194_304
    assert printable("x" * 300) == "x" * 300
    assert printable("x" * 301) == "x" * 300 + "…"


def test_of_a_long_text_the_first_1200_characters_are_read() -> None:
    assert [printable(" " * blanks + "x") for blanks in (1199, 1200)] == ["x", ""]
    answers = [from_http(Signal.LOGS, 400, {}, b" " * blanks + b"x", NOW) for blanks in (1199, 1200)]
    assert [answer.message for answer in answers] == ["HTTP 400: x", "HTTP 400"]


@pytest.mark.parametrize(("content_type", "said"), [("text/csv", "text/csv"), ("", "no content type")])
def test_what_is_no_response_is_called_by_its_type(content_type: str, said: str) -> None:
    answer = from_http(Signal.LOGS, 200, {"content-type": content_type}, b"\xff", NOW)
    assert answer.message == f"success with an unreadable body ({said})"


@pytest.mark.parametrize(
    ("body", "said"), [(b'{"code":16,"message":"who?"}', "who?"), (b'{"code":16}', "no reason given")]
)
def test_a_failure_in_the_body_of_a_success_is_quoted(body: bytes, said: str) -> None:
    message = f"success with a failure in its body, gRPC code 16 ({said})"
    assert http(200, body, Content_Type=JSON) == Answer(Action.RETRY_UNHEALTHY, message=message)


def test_a_date_of_unknown_zone_is_in_utc_wherever_the_agent_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        date = formatdate(NOW + 60).replace("+0000", "-0000")
        assert date.endswith("-0000")
        assert from_http(Signal.LOGS, 503, {"retry-after": date}, b"", NOW).retry_after_s == 60
    finally:
        monkeypatch.undo()
        time.tzset()
