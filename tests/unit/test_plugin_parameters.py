"""What exporters are given in code or by a configuration file: every form, and everything that cannot be used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.sdk.metrics import Counter, Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
)

from otel_connect.config import Compression, ExportConfig, Protocol
from otel_connect.export.endpoint import Endpoint, resolve
from otel_connect.export.exporter import OtlpExporter
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Station
from otel_connect.plugin.exporters import DurableMetricExporter
from otel_connect.plugin.parameters import Parameters
from otel_connect.plugin.settings import Settings, read_settings

P = "OTEL_EXPORTER_OTLP_"


def settings(environ: Mapping[str, str] | None = None, signal: Signal = Signal.TRACES, **given: Any) -> Settings:
    parameters = Parameters()
    parameters.keep(signal, given)
    return read_settings(environ or {}, parameters.pieces)


def endpoint(environ: Mapping[str, str] | None = None, **given: Any) -> Endpoint:
    found = settings(environ, **given)
    assert (found.left_out, found.withheld) == ((), ())
    return resolve(found.export)[Signal.TRACES]


PEER = {"name": "Api-Key", "value": "a b"}
BOTH = {"api-key": "a b", "x": "1"}
USED: list[tuple[dict[str, Any], str, object]] = [
    ({"endpoint": "http://c:4318/v1/traces"}, "url", "http://c:4318/v1/traces"),
    ({"endpoint": "http://c:4318/own"}, "url", "http://c:4318/own"),
    ({"endpoint": "http://c:4317", "protocol": "grpc"}, "url", "http://c:4317"),
    ({"endpoint": "c:4317", "protocol": "grpc", "insecure": True}, "url", "http://c:4317"),
    ({"endpoint": "c:4317", "protocol": "grpc", "tls": {"insecure": True}}, "url", "http://c:4317"),
    ({"endpoint": "c:4317", "protocol": "grpc", "insecure": None, "tls": None}, "url", "https://c:4317"),
    ({"headers": BOTH}, "headers", BOTH),
    ({"headers": [PEER, {"name": "x", "value": 1}]}, "headers", BOTH),
    ({"headers": (("api-key", "a b"), ("x", "1"))}, "headers", BOTH),
    ({"headers": "api-key=a%20b,x=1"}, "headers", BOTH),
    ({"headers_list": "api-key=a%20b,x=1"}, "headers", BOTH),
    ({"headers": [PEER], "headers_list": "api-key=other,x=1"}, "headers", BOTH),
    ({"headers": [{"name": "x", "value": None}]}, "headers", {"x": ""}),
    ({"compression": "gzip"}, "compression", Compression.GZIP),
    ({"compression": "GZIP"}, "compression", Compression.GZIP),
    ({"compression": HttpCompression.Gzip}, "compression", Compression.GZIP),
    ({"compression": HttpCompression.NoCompression}, "compression", Compression.NONE),
    ({"compression": grpc.Compression.Gzip}, "compression", Compression.GZIP),
    ({"compression": grpc.Compression.NoCompression}, "compression", Compression.NONE),
    ({"timeout": 2500}, "timeout_s", 2.5),
    ({"timeout": 2500.0}, "timeout_s", 2.5),
    ({"encoding": "protobuf"}, "protocol", Protocol.HTTP_PROTOBUF),
    ({"certificate_file": "/ca.pem"}, "certificate", Path("/ca.pem")),
    ({"tls": {"ca_file": Path("/ca.pem")}}, "certificate", Path("/ca.pem")),
    ({"client_certificate_file": "/c.pem", "client_key_file": "/k.pem"}, "client_key", Path("/k.pem")),
    ({"tls": {"cert_file": "/c.pem", "key_file": "/k.pem"}}, "client_certificate", Path("/c.pem")),
]


@pytest.mark.parametrize(("given", "field", "value"), USED)
def test_what_the_sdks_exporters_take_is_taken(given: dict[str, Any], field: str, value: object) -> None:
    assert getattr(endpoint(**given), field) == value


def test_a_parameter_wins_over_its_variable_and_is_for_one_signal() -> None:
    environ = {f"{P}ENDPOINT": "http://all", f"{P}TRACES_ENDPOINT": "http://some/x", f"{P}TIMEOUT": "700"}
    found = settings(environ, endpoint="http://own/y")
    urls = {signal: one.url for signal, one in resolve(found.export).items()}
    assert urls == {
        Signal.LOGS: "http://all/v1/logs",
        Signal.METRICS: "http://all/v1/metrics",
        Signal.TRACES: "http://own/y",
    }
    assert resolve(found.export)[Signal.TRACES].timeout_s == 0.7
    assert settings(environ, endpoint=None) == read_settings(environ)


LEFT_OUT: list[tuple[dict[str, Any], str]] = [
    ({"timeout": 10}, "timeout: is in milliseconds, and 10 are too few"),
    ({"timeout": 0.5}, "timeout: must be a whole number"),
    ({"timeout": "soon"}, "timeout: must be a whole number"),
    ({"timeout": True}, "timeout: must be a whole number"),
    ({"compression": "deflate"}, "compression: "),
    ({"compression": HttpCompression.Deflate}, "compression: "),
    ({"protocol": "http/json"}, "protocol: "),
    ({"protocol": 3}, "protocol: must be a text"),
    ({"encoding": "json"}, "encoding: is not supported"),
    ({"insecure": "yes"}, "insecure: must be true or false"),
    ({"session": object()}, "session: is not supported (see docs/plugin.md)"),
    ({"credentials": object()}, "credentials: is not supported"),
    ({"max_export_batch_size": 5}, "max_export_batch_size: is not supported"),
    ({"tls": {"min_version": "1.2"}}, "tls.min_version: is not supported"),
    ({"tls": "off"}, "tls: is not supported"),
]


@pytest.mark.parametrize(("given", "says"), LEFT_OUT)
def test_what_cannot_be_used_is_one_line_and_telemetry_flows(given: dict[str, Any], says: str) -> None:
    found = settings(endpoint="http://c/v1/traces", **given)
    (line,) = found.left_out
    assert line.startswith(f"the exporter of traces: {says}")
    assert found.withheld == ()
    assert resolve(found.export)[Signal.TRACES].url == "http://c/v1/traces"


WITHHELD: list[tuple[dict[str, Any], str]] = [
    ({"endpoint": "collector:4318"}, "endpoint: has no scheme"),
    ({"endpoint": 4318}, "endpoint: must be a text"),
    ({"headers": "s3cret"}, "headers: header 1 has no =; write name=value"),
    ({"headers": [("s3cret",)]}, "headers: must be name=value"),
    ({"headers": ["s3cret"]}, "headers: must be name=value"),
    ({"headers": 5}, "headers: must be name=value"),
    ({"certificate_file": "/nowhere/ca.pem"}, "certificate_file: /nowhere/ca.pem: certificate cannot be read"),
    ({"client_key_file": "/k.pem"}, "client_key_file: needs its certificate"),
]


@pytest.mark.parametrize(("given", "says"), WITHHELD)
def test_where_to_send_is_never_guessed(given: dict[str, Any], says: str) -> None:
    found = settings({f"{P}ENDPOINT": "https://c"}, **given)
    (line,) = found.withheld
    assert line.startswith(f"the exporter of traces: {says}")
    assert "s3cret" not in str(found)
    assert found.left_out == ()


def test_a_signal_is_not_sent_before_its_exporter_is_made() -> None:
    parameters = Parameters()
    assert all(parameters.may_send(signal) for signal in Signal)
    parameters.keep(Signal.TRACES, {"endpoint": None})
    assert all(parameters.may_send(signal) for signal in Signal)
    parameters.keep(Signal.LOGS, {"endpoint": "http://c/v1/logs"})
    assert [signal for signal in Signal if parameters.may_send(signal)] == [Signal.LOGS, Signal.TRACES]
    parameters.keep(Signal.METRICS, {})
    assert all(parameters.may_send(signal) for signal in Signal)


def exporter_in_memory() -> Station:
    return Station(OtlpExporter(ExportConfig(endpoint="http://127.0.0.1:1", spool_directory="")))


@pytest.mark.parametrize(
    ("given", "of_counter", "of_histogram"),
    [
        ({}, AggregationTemporality.CUMULATIVE, ExplicitBucketHistogramAggregation),
        ({"temporality_preference": "delta"}, AggregationTemporality.DELTA, ExplicitBucketHistogramAggregation),
        ({"temporality_preference": "low_memory"}, AggregationTemporality.DELTA, ExplicitBucketHistogramAggregation),
        (
            {"preferred_temporality": {Counter: AggregationTemporality.DELTA}},
            AggregationTemporality.DELTA,
            ExplicitBucketHistogramAggregation,
        ),
        (
            {"default_histogram_aggregation": "base2_exponential_bucket_histogram"},
            AggregationTemporality.CUMULATIVE,
            ExponentialBucketHistogramAggregation,
        ),
        (
            {"preferred_aggregation": {Histogram: ExponentialBucketHistogramAggregation()}},
            AggregationTemporality.CUMULATIVE,
            ExponentialBucketHistogramAggregation,
        ),
    ],
)
def test_what_a_reader_of_metrics_has_to_know(
    given: dict[str, Any], of_counter: AggregationTemporality, of_histogram: type
) -> None:
    exporter = DurableMetricExporter(Delivery(exporter_in_memory, idle=True), **given)
    assert (exporter._preferred_temporality or {})[Counter] is of_counter
    assert type((exporter._preferred_aggregation or {})[Histogram]) is of_histogram
