"""Attempts → one ExportTraceServiceRequest, and which attempts get a span at all. Pure.

A host makes far more connections than anybody wants to see as traces, so successes are limited to a rate.
The rate is measured in the time of the events, not by a clock: the same attempts always get the same spans.
"""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from otel_connect.config import EncodeConfig
from otel_connect.encode.attributes import is_failure
from otel_connect.encode.line import server_endpoint
from otel_connect.encode.resource import WorkloadResources
from otel_connect.encode.wire import export_request, message, text
from otel_connect.errnos import errno_message
from otel_connect.model import Attempt, Outcome, Verdict

SPAN_NAME = "tcp connect"

_SECOND = 1_000_000_000
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
_ID_BYTES = _TRACE_ID_BYTES + _SPAN_ID_BYTES

# Tags of Span and Status (opentelemetry/proto/trace/v1/trace.proto), some with what always follows them:
# the lengths of ids, the two kinds, the code of an error, flags "sampled" and "has no remote parent".
_SPANS = b"\x12"
_TRACE_ID, _SPAN_ID = b"\x0a\x10", b"\x12\x08"
_NAME = b"\x2a"
_KINDS = {"internal": b"\x30\x01", "client": b"\x30\x03"}
_ATTRIBUTES = b"\x4a"
_STATUS, _STATUS_MESSAGE, _STATUS_ERROR = b"\x7a", b"\x12", b"\x18\x02"
_FLAGS = b"\x85\x01\x01\x01\x00\x00"
_START, _END = b"\x39", b"\x41"
_time = Struct("<cQ").pack

_WITHOUT_ERRNO = {
    Outcome.ABANDONED: "closed by the application before an answer came",
    Outcome.UNKNOWN: "the end was not seen",
}


class SpanContext(NamedTuple):
    """The ids of a span: 16 and 8 bytes, neither of them all zero."""

    trace_id: bytes
    span_id: bytes


class SpanSelection:
    """Decides which attempts get a span and gives these their ids.

    ``random_bytes`` returns as many random bytes as it is asked for.
    """

    def __init__(self, config: EncodeConfig, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._slow_ns = config.span_slow_ms * 1_000_000
        self._successes = _TokenBucket(config.span_successes_per_second)
        self._random_bytes = random_bytes

    def select(self, attempts: Sequence[Attempt]) -> tuple[list[SpanContext | None], int]:
        """Return the span context of each attempt, ``None`` without a span, and how many were left out.

        An attempt that has no end gets no span and is not among those left out: there is nothing to draw.
        """
        chosen = [self._wants_span(attempt) for attempt in attempts]
        random = self._random_bytes(_ID_BYTES * chosen.count(True))
        contexts: list[SpanContext | None] = []
        offset = 0
        for wanted in chosen:
            contexts.append(_context(random, offset) if wanted else None)
            offset += _ID_BYTES if wanted else 0
        return contexts, chosen.count(False)

    def _wants_span(self, attempt: Attempt) -> bool | None:
        """``None``: without an end there is no span to decide about."""
        event = attempt.event
        if event.duration_ns is None:
            return None
        if is_failure(attempt) or event.duration_ns >= self._slow_ns:
            return True
        return self._successes.take(event.start_unix_ns + event.duration_ns)


def encode_spans(
    attempts: Sequence[Attempt],
    attributes: Sequence[list[bytes]],
    contexts: Sequence[SpanContext | None],
    resources: WorkloadResources,
    config: EncodeConfig,
) -> bytes:
    """Serialize one span for each attempt that has a context and an end, each under the resource of its workload.

    ``attributes`` holds the fragments of each attempt (see ``wire``); it and ``contexts`` are as long as
    ``attempts``.
    """
    chosen: list[Attempt] = []
    records: list[bytes] = []
    for attempt, fragments, context in zip(attempts, attributes, contexts, strict=True):
        if context is not None and attempt.event.duration_ns is not None:
            chosen.append(attempt)
            records.append(_span(attempt, attempt.event.duration_ns, fragments, context, config))
    return export_request(resources.group(chosen, records), _SPANS)


def _span(
    attempt: Attempt, duration_ns: int, fragments: list[bytes], context: SpanContext, config: EncodeConfig
) -> bytes:
    start = attempt.event.start_unix_ns
    name = SPAN_NAME
    if config.span_name == "peer":
        name = f"{SPAN_NAME} {server_endpoint(attempt)}"
    return b"".join(
        (
            _TRACE_ID + context.trace_id + _SPAN_ID + context.span_id,
            text(_NAME, name),
            _KINDS[config.span_kind],
            _time(_START, start),
            _time(_END, start + duration_ns),
            _ATTRIBUTES,
            _ATTRIBUTES.join(fragments),
            _error_status(attempt.verdict) if is_failure(attempt) else b"",
            _FLAGS,
        )
    )


@lru_cache(512)
def _error_status(verdict: Verdict) -> bytes:
    if verdict.errno is None:
        reason = _WITHOUT_ERRNO.get(verdict.outcome, verdict.outcome.value)
    else:
        reason = errno_message(verdict.errno)
    return message(_STATUS, text(_STATUS_MESSAGE, reason) + _STATUS_ERROR)


def _context(random: bytes, offset: int) -> SpanContext:
    middle = offset + _TRACE_ID_BYTES
    return SpanContext(_not_zero(random[offset:middle]), _not_zero(random[middle : offset + _ID_BYTES]))


def _not_zero(identity: bytes) -> bytes:
    """All zero means "no id" in OTLP; one in 2⁶⁴ random ids is that."""
    return identity if any(identity) else identity[:-1] + b"\x01"


class _TokenBucket:
    """At most ``rate`` in any second, and so many at once after a quiet second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._credit = rate * _SECOND  # one token is a second of credit at rate 1: whole numbers only
        self._last_ns = 0

    def take(self, at_ns: int) -> bool:
        """Take a token at that time, if there is one."""
        elapsed = at_ns - self._last_ns
        if elapsed > 0 or elapsed < -_SECOND:  # events arrive a little out of order; a clock was set back
            self._credit = min(self._credit + max(elapsed, 0) * self._rate, self._rate * _SECOND)
            self._last_ns = at_ns
        if self._credit < _SECOND:
            return False
        self._credit -= _SECOND
        return True
