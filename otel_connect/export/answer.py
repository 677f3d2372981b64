"""What the backend answered, and so what becomes of the request: the whole table, without any I/O.

There are five ways to go on. *Delivered*: forget the request; a partial success says how many of its
records were refused, and those are never sent again. *Retry*: the backend, or the way to it, is in
trouble that passes. *Split*: the request is too large for this backend. *Retry as unhealthy*: something
is configured wrongly (credentials, certificates, address); the data is good, so it is kept while an
operator looks. *Rejected*: the backend will never take this request.

Answers are not trusted: bodies are parsed as far as the transport read them, waits are capped, and
messages are cut short and freed of control characters before anyone sees them.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_connect.model import Signal

LONGEST_RETRY_AFTER_S = 300.0
LONGEST_ANSWER = 4 << 20
"""Bytes of an answer that are read, after decompression."""
_MESSAGE_LENGTH = 300


class Action(Enum):
    """What becomes of the request."""

    DELIVERED = auto()
    RETRY = auto()
    SPLIT = auto()
    RETRY_UNHEALTHY = auto()
    REJECTED = auto()


class Answer(NamedTuple):
    """A judged answer."""

    action: Action
    rejected: int = 0
    """Records that a partial success refused."""
    retry_after_s: float | None = None
    """The wait the backend asked for, at most LONGEST_RETRY_AFTER_S."""
    message: str = ""
    """One line for people: printable, at most some hundred characters; empty when all is well."""
    of_server: bool = False
    """Whether it concerns the server as a whole, and so every signal that is sent there."""
    trouble: str = ""
    """Of answers with different messages, the same if the trouble is; empty where the message says it all."""
    is_known: bool = False
    """Whether the trouble was said before anything was sent, so that it need not be said again."""


def from_http(signal: Signal, status: int, headers: Mapping[str, str], body: bytes | None, now: float) -> Answer:
    """Judge an HTTP response.

    ``body`` is ``None`` when it could not be read (bad encoding, too large); ``now`` is Unix time in
    seconds, against which a Retry-After date is measured.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    if status == _NO_CONTENT:
        return Answer(Action.DELIVERED)
    if 200 <= status < 300:
        return _success(signal, body, lower.get("content-type", ""))
    explanation = _explanation(body or b"", lower.get("content-type", ""))
    message = f"HTTP {status}{explanation}"
    if 300 <= status < 400:
        message = f"HTTP {status} redirects to {printable(lower.get('location', 'nowhere'))}; never followed"
    action = Action.SPLIT if status == 400 and _TOO_LARGE in explanation else _http_action(status)
    wait = _retry_after(lower.get("retry-after", ""), now) if action is Action.RETRY else None
    return Answer(action, retry_after_s=wait, message=message, of_server=status in _WHO_ARE_YOU)


def from_grpc_response(signal: Signal, body: bytes) -> Answer:
    """Judge the body of a gRPC call that ended with OK."""
    return _success(signal, body, "application/grpc")


def from_grpc_status(code: int, details: str, status: bytes | None) -> Answer:
    """Judge a gRPC call that failed; ``status`` is the trailer ``grpc-status-details-bin``."""
    message = f"{_code_name(code)}: {printable(details)}".removesuffix(": ")
    if (match := _HTTP_INSTEAD.search(details)) is not None:
        return Answer(_http_action(int(match[1])), message=message)
    for pattern, action in _CLIENT_SIDE:
        if pattern.search(details):
            return Answer(action, message=message)
    if code in _GRPC_UNHEALTHY:
        of_server = code == code_pb2.UNAUTHENTICATED
        return Answer(Action.RETRY_UNHEALTHY, message=message, of_server=of_server)
    wait = _retry_info(status) if status else None
    if code in _GRPC_RETRY or (code == code_pb2.RESOURCE_EXHAUSTED and wait is not None):
        return Answer(Action.RETRY, retry_after_s=wait, message=message)
    if code == code_pb2.RESOURCE_EXHAUSTED:
        return Answer(Action.SPLIT, message=message)
    return Answer(Action.REJECTED, message=message)


