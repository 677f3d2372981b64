"""The example collector configurations: each is valid, starts unchanged, and delivers as its header says."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_connect.encode.durations import DURATION_BOUNDARIES
from tests.support.collector import DIRECT, RECIPE, Collector, collector_binary
from tests.support.kubernetes import KubernetesApi, pod

pytestmark = pytest.mark.timeout(1200)  # the first use of the collector builds it

FOLDER = Path(__file__).parents[2] / "examples" / "collector-config"
CONFIGS = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
HEADER = ("What for: ", "Needs: ", "Start: ", "See: ", "Change: ")

TRACE_ID, SPAN_ID = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
STARTED = time.time_ns()
BODY = "curl[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)"
RESOURCE = {
    "attributes": [
        {"key": "service.name", "value": {"stringValue": "unknown_service:curl"}},
        {"key": "host.name", "value": {"stringValue": "node-1"}},
    ]
}
RESOURCE_VALUES = {"service.name": "unknown_service:curl", "host.name": "node-1"}
SCOPE = {"name": "otel_connect", "version": "1.2.3"}
OUTCOME = [{"key": "otel_connect.outcome", "value": {"stringValue": "refused"}}]


def request(signal: str, leaf: str, record: dict[str, Any]) -> dict[str, Any]:
    scoped = {"scope": SCOPE, leaf: [record], "schemaUrl": "https://opentelemetry.io/schemas/1.44.0"}
    return {f"resource{signal}": [{"resource": RESOURCE, f"scope{signal}": [scoped]}]}


LOG = {"timeUnixNano": str(STARTED), "severityNumber": 13, "body": {"stringValue": BODY}, "attributes": OUTCOME}
POINT = {
    "startTimeUnixNano": str(STARTED),
    "timeUnixNano": str(STARTED),
    "asInt": "17",
    "attributes": OUTCOME,
    "exemplars": [{"timeUnixNano": str(STARTED), "asInt": "1", "traceId": TRACE_ID, "spanId": SPAN_ID}],
}
SUM = {"dataPoints": [POINT], "aggregationTemporality": 2, "isMonotonic": True}
METRIC = {"name": "otel_connect.attempts", "unit": "{attempt}", "sum": SUM}
SPAN = {
    "traceId": TRACE_ID,
    "spanId": SPAN_ID,
    "name": "tcp connect",
    "kind": 1,
    "startTimeUnixNano": str(STARTED),
    "endTimeUnixNano": str(STARTED + 400_000),
    "attributes": OUTCOME,
    "status": {"code": 2, "message": "Connection refused"},
}
REQUESTS = {
    "logs": request("Logs", "logRecords", LOG),
    "metrics": request("Metrics", "metrics", METRIC),
    "traces": request("Spans", "spans", SPAN),
}


def test_the_buckets_of_span_metrics_are_those_of_the_agents_own_histogram() -> None:
    config = yaml.safe_load(CONFIGS["span-metrics"].read_text(encoding="utf-8"))
    buckets = config["connectors"]["span_metrics"]["histogram"]["explicit"]["buckets"]
    units = {"ms": 1e-3, "s": 1.0}
    found = [re.fullmatch(r"(\d+)(m?s)", bucket) for bucket in buckets]
    seconds = [int(one[1]) * units[one[2]] for one in found if one]
    assert len(seconds) == len(buckets)
    assert set(seconds) <= set(DURATION_BOUNDARIES)
    assert [one for one in seconds if one >= 1] == [one for one in DURATION_BOUNDARIES if one >= 1]


def post(collector: Collector, path: str, message: dict[str, Any]) -> None:
    url = f"{collector.http_endpoint}/v1/{path}"
    headers = {"Content-Type": "application/json"}
    question = urllib.request.Request(url, json.dumps(message).encode(), headers)
    with DIRECT.open(question, timeout=10) as answer:
        assert answer.status == 200
        assert json.load(answer) == {"partialSuccess": {}}


def post_everything(collector: Collector) -> None:
    for path, message in REQUESTS.items():
        post(collector, path, message)


def assert_log(collector: Collector) -> None:
    [record] = collector.await_until(collector.log_records)
    assert record["body"] == BODY
    assert record["severityNumber"] == 13
    assert record["timeUnixNano"] == STARTED
    assert record["attributes"] == {"otel_connect.outcome": "refused"}
    assert record["resource"] == RESOURCE_VALUES
    assert record["scope"] == {**SCOPE, "schemaUrl": "https://opentelemetry.io/schemas/1.44.0"}


def assert_metric(collector: Collector) -> None:
    [point] = collector.await_until(collector.metrics)
    assert (point["name"], point["unit"], point["kind"]) == ("otel_connect.attempts", "{attempt}", "sum")
    assert (point["value"], point["isMonotonic"], point["aggregationTemporality"]) == (17, True, 2)
    assert point["exemplars"][0]["traceId"] == TRACE_ID
    assert point["attributes"] == {"otel_connect.outcome": "refused"}
    assert point["resource"] == RESOURCE_VALUES


def assert_span(collector: Collector) -> None:
    [span] = collector.await_until(collector.spans)
    assert (span["name"], span["traceId"], span["spanId"]) == ("tcp connect", TRACE_ID, SPAN_ID)
    assert span["endTimeUnixNano"] - span["startTimeUnixNano"] == 400_000
    assert span["status"] == {"code": 2, "message": "Connection refused"}
    assert span["attributes"] == {"otel_connect.outcome": "refused"}
    assert span["resource"] == RESOURCE_VALUES


def assert_on_console(collector: Collector, *texts: str) -> None:
    collector.await_until(lambda: all(text in collector.stderr for text in texts))


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Collector]:
    """Start a second collector, in the place of Jaeger or Tempo."""
    with Collector(tmp_path / "backend") as collector:
        yield collector


def test_every_configuration_has_a_delivery_test() -> None:
    deployed = sorted((Path(__file__).parents[1] / "deploy").glob("test_*.py"))
    text = "".join(path.read_text() for path in (Path(__file__), *deployed))
    tests = set(re.findall(r"^def (test_\w+_delivers)\(", text, re.MULTILINE))
    assert tests == {f"test_{name.replace('-', '_')}_delivers" for name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_header_says_what_needs_start_see_change(name: str) -> None:
    lines = CONFIGS[name].read_text().splitlines()
    for line, word in zip(lines, HEADER, strict=False):
        assert line.startswith(f"# {word}")
        assert len(line) <= 120
    assert not lines[len(HEADER)]
    assert lines[2].endswith(f"--config examples/collector-config/{name}.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_is_valid_with_the_defaults_it_ships(name: str) -> None:
    bare = {
        key: value
        for key, value in os.environ.items()
        if not re.match("COLLECTOR_|JAEGER_|TEMPO_|BACKEND_|K8S_|KUBE", key)
    }
    command = [str(collector_binary()), "validate", f"--config={CONFIGS[name]}"]
    answer = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("name", CONFIGS)
def test_listens_on_loopback_by_default_and_is_in_the_readme(name: str) -> None:
    text = CONFIGS[name].read_text()
    variables = dict(re.findall(r"\$\{env:([A-Z_]+):-([^}]+)\}", text))
    assert {"COLLECTOR_OTLP_GRPC", "COLLECTOR_OTLP_HTTP", "COLLECTOR_HEALTH"} <= variables.keys()
    addresses = [value for key, value in variables.items() if key.startswith("COLLECTOR_") and ":" in value]
    assert {address.partition(":")[0] for address in addresses} == {"127.0.0.1"}
    readme = (FOLDER / "README.md").read_text()
    assert f"[{name}.yaml]({name}.yaml)" in readme
    for variable, default in variables.items():
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{variable}`"))
        assert f"`{default}`" in row.replace("\\|", "|")


def test_minimal_delivers(tmp_path: Path) -> None:
    with Collector(tmp_path, config=CONFIGS["minimal"]) as collector:
        post_everything(collector)
        assert_log(collector)
        assert_metric(collector)
        assert_span(collector)
        assert_on_console(collector, BODY, "otel_connect.attempts{", SPAN_ID)


def test_prometheus_delivers(tmp_path: Path) -> None:
    with Collector(tmp_path, config=CONFIGS["prometheus"]) as collector:
        post_everything(collector)
        samples = collector.await_until(collector.prometheus_samples)
        [attempts] = [sample for sample in samples if sample.name == "otel_connect_attempts_total"]
        assert attempts.value == 17
        assert attempts.labels == {
            "otel_connect_outcome": "refused",
            "job": "unknown_service:curl",
            "host_name": "node-1",
        }
        assert attempts.exemplar is not None
        assert attempts.exemplar.labels["trace_id"] == TRACE_ID
        assert_on_console(collector, BODY, SPAN_ID)


def test_jaeger_delivers(tmp_path: Path, backend: Collector) -> None:
    address = backend.grpc_endpoint.removeprefix("http://")
    with Collector(tmp_path, config=CONFIGS["jaeger"], environment={"JAEGER_OTLP": address}) as collector:
        post_everything(collector)
        assert_span(backend)
        assert_on_console(collector, BODY, "otel_connect.attempts{")
        assert not backend.log_records()
        assert not backend.metrics()


def test_tempo_delivers(tmp_path: Path, backend: Collector) -> None:
    variables = {"TEMPO_OTLP": backend.http_endpoint}
    with Collector(tmp_path, config=CONFIGS["tempo"], environment=variables) as collector:
        post_everything(collector)
        assert_span(backend)
        assert_on_console(collector, BODY, "otel_connect.attempts{")
        assert not backend.log_records()
        assert not backend.metrics()


POD, CONTAINER = "2c48913c-b29f-11e7-9350-020968147796", "3f1c9a8b" * 8
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-6c45f8d6f6", "uid": "r"}
LABELS = {"pod-template-hash": "6c45f8d6f6"}
NAMES = {
    "k8s.namespace.name": "shop",
    "k8s.pod.name": "checkout-6c45f8d6f6-x7k2p",
    "k8s.pod.uid": POD,
    "k8s.deployment.name": "checkout",
    "k8s.node.name": "node-1",
}


def workload(**attributes: str) -> dict[str, Any]:
    pairs = {key.replace("__", "."): value for key, value in attributes.items()}
    return {"attributes": [{"key": key, "value": {"stringValue": value}} for key, value in pairs.items()]}


@pytest.mark.parametrize(
    ("observed", "received"),
    [
        pytest.param(
            {"service__name": "unknown_service:java", "container__id": CONTAINER, "k8s__pod__uid": POD},
            {"service.name": "checkout", "container.id": CONTAINER, "k8s.container.name": "main", **NAMES},
            id="both_ids",
        ),
        pytest.param(
            {"service__name": "cart", "container__id": CONTAINER},
            {"service.name": "cart", "container.id": CONTAINER, "k8s.container.name": "main", **NAMES},
            id="container_id",
        ),
        pytest.param(
            {"service__name": "unknown_service:sshd", "container__id": "ab" * 32},
            {"service.name": "unknown_service:sshd", "container.id": "ab" * 32},
            id="no_pod",
        ),
    ],
)
def test_kubernetes_delivers(
    observed: dict[str, str], received: dict[str, str], tmp_path: Path, backend: Collector
) -> None:
    known = pod(NAMES["k8s.pod.name"], POD, CONTAINER, labels=LABELS, ownerReferences=[DEPLOYMENT])
    with KubernetesApi([known]) as api:
        variables = {
            "KUBERNETES_BACKEND": backend.http_endpoint,
            "K8S_AUTH": "kubeConfig",
            "K8S_NODE_NAME": "node-1",
            "KUBECONFIG": str(api.kubeconfig(tmp_path)),
        }
        with Collector(tmp_path, config=CONFIGS["kubernetes"], environment=variables) as collector:
            for path, message in REQUESTS.items():
                [(kind, [scoped])] = message.items()
                post(collector, path, {kind: [scoped | {"resource": workload(**observed)}]})
            for arrived in (backend.log_records, backend.metrics, backend.spans):
                [one] = collector.await_until(arrived)
                assert one["resource"] == received


def test_spans_wait_for_a_backend_that_is_down(tmp_path: Path, backend: Collector) -> None:
    variables = {"TEMPO_OTLP": backend.http_endpoint}
    backend.kill()
    quick = "exporters: {otlp_http/tempo: {retry_on_failure: {initial_interval: 100ms}}}"
    with Collector(tmp_path, config=CONFIGS["tempo"], overrides=[quick], environment=variables) as collector:
        post(collector, "traces", REQUESTS["traces"])
        assert_on_console(collector, "Will retry the request after interval")
        backend.restart()
        assert_span(backend)


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    with Collector(tmp_path) as collector:
        post(collector, "logs", REQUESTS["logs"])
        collector.kill()
        collector.restart()
        post(collector, "logs", REQUESTS["logs"])
        assert [record["body"] for record in collector.log_records()] == [BODY, BODY]


def test_a_configuration_that_cannot_start_fails_at_once(tmp_path: Path) -> None:
    wrong = Collector(tmp_path, overrides=["exporters: {file: {path: /nowhere/received}}"])
    with pytest.raises(RuntimeError, match="no such file or directory"):
        wrong.start()


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    sent: dict[str, Any] = {
        "stringValue": "→",
        "boolValue": False,
        "intValue": "9007199254740993",
        "doubleValue": 0.25,
        "bytesValue": "AP8=",
        "arrayValue": {"values": [{"stringValue": "a"}, {"intValue": "1"}, {}]},
        "kvlistValue": {"values": [{"key": "b", "value": {"arrayValue": {}}}]},
    }
    attributes = [{"key": kind, "value": {kind: raw}} for kind, raw in sent.items()]
    attributes.append({"key": "none", "value": {}})
    with Collector(tmp_path) as collector:
        post(collector, "logs", request("Logs", "logRecords", {"attributes": attributes}))
        [record] = collector.log_records()
        assert record["attributes"] == {
            "stringValue": "→",
            "boolValue": False,
            "intValue": 9007199254740993,
            "doubleValue": 0.25,
            "bytesValue": b"\x00\xff",
            "arrayValue": ["a", 1, None],
            "kvlistValue": {"b": []},
            "none": None,
        }


def test_a_histogram_comes_back(tmp_path: Path) -> None:
    buckets = {"bucketCounts": ["1", "2"], "explicitBounds": [0.1]}
    point = {"timeUnixNano": str(STARTED), "count": "3", "sum": 1.5, **buckets}
    histogram = {"dataPoints": [point], "aggregationTemporality": 1}
    metric = {"name": "otel_connect.attempt.duration", "unit": "s", "histogram": histogram}
    with Collector(tmp_path) as collector:
        post(collector, "metrics", request("Metrics", "metrics", metric))
        [received] = collector.metrics()
        assert (received["kind"], received["count"], received["sum"]) == ("histogram", 3, 1.5)
        assert (received["bucketCounts"], received["explicitBounds"]) == ([1, 2], [0.1])


def build(collector: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OTEL_CONNECT_COLLECTOR": collector}
    return subprocess.run(RECIPE / "build.sh", env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", ["/nowhere/otelcol", str(RECIPE)])
def test_build_refuses_a_collector_that_is_no_program(place: str) -> None:
    answer = build(place)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert place in answer.stderr


def test_build_prints_the_collector_that_is_named() -> None:
    answer = build(str(collector_binary()))
    assert (answer.returncode, answer.stdout) == (0, f"{collector_binary()}\n")
