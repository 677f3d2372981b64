"""A real application, configured by variables alone, with the exporters and the detector chosen by name."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from otel_connect import __version__
from tests.support.collector import Collector, await_until
from tests.support.instrumented import Application, Arrived
from tests.support.receiver import GrpcReceiver, HttpReceiver, Receiver, Reply

KINDS: Mapping[str, type[Receiver]] = {"http/protobuf": HttpReceiver, "grpc": GrpcReceiver}
PROTOCOLS = pytest.mark.parametrize("protocol", KINDS)
OURS = f"OTel-OTLP-Exporter-otel-connect/{__version__}"


def variables(tmp_path: Path, endpoint: str, protocol: str = "http/protobuf", **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_CONNECT_SPOOL_DIRECTORY": str(tmp_path / "spool"),
        **more,
    }


@PROTOCOLS
def test_all_signals_arrive_with_the_host_they_are_of(protocol: str, tmp_path: Path) -> None:
    detector = {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel_connect", "OTEL_SERVICE_NAME": "shop"}
    with KINDS[protocol]() as receiver:
        with Application(variables(tmp_path, receiver.endpoint, protocol, **detector)) as application:
            application.tell("order book 3")
        arrived = Arrived(receiver)
        assert all(request.metadata["user-agent"].startswith(OURS) for request in receiver.requests)
    assert arrived.bodies == ["ordered book-0", "ordered book-1", "ordered book-2"]
    assert arrived.names == ["GET"] * 3 + ["order"] * 3 + ["pay"] * 3
    assert {point["name"] for point in arrived.points} >= {
        "shop.orders",
        "shop.price",
        "shop.temperature",
        "shop.queue",
    }
    orders = [point["value"] for point in arrived.points if point["name"] == "shop.orders"]
    assert orders == [1, 1, 1]
    for record in (*arrived.logs, *arrived.spans, *arrived.points):
        resource = record["resource"]
        assert resource["service.name"] == "shop"
        assert resource["host.arch"] == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        assert resource["host.name"] == os.uname().nodename
        assert (resource["os.type"], resource["os.version"]) == ("linux", os.uname().release)
        assert resource.get("host.id", "") == machine_id()


def machine_id() -> str:
    path = Path("/etc/machine-id")
    return path.read_text().strip() if path.exists() else ""


@PROTOCOLS
def test_beside_the_sdks_own_exporter_the_same_arrives(protocol: str, tmp_path: Path) -> None:
    with KINDS[protocol]() as receiver:
        of_all = variables(tmp_path, receiver.endpoint, protocol)
        with Application(of_all, exporter="otel_connect,otlp") as application:
            application.tell("order book 5")
            application.tell("order broken 1")
        arrived = Arrived(receiver)
        agents = {request.metadata["user-agent"].startswith(OURS) for request in receiver.requests}
    assert agents == {False, True}
    for records in (arrived.logs, arrived.spans):
        assert len(records) >= 12
        assert_twice(records)
    # Each exporter has a reader of its own, which collects and picks exemplars by itself.
    own = {"timeUnixNano", "startTimeUnixNano", "exemplars"}
    assert_twice([{key: value for key, value in point.items() if key not in own} for point in arrived.points])


def assert_twice(records: list[dict[str, Any]]) -> None:
    texts = sorted(json.dumps(record, sort_keys=True, default=repr) for record in records)
    assert texts[::2] == texts[1::2]


@PROTOCOLS
def test_a_real_collector_takes_it(protocol: str, tmp_path: Path) -> None:
    with Collector(tmp_path / "collector") as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
        with Application(variables(tmp_path, endpoint, protocol)) as application:
            application.tell("order book 2")
        bodies = collector.await_until(lambda: [record["body"] for record in collector.log_records()])
        assert sorted(bodies) == ["ordered book-0", "ordered book-1"]
        assert sorted(span["name"] for span in collector.spans()) == ["GET"] * 2 + ["order"] * 2 + ["pay"] * 2
        assert collector.await_until(lambda: [p for p in collector.metrics() if p["name"] == "shop.orders"])


@PROTOCOLS
def test_nothing_is_told_about_the_delivery_itself(protocol: str, tmp_path: Path) -> None:
    # HTTP client, gRPC and logging are instrumented, and log at DEBUG.
    with KINDS[protocol]() as receiver:
        with Application(variables(tmp_path, receiver.endpoint, protocol, SHOP_LOG_LEVEL="DEBUG")) as application:
            application.tell("order book 1")
            for _ in range(5):
                application.tell("flush")
        arrived = Arrived(receiver)
        port = receiver.endpoint.rpartition(":")[2]
    assert arrived.names == ["GET", "order", "pay"]
    assert any("connection" in str(body) for body in arrived.bodies)  # those of its own requests are not held back
    assert not [body for body in arrived.bodies if port in str(body)]


TRACED_DATABASE = """
import sqlite3
from opentelemetry import trace
from opentelemetry.instrumentation import dbapi
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

