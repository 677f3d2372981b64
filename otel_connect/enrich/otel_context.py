"""The context that a process publishes of itself: its resource, as its own SDK has it (OTEP 4719).

The message is a ``ProcessContext``, whose first field is a ``Resource``; publishers of the first drafts of version
2 have the ``Resource`` itself there. Strangers write it, so the agent decodes it, which has no privileges; the process
that reads it from their memory has one, and does not look inside.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_connect.enrich.context_memory import published_message
from otel_connect.enrich.published import bounded


def process_context(
    pid: int, start_boot_ns: int, message: Callable[[int, int], bytes | None] = published_message
) -> dict[str, str] | None:
    """Return the resource attributes that a process publishes; ``None`` when there is no ``message`` of it."""
    payload = message(pid, start_boot_ns)
    return None if payload is None else attributes(payload)


def attributes(payload: bytes) -> dict[str, str] | None:
    """Decode a message; ``None`` if it is none. Values are written as text, those that have no simple one left out."""
    try:
        resource = _resource(payload)
    except DecodeError:
        return None
    return bounded((one.key, text) for one in resource.attributes if (text := _text(one.value)) is not None)


def _resource(payload: bytes) -> Resource:
    """Raise DecodeError if it is no message."""
    try:
        resource = Resource.FromString(BytesValue.FromString(payload).value)  # what is first in a ProcessContext
    except DecodeError:
        return Resource.FromString(payload)
    # Taken for a ProcessContext, a bare Resource has the texts of its keys where attributes should be.
    if resource.attributes and all(one.key for one in resource.attributes):
        return resource
    return Resource.FromString(payload)


def _text(value: AnyValue) -> str | None:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind in ("int_value", "double_value"):
        return str(getattr(value, kind))
    return None
