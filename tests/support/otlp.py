"""The plain way to OTLP: protobuf objects, to hold the joined fragments of ``encode`` against."""

from collections.abc import Iterable
from typing import TypeVar

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.sdk.resources import Resource as SdkResource

from otel_connect import __version__
from otel_connect.encode.attributes import Value, attempt_attributes, valid_text
from otel_connect.encode.resource import WorkloadResources
from otel_connect.model import Attempt

T = TypeVar("T")

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
AGENT = SdkResource({"service.name": "otel-connect", "host.name": "node-7"}, SCHEMA_URL)
RESOURCES = WorkloadResources(AGENT)
SCOPE = InstrumentationScope(name="otel_connect", version=__version__)


def by_resource(attempts: Iterable[Attempt], records: Iterable[T]) -> list[tuple[Resource, list[T]]]:
    """Put the record of each attempt below the resource of its workload, in order."""
    pairs = list(zip(attempts, records, strict=True))
    return [
        (
            Resource(attributes=key_values(RESOURCES.attributes(workload).items())),
            [record for attempt, record in pairs if attempt.named.workload == workload],
        )
        for workload in dict.fromkeys(attempt.named.workload for attempt, _ in pairs)
    ]


def attribute_messages(attempt: Attempt) -> list[KeyValue]:
    """Build the attributes of an attempt."""
    return key_values(attempt_attributes(attempt))


def key_values(pairs: Iterable[tuple[str, Value]]) -> list[KeyValue]:
    """Build attributes."""
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
        case tuple():
            return AnyValue(array_value=ArrayValue(values=map(_any_value, value)))