def printable(text: str) -> str:
    """Cut a foreign text to one short line in which nothing can steer a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE_LENGTH])
    shown = " ".join(shown.split())
    return shown if len(shown) <= _MESSAGE_LENGTH else f"{shown[:_MESSAGE_LENGTH]}…"


_RESPONSES = {
    Signal.LOGS: ExportLogsServiceResponse,
    Signal.METRICS: ExportMetricsServiceResponse,
    Signal.TRACES: ExportTraceServiceResponse,
}
_REJECTED_FIELD = {
    Signal.LOGS: "rejected_log_records",
    Signal.METRICS: "rejected_data_points",
    Signal.TRACES: "rejected_spans",
}

_NO_CONTENT = 204
_HTTP_RETRY = {429, 502, 503, 504}
# 407 is the 401 of a proxy.
_WHO_ARE_YOU = {401, 407}
# The last two are of a web server that is no OTLP receiver: it takes no POST.
_HTTP_UNHEALTHY = {401, 403, 404, 407, 405, 501}

# What the collector answers with 400, though it means 413: the words of Go's http.MaxBytesReader.
_TOO_LARGE = "http: request body too large"

_FAILURES = set(code_pb2.Code.values()) - {code_pb2.OK}
_BLANK = b"\xef\xbb\xbf \t\r\n"  # the mark that some put before UTF-8, and what JSON may have around itself

_GRPC_RETRY = {
    code_pb2.CANCELLED,
    code_pb2.DEADLINE_EXCEEDED,
    code_pb2.ABORTED,
    code_pb2.OUT_OF_RANGE,
    code_pb2.UNAVAILABLE,
    code_pb2.DATA_LOSS,
}
# UNIMPLEMENTED is gRPC's 404: another service listens there, or none for this signal.
_GRPC_UNHEALTHY = {code_pb2.UNAUTHENTICATED, code_pb2.PERMISSION_DENIED, code_pb2.UNIMPLEMENTED}

# What the gRPC library says by itself when no gRPC backend has spoken (grpcio 1.85). The codes it
# chooses for these are the same as a backend's, so that only the text tells them apart.
_HTTP_INSTEAD = re.compile(r"Received http2 header with status: (\d{3})")
_CLIENT_SIDE = (
    # A proxy or web server answered 200 with something that is not gRPC.
    (re.compile(r"No status received|Data frame with END_STREAM"), Action.RETRY_UNHEALTHY),
    # It is the answer that was too large; the request may well be stored, so splitting it is no help.
    (re.compile(r"CLIENT: Received message larger than max"), Action.RETRY_UNHEALTHY),
    # The second is a certificate that is good, but another host's.
    (re.compile(r"handshake failed|verification check failed", re.IGNORECASE), Action.RETRY_UNHEALTHY),
    # The stream broke down: a reset, or frames that are no HTTP/2.
    (re.compile(r"^Stream removed \("), Action.RETRY),
)


def _http_action(status: int) -> Action:
    if status in _HTTP_RETRY:
        return Action.RETRY
    if status in _HTTP_UNHEALTHY or 300 <= status < 400:
        return Action.RETRY_UNHEALTHY
    return Action.SPLIT if status == 413 else Action.REJECTED


def _success(signal: Signal, body: bytes | None, content_type: str) -> Answer:
    """Believe a success only if the body is a response of OTLP; web servers say 200, too."""
    response, failure = _RESPONSES[signal](), status_pb2.Status()
    if body is None or not _parse(response, body, content_type.lower()):
        kind = printable(content_type) or "no content type"
        return Answer(
            Action.RETRY_UNHEALTHY,
            message=f"success with an unreadable body ({kind})",
        )
    if _parse(failure, body, content_type.lower()) and failure.code in _FAILURES:
        said = printable(failure.message) or "no reason given"
        return Answer(
            Action.RETRY_UNHEALTHY, message=f"success with a failure in its body, gRPC code {failure.code} ({said})"
        )
    partial = response.partial_success
    rejected: int = getattr(partial, _REJECTED_FIELD[signal])
    return Answer(Action.DELIVERED, rejected=max(rejected, 0), message=printable(partial.error_message))


def _parse(response: Message, body: bytes, content_type: str) -> bool:
    """Read the response into the message, by what it is more than by what it is called.

    OTLP has receivers ignore fields that they do not know, in JSON as in protobuf. Some backends answer protobuf
    with (equally good) JSON, and a server written in Go that names no type is called ``text/plain``.
    """
    if "html" in content_type:
        return False
    if not body.strip(_BLANK):
        return True
    try:
        if "json" in content_type or (body.lstrip(_BLANK).startswith(b"{") and "grpc" not in content_type):
            return _parse_json(response, json.loads(body))
        response.ParseFromString(body)
    except (DecodeError, json_format.ParseError, RecursionError, ValueError):
        return False
    return not content_type.startswith("text/")


def _parse_json(response: Message, document: object) -> bool:
    # ParseDict takes whatever can be iterated for a message, if it may ignore what it finds there.
    if not isinstance(document, dict):
        return False
    if not all(isinstance(document.get(name), dict | None) for name in ("partialSuccess", "partial_success")):
        return False
    json_format.ParseDict(document, response, ignore_unknown_fields=True)
    return True


def _explanation(body: bytes, content_type: str) -> str:
    """Tell what the error's body says: OTLP prescribes google.rpc.Status, proxies write text."""
    text = body[: 4 * _MESSAGE_LENGTH].decode("utf-8", "backslashreplace")
    if "protobuf" in content_type:
        try:
            text = status_pb2.Status.FromString(body).message
        except DecodeError:
            text = ""
    elif "html" in content_type:
        text = re.sub(r"<[^<>]*>", " ", text)
    return f": {printable(text)}" if text.strip() else ""


def _retry_after(value: str, now: float) -> float | None:
    """Seconds, or an HTTP date, as RFC 9110 has them; ``None`` when it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:  # "-0000": in UTC, of unknown zone
        date = date.replace(tzinfo=UTC)
    return min(max(date.timestamp() - now, 0.0), LONGEST_RETRY_AFTER_S)


def _retry_info(status: bytes) -> float | None:
    try:
        for detail in status_pb2.Status.FromString(status).details:
            info = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                seconds: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)
    except DecodeError:
        pass
    return None


def _code_name(code: int) -> str:
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else f"gRPC code {code}"
