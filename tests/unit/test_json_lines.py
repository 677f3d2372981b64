import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_connect import __version__
from otel_connect.config import EncodeConfig
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.json_lines import json_line
from otel_connect.model import Attempt, Request, Signal
from tests.support.events import attempts, make_attempt
from tests.support.otlp import RESOURCES, SCHEMA_URL

TRACE_ID = "0102030405060708090a0b0c0d0e0f10"
SPAN_ID = "1112131415161718"


def source(size: int) -> bytes:
    return bytes(number % 256 for number in range(1, size + 1))


def requests(*batch: Attempt) -> tuple[Request, ...]:
    return Encoder(EncodeConfig(), RESOURCES, random_bytes=source).encode(batch).requests


def text(value: str) -> dict[str, Any]:
    return {"stringValue": value}


def integer(value: int) -> dict[str, Any]:
    return {"intValue": str(value)}


def test_several_resources_are_one_line() -> None:
    batch = [make_attempt(service_name=name) for name in ("shop", "cart", "shop")]
    for request, signal, records in zip(requests(*batch), ("Logs", "Spans"), ("logRecords", "spans"), strict=True):
        document = json.loads(json_line(request))
        assert [
            (each["resource"]["attributes"][0]["value"], len(each[f"scope{signal}"][0][records]))
            for each in document[f"resource{signal}"]
        ] == [(text("shop"), 2), (text("cart"), 1)]


def test_golden_log_record() -> None:
    document = json.loads(json_line(requests(make_attempt(service_instance_id="id"))[0]))
    record = {
        "timeUnixNano": "1700000000123456789",
        "observedTimeUnixNano": "1700000000150000000",
        "severityNumber": 13,
        "severityText": "WARN",
        "body": text("curl[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)"),
        "attributes": [
            {"key": "network.transport", "value": text("tcp")},
            {"key": "network.type", "value": text("ipv4")},
            {"key": "network.peer.address", "value": text("10.1.2.80")},
            {"key": "network.peer.port", "value": integer(443)},
            {"key": "server.address", "value": text("10.1.2.80")},
            {"key": "server.port", "value": integer(443)},
            {"key": "otel_connect.server.address.source", "value": text("none")},
            {"key": "otel_connect.outcome", "value": text("refused")},
            {"key": "error.type", "value": text("connection_refused")},
            {"key": "otel_connect.errno.code", "value": integer(111)},
            {"key": "otel_connect.errno.name", "value": text("ECONNREFUSED")},
            {"key": "process.pid", "value": integer(4242)},
            {"key": "process.creation.time", "value": text("2023-11-14T22:13:19.000001Z")},
            {"key": "process.parent_pid", "value": integer(1000)},
            {"key": "process.executable.name", "value": text("curl")},
            {"key": "process.executable.path", "value": text("/usr/bin/curl")},
            {"key": "process.user.id", "value": integer(1001)},
            {"key": "process.owner", "value": text("alice")},
            {"key": "otel_connect.process.comm", "value": text("curl")},
            {"key": "otel_connect.event.id", "value": text("1f2e3d4c-1-7")},
            {"key": "otel_connect.duration", "value": {"doubleValue": 0.0004}},
            {"key": "network.local.address", "value": text("10.1.2.3")},
            {"key": "network.local.port", "value": integer(45678)},
            {"key": "otel_connect.syn.retransmits", "value": integer(0)},
            {"key": "otel_connect.blocking", "value": {"boolValue": True}},
        ],
        "flags": 1,
        "traceId": TRACE_ID,
        "spanId": SPAN_ID,
        "eventName": "otel_connect.attempt",
    }
    assert document == {
        "resourceLogs": [
            {
                "resource": {
                    "attributes": [
                        {"key": "service.name", "value": text("shop")},
                        {"key": "service.instance.id", "value": text("id")},
                        {"key": "host.name", "value": text("node-7")},
                    ]
                },
                "scopeLogs": [
                    {
                        "scope": {"name": "otel_connect", "version": __version__},
                        "logRecords": [record],
                        "schemaUrl": SCHEMA_URL,
                    }
                ],
                "schemaUrl": SCHEMA_URL,
            }
        ]
    }


def test_span_joins_the_log_by_its_ids() -> None:
    document = json.loads(json_line(requests(make_attempt())[1]))
    (span,) = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (span["traceId"], span["spanId"]) == (TRACE_ID, SPAN_ID)
    assert (span["kind"], span["status"]["code"]) == (1, 2)
    assert span["endTimeUnixNano"] == "1700000000123856789"


def plain(message_type: Any, body: bytes) -> Any:
    """Map by the protobuf library, then put the ids in hex."""

    def with_hex_ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64decode(inner).hex() if key in {"traceId", "spanId"} else with_hex_ids(inner)
                for key, inner in value.items()
            }
        return [with_hex_ids(inner) for inner in value] if isinstance(value, list) else value

    return with_hex_ids(MessageToDict(message_type.FromString(body), use_integers_for_enums=True))


@given(st.lists(attempts, min_size=1, max_size=3))
def test_lines_are_what_protobuf_maps_to_and_safe_to_show(batch: list[Attempt]) -> None:
    types = {Signal.LOGS: ExportLogsServiceRequest, Signal.TRACES: ExportTraceServiceRequest}
    for request in requests(*batch):
        line = json_line(request)
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line) == plain(types[request.signal], request.body)


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "\x7f\x1b]0;title\x07", "\u202eevil", '"\\', "[/]"])
def test_hostile_names_keep_the_line_whole(name: str) -> None:
    line = json_line(requests(make_attempt(comm=name))[0])
    assert line.isascii()
    assert line.isprintable()
    (record,) = json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    values = {pair["key"]: pair["value"] for pair in record["attributes"]}
    expected = name.encode("utf-8", "backslashreplace").decode()
    assert values["otel_connect.process.comm"] == text(expected)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (1.5, 1.5)],
)
def test_numbers_that_json_lacks_are_spelled_out(value: float, shown: float | str) -> None:
    metric = Metric(name="m", gauge=Gauge(data_points=[NumberDataPoint(as_double=value)]))
    message = ExportMetricsServiceRequest(
        resource_metrics=[
            ResourceMetrics(
                resource=Resource(attributes=[KeyValue(key="b", value=AnyValue(bytes_value=b"\x00\xff"))]),
                scope_metrics=[ScopeMetrics(metrics=[metric])],
            )
        ]
    )
    line = json_line(Request(Signal.METRICS, message.SerializeToString(), 1))
    of_resource = json.loads(line)["resourceMetrics"][0]
    (point,) = of_resource["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"]
    assert point == {"asDouble": shown}
    assert of_resource["resource"]["attributes"][0]["value"] == {"bytesValue": "AP8="}