dbapi.trace_integration(sqlite3, "connect", "sqlite")
provider = TracerProvider()
trace.set_tracer_provider(provider)
provider.add_span_processor(SimpleSpanProcessor(DurableSpanExporter()))
for name in ("one", "two"):
    trace.get_tracer("shop").start_span(name).end()
    sqlite3.connect(":memory:").cursor().execute("SELECT 1")
"""


def test_the_spool_is_not_traced_either(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        environ = {**os.environ, **variables(tmp_path, receiver.endpoint)}
        subprocess.run([sys.executable, "-W", "error", "-c", TRACED_DATABASE], env=environ, check=True, timeout=60)
        assert Arrived(receiver).names == ["SELECT", "SELECT", "one", "two"]


# What an instrumentation of urllib3 does. Spans leave by another thread: those that end while one is sent do not tell.
TRACED_CLIENT = """
import urllib3
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

urlopen = urllib3.HTTPConnectionPool.urlopen

def traced(*arguments, **options):
    if not is_http_instrumentation_enabled():
        return urlopen(*arguments, **options)
    with trace.get_tracer("client").start_as_current_span("request", record_exception=False):
        return urlopen(*arguments, **options)

urllib3.HTTPConnectionPool.urlopen = traced
provider, exporter = TracerProvider(), DurableSpanExporter()
trace.set_tracer_provider(provider)
provider.add_span_processor(BatchSpanProcessor(exporter))
try:
    urllib3.request("GET", "http://127.0.0.1:1/", retries=False)
except urllib3.exceptions.HTTPError:
    pass
for _ in range(3):
    provider.force_flush()
    exporter.force_flush()  # when it is delivered, the span of that would have ended
"""


def test_requests_of_the_delivery_are_not_traced_as_others_are(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        environ = {**os.environ, **variables(tmp_path, receiver.endpoint)}
        subprocess.run([sys.executable, "-W", "error", "-c", TRACED_CLIENT], env=environ, check=True, timeout=60)
        assert Arrived(receiver).names == ["request"]


def test_a_disabled_sdk_leaves_no_trace(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        with Application(variables(tmp_path, receiver.endpoint, OTEL_SDK_DISABLED="true")) as application:
            application.tell("order book 1")
            names = [path.read_text().strip() for path in Path(f"/proc/{application.process.pid}/task").glob("*/comm")]
        assert receiver.requests == []
    assert not [name for name in names if name.startswith("export-")]
    assert not (tmp_path / "spool").exists()


def test_a_lone_surrogate_costs_no_neighbour(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        with Application(variables(tmp_path, receiver.endpoint)) as application:
            for text in ("before", "file \udcff", "after"):
                application.tell(f"raw {json.dumps(text)}")
        assert Arrived(receiver).bodies == ["before", "file \\udcff", "after"]


def test_a_malformed_variable_is_one_line_and_costs_nothing(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        malformed = {"OTEL_EXPORTER_OTLP_TIMEOUT": "10s", "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": ""}
        with Application(variables(tmp_path, receiver.endpoint, **malformed)) as application:
            application.tell("order book 1")
        assert Arrived(receiver).bodies == ["ordered book"]
    (line,) = application.warnings
    assert "OTEL_EXPORTER_OTLP_TIMEOUT: must be a whole number of milliseconds" in line
    assert "the default is used" in line


@PROTOCOLS
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_children_export_for_themselves(protocol: str, busy: bool, tmp_path: Path) -> None:
    # Slow answers: a request is then under way at almost every fork.
    with KINDS[protocol](repeat(Reply(delay_s=0.05 if busy else 0))) as receiver:
        soon = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BLRP_SCHEDULE_DELAY": "20"}
        with Application(variables(tmp_path, receiver.endpoint, protocol, **soon)) as application:
            for _ in range(3):
                application.tell("order book 1")
                application.tell("fork 3")
            application.tell("pool 2")
            application.tell("leave")
            application.tell("order last 1")
        await_until(lambda: len(Arrived(receiver).logs) >= 16)
        arrived = Arrived(receiver)
    expected = ["ordered book"] * 3 + ["ordered last"] + [f"fork-{number}" for number in range(3)] * 3
    expected += ["pool-0", "pool-1", "leave-0"]
    assert sorted(set(arrived.bodies)) == sorted(set(expected))
    assert len(arrived.bodies) >= len(expected)
    assert set(arrived.names) >= {"fork-0", "fork-1", "fork-2", "pool-0", "pool-1", "leave-0", "order"}
