import errno
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from otel_connect.config import EncodeConfig
from otel_connect.encode.attributes import is_failure
from otel_connect.encode.spans import SpanContext, SpanSelection, encode_spans
from otel_connect.encode.wire import fragments
from otel_connect.model import Attempt, Outcome, ServerName
from tests.support.events import attempts, make_attempt
from tests.support.otlp import RESOURCES, SCHEMA_URL, SCOPE, attribute_messages, by_resource

CONTEXT = SpanContext(bytes(range(16)), bytes(range(8)))
SECOND = 1_000_000_000
SUCCESS: dict[str, Any] = {"outcome": Outcome.ESTABLISHED, "errno": None}


def encode(batch: list[Attempt], config: EncodeConfig) -> bytes:
    contexts = [None if attempt.event.duration_ns is None else CONTEXT for attempt in batch]
    return encode_spans(batch, [fragments(attempt) for attempt in batch], contexts, RESOURCES, config)


def span_of(attempt: Attempt, config: EncodeConfig | None = None) -> Span:
    request = ExportTraceServiceRequest.FromString(encode([attempt], config or EncodeConfig()))
    return request.resource_spans[0].scope_spans[0].spans[0]


@given(st.lists(attempts, max_size=4))
def test_joined_fragments_are_what_protobuf_writes(batch: list[Attempt]) -> None:
    encoded = encode(batch, EncodeConfig())
    spans = []
    for attempt in batch:
        if attempt.event.duration_ns is None:
            continue
        start = attempt.event.start_unix_ns
        span = Span(
            trace_id=CONTEXT.trace_id,
            span_id=CONTEXT.span_id,
            name="tcp connect",
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=start,
            end_time_unix_nano=start + attempt.event.duration_ns,
            attributes=attribute_messages(attempt),
            flags=0x101,
        )
        if is_failure(attempt):
            text = span_of(attempt).status.message
            span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=text))
        spans.append(span)
    expected = ExportTraceServiceRequest()
    for resource, of_workload in by_resource([a for a in batch if a.event.duration_ns is not None], spans):
        scope_spans = ScopeSpans(scope=SCOPE, spans=of_workload, schema_url=SCHEMA_URL)
        expected.resource_spans.add(resource=resource, scope_spans=[scope_spans], schema_url=SCHEMA_URL)
    assert ExportTraceServiceRequest.FromString(encoded) == expected
    assert encoded == expected.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({}, Status.STATUS_CODE_ERROR, "Connection refused"),
        ({"outcome": Outcome.TIMED_OUT, "errno": errno.ETIMEDOUT}, Status.STATUS_CODE_ERROR, "Connection timed out"),
        (SUCCESS, Status.STATUS_CODE_UNSET, ""),
        (
            {"outcome": Outcome.ABANDONED, "errno": None},
            Status.STATUS_CODE_ERROR,
            "closed by the application before an answer came",
        ),
        ({"outcome": Outcome.ABANDONED, "errno": None, "superseded": True}, Status.STATUS_CODE_UNSET, ""),
        ({"outcome": Outcome.LOCAL_ERROR, "errno": 524}, Status.STATUS_CODE_ERROR, "ENOTSUPP"),
        ({"outcome": Outcome.UNKNOWN, "errno": None}, Status.STATUS_CODE_ERROR, "the end was not seen"),
        ({"outcome": Outcome.LOCAL_ERROR, "errno": None}, Status.STATUS_CODE_ERROR, "local_error"),
    ],
)
def test_status(changes: dict[str, Any], code: int, text: str) -> None:
    status = span_of(make_attempt(**changes)).status
    assert (status.code, status.message) == (code, text)


@pytest.mark.parametrize(
    ("name", "address", "expected"),
    [
        ("fixed", "10.1.2.80", "tcp connect"),
        ("peer", "10.1.2.80", "tcp connect 10.1.2.80:443"),
        ("peer", "2001:db8::1", "tcp connect [2001:db8::1]:443"),
    ],
)
def test_name(name: Literal["fixed", "peer"], address: str, expected: str) -> None:
    assert span_of(make_attempt(peer_address=address), EncodeConfig(span_name=name)).name == expected


@pytest.mark.parametrize(("port", "expected"), [(None, 443), (80, 80)])
def test_name_of_a_server_that_was_resolved(port: int | None, expected: int) -> None:
    named = make_attempt(server=ServerName("shop.example", "dns", "process", port))
    assert span_of(named, EncodeConfig(span_name="peer")).name == f"tcp connect shop.example:{expected}"


@pytest.mark.parametrize(("kind", "number"), [("internal", 1), ("client", 3)])
def test_kind(kind: Literal["internal", "client"], number: int) -> None:
    assert span_of(make_attempt(), EncodeConfig(span_kind=kind)).kind == number


