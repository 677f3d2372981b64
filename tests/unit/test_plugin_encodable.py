"""What OTLP cannot hold is rewritten, what it can hold comes out as the very object that went in."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_connect.plugin.encodable import encodable_logs, encodable_value

HUGE = 1 << 63
LONE = "a\udcffb"
MENDED = "a\\udcffb"
RESOURCE = Resource({"service.name": "shop"})
SCOPE = InstrumentationScope("shop", "1")

TEXTS = st.text(st.characters(), max_size=8)  # with surrogates
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def log(body: Any = None, **fields: Any) -> ReadableLogRecord:
    record = LogRecord(timestamp=1, observed_timestamp=2, severity_number=SeverityNumber.WARN, body=body, **fields)
    return ReadableLogRecord(record, RESOURCE, SCOPE)


@pytest.mark.parametrize(
    ("value", "mended"),
    [
        (LONE, MENDED),
        (HUGE, str(HUGE)),
        (-HUGE - 1, str(-HUGE - 1)),
        ([1, LONE, [HUGE]], [1, MENDED, [str(HUGE)]]),
        ({LONE: {"deep": LONE}}, {MENDED: {"deep": MENDED}}),
        ({LONE: None}, {MENDED: None}),
        (("a", LONE), ["a", MENDED]),
    ],
)
def test_what_protobuf_refuses_is_written_in_the_nearest_form(value: object, mended: object) -> None:
    assert encodable_value(value) == mended


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        HUGE - 1,
        -HUGE,
        0.5,
        float("nan"),
        b"\xff",
        "",
        "ä\U0001f600",
        (1, "ä"),
        ["a"],
        {"a": {"b": 1}},
        object(),
    ],
)
def test_everything_else_comes_out_as_it_is(value: object) -> None:
    assert encodable_value(value) is value


@given(VALUES)
def test_any_value_can_be_encoded(value: Any) -> None:
    record = log(value, event_name="e", attributes={"key": "value"})
    encoded = encode_logs(encodable_logs([record]))
    assert encoded.resource_logs[0].scope_logs[0].log_records[0].HasField("body")
    if _fits(value):
        assert encodable_value(value) is value


def _fits(value: object) -> bool:
    """Say the rule in other words than the code's."""
    if isinstance(value, str):
        return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)
    if isinstance(value, int):
        return value.bit_length() < 64 or value == -(1 << 63)
    if isinstance(value, Mapping):
        return all(map(_fits, value.keys())) and all(map(_fits, value.values()))
    return not isinstance(value, Sequence) or isinstance(value, bytes) or all(map(_fits, value))


def test_the_record_that_others_see_is_not_changed() -> None:
    record = log(LONE, attributes={"key": LONE}, event_name=LONE, severity_text=LONE)
    (mended,) = encodable_logs([record])
    assert record.log_record.body == LONE
    assert mended.log_record.body == mended.log_record.event_name == mended.log_record.severity_text == MENDED
    assert mended.log_record.attributes == {"key": MENDED}
    assert (mended.resource, mended.instrumentation_scope) == (RESOURCE, SCOPE)


def test_a_batch_that_is_fine_is_the_same_batch() -> None:
    batch = [log("fine", attributes={"key": (1, 2)}), log({"a": 1})]
    assert encodable_logs(batch) is batch


def test_resource_and_scope_are_mended_once_for_all_their_records() -> None:
    resource, scope = Resource({"dir": LONE}), InstrumentationScope(LONE, None, "", {"k": LONE})
    batch = [ReadableLogRecord(log(str(number)).log_record, resource, scope) for number in range(3)]
    encoded = encode_logs(encodable_logs(batch))
    (of_resource,) = encoded.resource_logs
    (of_scope,) = of_resource.scope_logs
    assert of_resource.resource.attributes[0].value.string_value == MENDED
    assert of_scope.scope.name == of_scope.scope.attributes[0].value.string_value == MENDED
    assert [record.body.string_value for record in of_scope.log_records] == ["0", "1", "2"]
