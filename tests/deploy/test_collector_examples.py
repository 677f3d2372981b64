"""The example configurations at work: what a real agent sent of real attempts goes through each of them.

The agent runs once, its requests are kept, and each collector gets them as they were.
"""

import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_connect.model import Signal
from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family
from tests.support.collector import DIRECT, Collector
from tests.support.peer import Answer, Behaviour
from tests.support.receiver import HttpReceiver, Received, make_certificates

pytestmark = [pytest.mark.captures, pytest.mark.timeout(1200)]  # the first use of the collector builds it

FOLDER = Path(__file__).parents[2] / "examples" / "collector-config"

# Two refused attempts, one accepted on loopback and one elsewhere, one to localhost given up for the accepted one.
PROGRAM = """
import socket, sys
address, nobody, closed, listening, peer, peer_port = sys.argv[1:]
for _ in range(2):
    assert socket.socket().connect_ex((nobody, int(closed))) == 111
socket.create_connection((peer, int(peer_port))).close()
slow = socket.socket(socket.AF_INET6)
slow.setblocking(False)
assert slow.connect_ex(("::1", int(listening))) == 115
socket.create_connection((address, int(listening))).close()
slow.close()
"""
NOBODY = "127.77.0.9"
"""An address of the loopback network at which nobody else on this machine fails meanwhile."""
FAILED, SUPERSEDED, NEAR, FAR = 2, 1, 1, 1
ALL = FAILED + SUPERSEDED + NEAR + FAR


class Real(NamedTuple):
    """What the agent sent, and by what its records are known."""

    requests: Sequence[Received]
    pid: int


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    with Bench() as bench, HttpReceiver() as receiver:
        closed, listening = bench.closed(Family.IPV4), bench.listener(Family.IPV4)
        silent = f"add rule ip6 silent input ip6 daddr ::1 tcp dport {listening.port} drop"
        chain = "add chain ip6 silent input { type filter hook input priority 0; }"
        assert bench.namespace.run(["nft", f"add table ip6 silent; {chain}; {silent}"]).returncode == 0
        peer = bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT, delay=0.02))
        arguments = [listening.address, NOBODY, closed.port, listening.port, peer.address, peer.port]
        with RunningAgent(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}) as agent:
            with bench.namespace.popen([sys.executable, "-I", "-S", "-c", PROGRAM, *map(str, arguments)]) as program:
                assert program.wait(30) == 0
            agent.until(lambda: _count(receiver.requests, program.pid) == ALL)
        yield Real(list(receiver.requests), program.pid)


def _count(requests: Sequence[Received], pid: int) -> int:
    """Count the log records of a process."""
    bodies = [request.body for request in requests if request.signal is Signal.LOGS]
    records = [
        record
        for body in bodies
        for of_resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scoped in of_resource.scope_logs
        for record in scoped.log_records
    ]
    pids = [a.value.int_value for record in records for a in record.attributes if a.key == "process.pid"]
    return pids.count(pid)


def feed(real: Real, collector: Collector) -> None:
    for request in real.requests:
        _post(collector.http_endpoint, request)


def _post(endpoint: str, request: Received, context: ssl.SSLContext | None = None) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    question = urllib.request.Request(f"{endpoint}/v1/{request.signal}", request.body, headers)
    opener = DIRECT if context is None else urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    with opener.open(question, timeout=10) as answer:
        assert answer.status == 200


def outcomes(real: Real, records: Sequence[dict[str, Any]]) -> Counter[str]:
    """Count the attempts of our program by outcome; those superseded apart."""
    found = [record["attributes"] for record in records if record["attributes"].get("process.pid") == real.pid]
    return Counter(
        "superseded" if facts.get("otel_connect.superseded") else facts["otel_connect.outcome"] for facts in found
    )


EVERYTHING = Counter(refused=FAILED, established=NEAR + FAR, superseded=SUPERSEDED)


def config(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Collector]:
    """Start a second collector, in the place of a backend."""
    with Collector(tmp_path / "backend") as collector:
        yield collector


def test_durable_delivers(real: Real, backend: Collector, tmp_path: Path) -> None:
    variables = {
        "BACKEND_OTLP": backend.grpc_endpoint.removeprefix("http://"),
        "COLLECTOR_STORAGE": str(tmp_path / "queue"),
    }
    backend.stop()
    with Collector(tmp_path / "gateway", config=config("durable"), environment=variables) as collector:
        feed(real, collector)
        collector.kill()  # what it has answered for lies on its disk
        backend.restart()
        collector.start()
        backend.await_until(lambda: outcomes(real, backend.log_records()) == EVERYTHING, 60)
        backend.await_until(lambda: outcomes(real, backend.spans()).total() == ALL, 60)
        backend.await_until(backend.metrics)