def test_times_are_those_of_the_kernel() -> None:
    span = span_of(make_attempt(start_unix_ns=5, duration_ns=3))
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (5, 8)
    assert not span.parent_span_id


# --- which attempts get a span


def selected(batch: list[Attempt], **config: Any) -> list[bool]:
    contexts, _ = SpanSelection(EncodeConfig(**config)).select(batch)
    return [context is not None for context in contexts]


def successes(*ends_ns: int) -> list[Attempt]:
    return [make_attempt(**SUCCESS, start_unix_ns=end, duration_ns=0) for end in ends_ns]


def test_every_failure_and_every_slow_attempt_gets_a_span() -> None:
    slow = make_attempt(**SUCCESS, duration_ns=100_000_000)
    fast = make_attempt(**SUCCESS, duration_ns=99_999_999)
    assert selected([make_attempt(), slow, fast], span_successes_per_second=0, span_slow_ms=100) == [
        *(True, True, False),
    ]


def test_superseded_attempts_share_the_rate_of_successes() -> None:
    superseded = make_attempt(outcome=Outcome.ABANDONED, errno=None, superseded=True)
    assert selected([superseded], span_successes_per_second=0) == [False]


def test_attempt_without_an_end_has_no_span_and_is_not_left_out() -> None:
    batch = [make_attempt(outcome=Outcome.PENDING, errno=None, duration_ns=None)]
    assert SpanSelection(EncodeConfig()).select(batch) == ([None], 0)


def test_successes_beyond_the_rate_are_left_out_and_counted() -> None:
    selection = SpanSelection(EncodeConfig(span_successes_per_second=2))
    contexts, left_out = selection.select(successes(*[10 * SECOND] * 5))
    assert [context is not None for context in contexts] == [True, True, False, False, False]
    assert left_out == 3


def test_tokens_come_back_with_the_time_of_the_events() -> None:
    ends = [10 * SECOND] * 3 + [10 * SECOND + SECOND // 2] * 2 + [60 * SECOND] * 3
    taken = selected(successes(*ends), span_successes_per_second=2)
    assert taken == [True, True, False, True, False, True, True, False]


def test_events_out_of_order_earn_nothing() -> None:
    ends = [10 * SECOND] * 2 + [10 * SECOND - 1, 10 * SECOND, 10 * SECOND - 1, 10 * SECOND]
    assert selected(successes(*ends), span_successes_per_second=2) == [True, True, *[False] * 4]


def test_a_clock_set_back_does_not_stop_spans() -> None:
    ends = [9000 * SECOND] * 2 + [SECOND, 2 * SECOND, 3 * SECOND]
    assert selected(successes(*ends), span_successes_per_second=1) == [True, False, False, True, True]


@given(st.lists(st.integers(0, 5 * SECOND), max_size=200), st.integers(1, 20))
def test_never_more_than_twice_the_rate_in_any_second(times: list[int], rate: int) -> None:
    ends = sorted(100 * SECOND + time for time in times)
    taken = [
        end
        for end, chosen in zip(ends, selected(successes(*ends), span_successes_per_second=rate), strict=True)
        if chosen
    ]
    for end in taken:
        assert sum(end <= other < end + SECOND for other in taken) <= 2 * rate
    # Nothing is held back that the rate allows: a quiet second gives every token back.
    assert all(later in taken for earlier, later in pairwise(ends) if later - earlier >= SECOND)


# --- ids


def counting_source(sizes: list[int], byte: bytes) -> Callable[[int], bytes]:
    def random_bytes(size: int) -> bytes:
        sizes.append(size)
        return byte * size

    return random_bytes


def test_one_call_for_the_ids_of_a_batch() -> None:
    sizes: list[int] = []
    selection = SpanSelection(EncodeConfig(), counting_source(sizes, b"\x07"))
    contexts, _ = selection.select([make_attempt(), make_attempt(duration_ns=None), make_attempt()])
    assert contexts == [SpanContext(b"\x07" * 16, b"\x07" * 8), None, SpanContext(b"\x07" * 16, b"\x07" * 8)]
    assert sizes == [48]


def test_ids_are_never_zero() -> None:
    selection = SpanSelection(EncodeConfig(), counting_source([], b"\x00"))
    ((context,), _) = selection.select([make_attempt()])
    assert context is not None
    assert any(context.trace_id)
    assert any(context.span_id)


def test_ids_differ() -> None:
    contexts, _ = SpanSelection(EncodeConfig()).select([make_attempt()] * 100)
    assert len(set(contexts)) == 100
