"""Attempts → one ExportLogsServiceRequest. Pure: values in, bytes out."""

from collections.abc import Sequence
from struct import Struct

from otel_connect.encode.attributes import EVENT_NAME, INFO, WARN, severity
from otel_connect.encode.line import display_line
from otel_connect.encode.resource import WorkloadResources
from otel_connect.encode.spans import SpanContext
from otel_connect.encode.wire import export_request, message, text, varint
from otel_connect.model import Attempt

# Tags of LogRecord, by field number and wire type (opentelemetry/proto/logs/v1/logs.proto), some with
# what always follows them: the two lengths of ids, the flags of a sampled span, the name of the event.
_LOG_RECORDS = b"\x12"
_BODY = b"\x2a"
_BODY_TEXT = b"\x0a"
_ATTRIBUTES = b"\x32"
_SAMPLED_TRACE_ID = b"\x45\x01\x00\x00\x00" + b"\x4a\x10"
_SPAN_ID = b"\x52\x08"
_EVENT_NAME = text(b"\x62", EVENT_NAME)
_SEVERITIES = {level: b"\x10" + varint(level.number) + text(b"\x1a", level.text) for level in (INFO, WARN)}
_time = Struct("<cQ").pack
_TIME, _OBSERVED_TIME = b"\x09", b"\x59"


def encode_logs(
    attempts: Sequence[Attempt],
    attributes: Sequence[list[bytes]],
    contexts: Sequence[SpanContext | None],
    resources: WorkloadResources,
) -> bytes:
    """Serialize one log record for each attempt, each under the resource of its workload.

    ``attributes`` holds the fragments of each attempt (see ``wire``), ``contexts`` the ids of its span where
    it gets one; both are as long as ``attempts``.
    """
    records = map(_log_record, attempts, attributes, contexts)
    return export_request(resources.group(attempts, records), _LOG_RECORDS)


def _log_record(attempt: Attempt, attributes: list[bytes], context: SpanContext | None) -> bytes:
    return b"".join(
        (
            _time(_TIME, attempt.event.start_unix_ns),
            _SEVERITIES[severity(attempt)],
            message(_BODY, text(_BODY_TEXT, display_line(attempt))),
            _ATTRIBUTES,
            _ATTRIBUTES.join(attributes),
            b"" if context is None else _SAMPLED_TRACE_ID + context.trace_id + _SPAN_ID + context.span_id,
            _time(_OBSERVED_TIME, attempt.observed_unix_ns),
            _EVENT_NAME,
        )
    )