def test_gateway_mtls_delivers(real: Real, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    variables = {
        "GATEWAY_CERTIFICATE": str(certificates.server),
        "GATEWAY_KEY": str(certificates.server_key),
        "GATEWAY_CLIENT_CA": str(certificates.authority),
    }
    trusting = ssl.create_default_context(cafile=str(certificates.authority))
    known = ssl.create_default_context(cafile=str(certificates.authority))
    known.load_cert_chain(certificates.client, certificates.client_key)
    with Collector(tmp_path / "gateway", config=config("gateway-mtls"), environment=variables) as collector:
        endpoint = collector.http_endpoint.replace("http://", "https://")
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            _post(endpoint, real.requests[0], trusting)
        for request in real.requests:
            _post(endpoint, request, known)
        collector.await_until(lambda: outcomes(real, collector.log_records()) == EVERYTHING)


def test_an_agent_reaches_the_gateway_with_its_certificate(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    variables = {
        "GATEWAY_CERTIFICATE": str(certificates.server),
        "GATEWAY_KEY": str(certificates.server_key),
        "GATEWAY_CLIENT_CA": str(certificates.authority),
    }
    with Collector(tmp_path / "gateway", config=config("gateway-mtls"), environment=variables) as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint.replace("http://", "https://"),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificates.client),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificates.client_key),
        }
        with RunningAgent(environment=environment), socket.socket() as attempt:
            attempt.connect_ex(("127.0.0.1", 1))
            ours = os.getpid()
            collector.await_until(
                lambda: any(r["attributes"].get("process.pid") == ours for r in collector.log_records()), 30
            )


def test_metrics_from_logs_delivers(real: Real, tmp_path: Path) -> None:
    with Collector(tmp_path, config=config("metrics-from-logs")) as collector:
        feed(real, collector)

        def failures() -> float:
            samples = [s for s in collector.prometheus_samples() if s.name == "connect_failures_total"]
            return sum(s.value for s in samples if _is_refused_by_us(s.labels))

        collector.await_until(lambda: failures() == FAILED, 20)


def _is_refused_by_us(labels: dict[str, str]) -> bool:
    return labels.get("server_address") == NOBODY and labels["error_type"] == "connection_refused"


def test_span_metrics_delivers(real: Real, tmp_path: Path) -> None:
    variables = {"SPAN_METRICS_INTERVAL": "200ms"}
    with Collector(tmp_path, config=config("span-metrics"), environment=variables) as collector:
        feed(real, collector)

        def refused() -> float:
            samples = [s for s in collector.prometheus_samples() if s.name == "traces_span_metrics_calls_total"]
            return sum(s.value for s in samples if s.labels.get("error_type") == "connection_refused")

        collector.await_until(lambda: refused() >= FAILED, 20)
        durations = {s.name for s in collector.prometheus_samples()}
        assert "traces_span_metrics_duration_seconds_bucket" in durations


def test_loki_delivers(real: Real, tmp_path: Path) -> None:
    # Loki itself is no part of the tests: this is what it would be sent.
    with HttpReceiver() as loki:
        variables = {"LOKI_OTLP": loki.endpoint}
        with Collector(tmp_path, config=config("loki"), environment=variables) as collector:
            feed(real, collector)
            collector.await_until(lambda: _count(loki.requests, real.pid) == ALL)
            assert {request.signal for request in loki.requests} == {Signal.LOGS}


def test_sampling_delivers(real: Real, backend: Collector, tmp_path: Path) -> None:
    variables = {"BACKEND_OTLP": backend.grpc_endpoint.removeprefix("http://"), "SAMPLED_PERCENT": "0"}
    with Collector(tmp_path / "gateway", config=config("sampling"), environment=variables) as collector:
        feed(real, collector)
        backend.await_until(lambda: outcomes(real, backend.spans()) == Counter(refused=FAILED), 30)
    # The collector has decided about all before it stopped.
    assert outcomes(real, backend.spans()) == Counter(refused=FAILED)


def test_filter_noise_delivers(real: Real, tmp_path: Path) -> None:
    with Collector(tmp_path, config=config("filter-noise")) as collector:
        feed(real, collector)
        kept = Counter(refused=FAILED, established=FAR)
        collector.await_until(lambda: outcomes(real, collector.log_records()) == kept)
        collector.await_until(lambda: outcomes(real, collector.spans()) == kept)
