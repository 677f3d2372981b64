"""What the agent emits and what docs/signals.md tells users are the same, name by name."""

import importlib
import os
import pkgutil
import re
from itertools import product
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv import attributes as semconv
from prometheus_client.parser import text_string_to_metric_families

from otel_connect.encode import events, throttles
from otel_connect.encode.attributes import EVENT_NAME, attempt_attributes, error_type
from otel_connect.encode.cardinality import Limits
from otel_connect.encode.durations import DURATION_BOUNDARIES
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.resource import WorkloadResources, agent_resource
from otel_connect.encode.self_metrics import self_metrics
from otel_connect.model import (
    Attempt,
    Drops,
    Hook,
    Outcome,
    ServerName,
    Signal,
    ThrottleEvent,
    Verdict,
    Withheld,
    Workload,
)
from otel_connect.serve.exposition import page
from tests.support.events import make_attempt
from tests.support.figures import FIGURES
from tests.support.syn_schedule import schedule
from tools.dashboards import DESTINATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")
TYPES = {str: "string", int: "int", float: "double, s", bool: "boolean", tuple: "string[]"}
PREFIX = "otel_connect.agent."
ERRNOS = (None, *range(1, 134))


def table(heading: str) -> dict[str, dict[str, str]]:
    """Read the first table under a heading: rows by their first cell, cells by the heads of columns."""
    section = re.split(r"^#+ ", PAGE.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    head, _, *rows = cells
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def every_kind_of_attempt() -> list[Attempt]:
    rewritten = {"requested_address": "10.96.0.10", "requested_port": 80, "srtt_us": 1200}
    seen = {"hooks": int(Hook.SYN_SENT | Hook.END | Hook.RESET), "drops": Drops("netfilter_drop", 2, received=False)}
    who = {"command": "curl", "command_args": ("curl",), "vpid": 1, "cgroup": "0::/"}
    names = {
        "server": ServerName("db.example", "dns", "process"),
        "service_peer_name": "database",
        "backend": ("10.9.0.7", 5432),
    }
    return [
        make_attempt(
            outcome=outcome, errno=errno, superseded=superseded, repeat_count=3, **rewritten, **seen, **who, **names
        )
        for outcome, errno, superseded in product(Outcome, (None, 111), (False, True))
    ]


def every_throttle() -> list[ThrottleEvent]:
    limits = (Withheld.PROCESS_RATE, Withheld.CGROUP_RATE, Withheld.RING_PRESSURE)
    return [ThrottleEvent(started, limit, 77, 4242, "curl", 5, 1) for started in (True, False) for limit in limits]


def emitted_metrics() -> dict[str, Metric]:
    metrics = AttemptMetrics(WorkloadResources(Resource({})), figures=lambda: FIGURES, environ={})
    metrics.record(every_kind_of_attempt())
    (request,) = metrics.collect()
    message = ExportMetricsServiceRequest.FromString(request.body)
    return {
        metric.name: metric
        for of_resource in message.resource_metrics
        for metric in of_resource.scope_metrics[0].metrics
    }


def instrument(metric: Metric) -> str:
    kind = metric.WhichOneof("data")
    if kind == "sum":
        return "counter" if metric.sum.is_monotonic else "updowncounter"
    return str(kind)


def prometheus_name(metric: Metric) -> str:
    """Follow the OpenMetrics compatibility rules, as the collector's Prometheus exporters do."""
    units = {"s": "_seconds", "By": "_bytes", "1": "_ratio" if instrument(metric) == "gauge" else ""}
    unit = "" if metric.unit.startswith("{") else units.get(metric.unit, f"_{metric.unit}".rstrip("_"))
    suffix = {"counter": "_total", "histogram": "_bucket"}.get(instrument(metric), "")
    return metric.name.replace(".", "_") + unit + suffix


def test_attributes_of_an_attempt() -> None:
    emitted = {
        name: TYPES[type(value)] for attempt in every_kind_of_attempt() for name, value in attempt_attributes(attempt)
    }
    assert {name: row["type"] for name, row in table("Attributes of an attempt").items()} == emitted


def test_metrics() -> None:
    emitted = {
        name: {
            "instrument": instrument(metric),
            "unit": metric.unit,
            "Prometheus name": prometheus_name(metric),
        }
        for name, metric in emitted_metrics().items()
    }
    documented = table("Metrics")
    assert documented.keys() == emitted.keys()
    for name, facts in emitted.items():
        assert facts.items() <= documented[name].items()


def test_the_metrics_page_has_the_names_that_otlp_gets_in_prometheus() -> None:
    body, _ = page(self_metrics(FIGURES), "")
    suffixes = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    families = {
        family.name + suffixes[family.type]: sample
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples[:1]
    }
    rows = {name: row for name, row in table("Metrics").items() if name.startswith(PREFIX)}
    assert families.keys() == {row["Prometheus name"] for row in rows.values()}
    attributes = {name.replace(".", "_") for name in table("Attributes of metrics")} | {"le"}
    assert {label for sample in families.values() for label in sample.labels} <= attributes


def test_attributes_of_metrics() -> None:
    types = {"string_value": "string", "int_value": "int"}
    emitted = {
        attribute.key: types[str(attribute.value.WhichOneof("value"))]
        for metric in emitted_metrics().values()
        for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
        for attribute in point.attributes
    }
    assert {name: row["type"] for name, row in table("Attributes of metrics").items()} == emitted


def test_agent_events() -> None:
    every = (
        events.started(["a"]),
        events.stopped(1),
        events.config_reloaded(),
        events.data_lost(Signal.LOGS, "expired", 1),
        *map(throttles.throttle_event, every_throttle()),
    )
    constants = vars(events) | vars(throttles)
    names = {value for name, value in constants.items() if name.isupper() and str(value).startswith(PREFIX)}
    documented = table("Agent events")
    assert documented.keys() == names == {event.name for event in every}
    types = {"string_value": "string", "int_value": "int", "array_value": "string[]"}
    attributes: dict[str, str] = {}
    for event in every:
        row = documented[event.name]
        request = ExportLogsServiceRequest.FromString(events.encode_event(event, ResourceMessage(), 1).body)
        (record,) = request.resource_logs[0].scope_logs[0].log_records
        assert (record.event_name, record.severity_text) == (event.name, row["severity"])
        assert set(re.findall(r"[a-z_]+\.[a-z_.]+", row["attributes"])) == {one.key for one in record.attributes}
        attributes |= {one.key: types[str(one.value.WhichOneof("value"))] for one in record.attributes}
    assert {name: row["type"] for name, row in table("Attributes of agent events").items()} == attributes


def test_resource_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    resource = agent_resource(os.uname(), instance_id="i", machine_id="m", node_name="n")
    assert table("Resource of the agent").keys() == resource.attributes.keys()
    workload = Workload("shop", "web", None, "c0ffee", "5d1c")
    of_workload = WorkloadResources(resource).attributes(workload)
    assert table("Resources of workloads").keys() == of_workload.keys()


def test_sources_of_names() -> None:
    assert set(
        re.findall(r"`(\w+)`", table("Attributes of an attempt")["otel_connect.server.address.source"]["when"])
    ) == {
        "dns",
        "hosts",
        "none",
    }


def test_limits_of_attribute_sets() -> None:
    said = [
        int(number.replace(",", ""))
        for number in re.findall(r"At most ([\d,]+) sets .*?([\d,]+) in all.*?([\d,]+) workloads", PAGE, re.DOTALL)[0]
    ]
    assert said == list(Limits())


def test_outcomes_and_their_error_types() -> None:
    documented = table("Outcomes")
    assert list(documented) == [outcome.value for outcome in Outcome]
    local_errors = re.search(r"error.type of a local error: (.*?)\n\n", PAGE, re.DOTALL)
    assert local_errors is not None
    for outcome in Outcome:
        place = documented[outcome]["error.type"]
        if outcome is Outcome.LOCAL_ERROR:
            place = local_errors[1]
        emitted = {error_type(Verdict(outcome, errno)) for errno in ERRNOS} - {None}
        assert set(re.findall(r"\w+", place)) - {"else"} == emitted


def test_event_name_and_boundaries() -> None:
    assert table("Log record")["EventName"]["value"] == EVENT_NAME
    boundaries = re.search(r"in seconds: ([\d.\s]+);", PAGE)
    assert boundaries is not None
    assert tuple(map(float, boundaries[1].split())) == DURATION_BOUNDARIES


def test_the_retries_of_a_syn_are_those_of_the_kernel() -> None:
    found = re.findall(r"\| ([\w .]*6\.5[\w ]*) \| ([\d, ]+) s \| (\d+) s \|", PAGE)
    said = {linux: (list(map(int, retries.split(","))), int(timeout)) for linux, retries, timeout in found}
    derived = {"before 6.5": schedule(linear=0), "6.5 and later": schedule(linear=4)}
    assert said == {linux: ([retry.due for retry in one.retries], one.timeout.due) for linux, one in derived.items()}


def test_how_late_retries_of_a_syn_may_be_is_said_wherever_their_times_are() -> None:
    old, new = schedule(linear=0), schedule(linear=4)
    latest = [round(moment.latest) for moment in (*new.retries[-3:], new.timeout, old.timeout)]
    late = re.search(
        r"by (\d+), (\d+) and (\d+) s, and the attempt times out\n"
        r"between 131 and (\d+) s \(before 6\.5 between 127 and (\d+) s\)",
        PAGE,
    )
    assert late is not None
    assert list(map(int, late.groups())) == latest
    for name in ("docs/configuration.md", "otel_connect/config/__init__.py"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.search(rf"gives up \[?between {old.timeout.due} and {round(new.timeout.latest)} s", text), name


def test_the_steps_that_a_dashboard_explains_are_retries_of_a_syn() -> None:
    (panel,) = (one for one in DESTINATIONS.panels if one.title == "Time to connect, 99 of 100")
    steps = re.fullmatch(r"A step at ([\d, or]+) s \(before Linux 6\.5: ([\d, or]+) s\) is a SYN that .*", panel.help)
    assert steps is not None
    for said, linear in zip(steps.groups(), (4, 0), strict=True):
        assert list(map(int, re.findall(r"\d+", said))) == [one.due for one in schedule(linear).retries if one.due <= 7]


def test_limits_of_throttles() -> None:
    limits = re.search(r"`otel_connect.throttle.limit` \| string \| own \| ([^|]+)", PAGE)
    assert limits is not None
    assert set(re.findall(r"`(\w+)`", limits[1])) - {"throttle"} == {
        event.limit.name.lower() for event in every_throttle()
    }


def test_marks() -> None:
    stable = {
        value
        for module in pkgutil.iter_modules(semconv.__path__)
        for value in vars(importlib.import_module(f"{semconv.__name__}.{module.name}")).values()
        if isinstance(value, str)
    }
    for heading in (
        "Attributes of an attempt",
        "Attributes of metrics",
        "Attributes of agent events",
        "Resource of the agent",
        "Resources of workloads",
    ):
        for name, row in table(heading).items():
            assert (row["mark"] == "own") is name.startswith("otel_connect."), name
            assert (row["mark"] == "S") is (name in stable), name
