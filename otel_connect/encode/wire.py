"""OTLP wire bytes by joining fragments that were encoded once.

Log records and spans of one host repeat the same few hundred processes, peers and outcomes, so most of the
bytes of a record have been encoded before. Both messages hold their attributes as a repeated KeyValue that
differs only in the tag in front of each. A *fragment* is therefore a KeyValue with its length but without
a tag, and the attributes of a record are ``tag + tag.join(fragments)``.

What is written here is exactly what the protobuf library writes (fields in the order of their numbers);
property tests hold the two equal byte by byte.
"""

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otel_connect import __version__
from otel_connect.encode.attributes import (
    DURATION,
    EVENT_ID,
    NETWORK_LOCAL_PORT,
    RTT,
    SCHEMA_URL,
    SCOPE,
    Attributes,
    Identity,
    Value,
    identity,
    identity_attributes,
    measured_attributes,
    outcome_attributes,
    target_attributes,
    valid_text,
)
from otel_connect.model import Attempt, ServerName, Verdict

_MASK_64 = (1 << 64) - 1
_ONE_BYTE = tuple(bytes((number,)) for number in range(128))
_double = Struct("<d").pack

# Keys whose values hardly ever repeat: remembering these would only push out those that do.
_UNIQUE = frozenset((DURATION, EVENT_ID, NETWORK_LOCAL_PORT, RTT))


def fragments(attempt: Attempt) -> list[bytes]:
    """Encode all attributes of an attempt, in the order of ``attempt_attributes``."""
    event, named = attempt.event, attempt.named
    parts = [
        *_target(event.family, *event.target, named.server, named.service_peer_name, named.backend),
        *_outcome(attempt.verdict, attempt.superseded),
        *_identity(identity(attempt)),
    ]
    parts += [
        key_value(key, value) if key in _UNIQUE else remembered_key_value(key, value)
        for key, value in measured_attributes(attempt)
    ]
    return parts


def export_request(groups: Iterable[tuple[bytes, Iterable[bytes]]], tag: bytes) -> bytes:
    """Wrap serialized records in scopes, resources and a request; logs and traces share the field numbers.

    A group is a serialized resource with its records; ``tag`` is that of the records in their scope.
    """
    request = []
    for resource, records in groups:
        parts = [_SCOPE]
        for record in records:
            parts += (tag, varint(len(record)), record)
        parts.append(_SCHEMA_URL)
        scoped = message(b"\x12", b"".join(parts))
        request.append(message(b"\x0a", message(b"\x0a", resource) + scoped + _SCHEMA_URL))
    return b"".join(request)


def varint(number: int) -> bytes:
    """Encode a base-128 integer; a negative one as 64-bit two's complement."""
    if 0 <= number < 1 << 7:
        return _ONE_BYTE[number]
    if 0 <= number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    number &= _MASK_64
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def message(tag: bytes, body: bytes) -> bytes:
    """Encode a length-delimited field."""
    length = len(body)
    return tag + (_ONE_BYTE[length] if length < 128 else varint(length)) + body


def text(tag: bytes, value: str) -> bytes:
    """Encode a string field; of a lone surrogate what ``valid_text`` makes of it."""
    return message(tag, value.encode("utf-8", "backslashreplace"))


def key_value(key: str, value: Value) -> bytes:
    """Encode one fragment: the length of a KeyValue message, and the message."""
    if isinstance(value, float):
        return _up_to_double(key) + _double(value)
    return _fragment(key, _any_value(value))


remembered_key_value = lru_cache(4096)(key_value)
"""The same, for what repeats."""


def key_value_message(key: str, value: Value) -> KeyValue:
    """Make the message of an attribute, where there is no hurry."""
    message = KeyValue(key=key)
    match value:
        case str():
            message.value.string_value = valid_text(value)
        case bool():
            message.value.bool_value = value
        case int():
            message.value.int_value = value
        case float():
            message.value.double_value = value
        case tuple():
            message.value.array_value.values.extend(AnyValue(string_value=valid_text(one)) for one in value)
    return message


def _fragment(key: str, any_value: bytes) -> bytes:
    return message(b"", _key(key) + message(b"\x12", any_value))


@lru_cache(256)
def _up_to_double(key: str) -> bytes:
    """Encode all of a fragment but the double at its end, whose length is always the same."""
    return _fragment(key, b"\x21" + bytes(8))[:-8]


def _any_value(value: str | int | tuple[str, ...]) -> bytes:
    if isinstance(value, str):
        return text(b"\x0a", value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, tuple):  # an ArrayValue of AnyValues
        return message(b"\x2a", b"".join(message(b"\x0a", text(b"\x0a", one)) for one in value))
    return b"\x18" + varint(value)


@lru_cache(256)
def _key(key: str) -> bytes:
    return text(b"\x0a", key)


def _encoded(attributes: Attributes) -> tuple[bytes, ...]:
    return tuple(key_value(key, value) for key, value in attributes)


@lru_cache(4096)
def _target(  # noqa: PLR0917 - see target_attributes
    family: int,
    address: str | None,
    port: int | None,
    server: ServerName | None,
    service_peer_name: str | None,
    backend: tuple[str, int] | None,
) -> tuple[bytes, ...]:
    return _encoded(target_attributes(family, address, port, server, service_peer_name, backend))


@lru_cache(512)
def _outcome(verdict: Verdict, superseded: bool) -> tuple[bytes, ...]:  # noqa: FBT001 - a field, not a switch
    return _encoded(outcome_attributes(verdict, superseded))


@lru_cache(4096)
def _identity(who: Identity) -> tuple[bytes, ...]:
    return _encoded(identity_attributes(who))


_SCOPE = message(b"\x0a", text(b"\x0a", SCOPE) + text(b"\x12", __version__))
_SCHEMA_URL = text(b"\x1a", SCHEMA_URL)
