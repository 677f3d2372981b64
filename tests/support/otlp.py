"""The plain way to OTLP: protobuf objects, to hold the joined fragments of ``encode`` against."""

from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_connect import __version__
from otel_connect.encode.attributes import Value, attempt_attributes, valid_text
from otel_connect.model import Attempt

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = InstrumentationScope(name="otel_connect", version=__version__)


def resource(**attributes: str) -> Resource:
    """Build a resource message; ``service_name`` stands for ``service.name``."""
    return Resource(attributes=_key_values((key.replace("_", "."), text) for key, text in attributes.items()))


def attribute_messages(attempt: Attempt) -> list[KeyValue]:
    """Build the attributes of an attempt."""
    return _key_values(attempt_attributes(attempt))


def _key_values(pairs: Iterable[tuple[str, Value]]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in pairs]


def _any_value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=valid_text(value))
