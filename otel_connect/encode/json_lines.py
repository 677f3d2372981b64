"""OTLP requests → JSON, one request a line, as the specification maps protobuf to JSON. Pure.

That is proto3's own mapping (lowerCamelCase, 64-bit integers as text) but for the ids of traces and spans,
which are in hex, and enums, which are integers. The collector's ``otlpjsonfile`` receiver reads such lines.
The protobuf library can do the same, with a change of the ids afterwards, in twice the time.
"""

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_connect.model import Request, Signal

_MESSAGES: dict[Signal, type[Message]] = {
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}
_IDS = frozenset(("trace_id", "span_id", "parent_span_id"))


def json_line(request: Request) -> str:
    """Return the request as one line of printable ASCII, without a newline at its end.

    Every other character is escaped: the line is safe to show, whatever a process calls itself.
    """
    document = _document(_MESSAGES[request.signal].FromString(request.body))
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _document(message: Message) -> dict[str, Any]:
    document = {}
    for field, value in message.ListFields():
        name, repeated, convert = _mapping(field)
        document[name] = [convert(item) for item in value] if repeated else convert(value)
    return document


@lru_cache(1024)
def _mapping(field: FieldDescriptor) -> tuple[str, bool, Callable[[Any], Any]]:
    """Return a field's name in JSON, whether it is a list, and what to do with its values."""
    convert: Callable[[Any], Any]
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            convert = _document
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            convert = str
        case FieldDescriptor.CPPTYPE_DOUBLE:
            convert = _number
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            convert = bytes.hex if field.name in _IDS else _base64
        case _:
            convert = _itself
    return field.camelcase_name, field.is_repeated, convert


def _number(value: float) -> float | str:
    """JSON has no numbers that are not finite: proto3 spells these out."""
    return value if isfinite(value) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _itself(value: object) -> object:
    return value
