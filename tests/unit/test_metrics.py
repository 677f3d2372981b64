import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.sdk.resources import Resource

from otel_connect import __version__
from otel_connect.config import EncodeConfig
from otel_connect.encode.cardinality import AttributeSets, metric_key
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.self_metrics import SelfSnapshot
from otel_connect.encode.spans import SpanContext
from otel_connect.model import Attempt, Outcome, Signal
from tests.support.events import attempts, make_attempt
from tests.support.otlp import SCHEMA_URL, resource

SNAPSHOT = SelfSnapshot(
    seen=10,
    exported={Signal.LOGS: 6, Signal.TRACES: 7},
    queued={Signal.LOGS: 3},
    dropped={(Signal.LOGS, "queue_full"): 1},
    probe_missed=2,
)
BOUNDARIES = [
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.1, 3.3, 7.5, 15.5, 32.0, 64.0, 130.0),
]
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"


def make_metrics(environ: Mapping[str, str] | None = None, limit: int = 1000) -> AttemptMetrics:
    return AttemptMetrics(
        Resource({"service.name": "otel-connect"}),
        in_progress=lambda: 5,
        snapshot=lambda: SNAPSHOT,
        max_attribute_sets=limit,
        environ=environ or {},
    )


def collect(metrics: AttemptMetrics) -> dict[str, Metric]:
    (request,) = metrics.collect()
    assert request.signal is Signal.METRICS
    (of_resource,) = ExportMetricsServiceRequest.FromString(request.body).resource_metrics
    (of_scope,) = of_resource.scope_metrics
    assert (of_scope.scope.name, of_scope.scope.version) == ("otel_connect", __version__)
    assert of_scope.schema_url == SCHEMA_URL
    points = sum(len(points_of(metric)) for metric in of_scope.metrics)
    assert points == request.records
    return {metric.name: metric for metric in of_scope.metrics}


def points_of(metric: Metric) -> Any:
    kind = metric.WhichOneof("data")
    assert kind is not None
    return getattr(metric, kind).data_points


def attributes_of(point: Any) -> dict[str, str | int]:
    return {
        pair.key: pair.value.string_value if pair.value.WhichOneof("value") == "string_value" else pair.value.int_value
        for pair in point.attributes
    }


def total(metric: Metric | None) -> int:
    return 0 if metric is None else sum(point.as_int for point in points_of(metric))


def test_attempts_are_counted_by_what_matters() -> None:
    metrics = make_metrics()
    success = make_attempt(outcome=Outcome.ESTABLISHED, errno=None)
    metrics.record([make_attempt(), success, make_attempt()])
    attempts_metric = collect(metrics)["otel_connect.attempts"]
    refused, established = points_of(attempts_metric)
    assert (refused.as_int, established.as_int) == (2, 1)
    assert attributes_of(refused) == {
        "otel_connect.outcome": "refused",
        "error.type": "connection_refused",
        "network.type": "ipv4",
        "process.executable.name": "curl",
        "server.address": "10.1.2.80",
        "server.port": 443,
    }
    assert "error.type" not in attributes_of(established)
    assert attempts_metric.unit == "{attempt}"
    assert attempts_metric.sum.is_monotonic


def test_counting_starts_with_the_first_attempt_not_with_the_collection() -> None:
    metrics = make_metrics()
    metrics.record([make_attempt()])
    recorded = time.time_ns()
    (point,) = points_of(collect(metrics)["otel_connect.attempts"])
    assert point.start_time_unix_nano <= recorded < point.time_unix_nano


def test_durations_fall_into_the_buckets_of_the_contract() -> None:
    metrics = make_metrics()
    seconds = [0.0004, 1.003, 3.01, 7.02, 15.1, 31.2, 63.4, 127.8, 131.0]
    metrics.record([make_attempt(duration_ns=int(second * 1e9)) for second in seconds])
    histogram = collect(metrics)["otel_connect.attempt.duration"]
    (point,) = points_of(histogram)
    assert list(point.explicit_bounds) == BOUNDARIES
    assert list(point.bucket_counts) == [0, 0, 1, *[0] * 9, *[1] * 8]
    assert point.sum == pytest.approx(sum(seconds))
    assert histogram.unit == "s"


def test_attempt_without_an_end_is_counted_but_has_no_duration() -> None:
    metrics = make_metrics()
    metrics.record([make_attempt(duration_ns=None)])
    found = collect(metrics)
    assert total(found["otel_connect.attempts"]) == 1
    assert "otel_connect.attempt.duration" not in found


def test_figures_of_the_agent() -> None:
    found = collect(make_metrics())
    figures = {
        name: [(attributes_of(point), point.as_int) for point in points_of(metric)]
        for name, metric in found.items()
        if name != "otel_connect.agent.build.info"
    }
    logs, traces = {"otel_connect.signal": "logs"}, {"otel_connect.signal": "traces"}
    assert figures == {
        "otel_connect.attempts.in_progress": [({}, 5)],
        "otel_connect.agent.attempts.seen": [({}, 10)],
        "otel_connect.agent.attempts.exported": [(logs, 6), (traces, 7)],
        "otel_connect.agent.attempts.queued": [(logs, 3)],
        "otel_connect.agent.attempts.dropped": [({**logs, "otel_connect.reason": "queue_full"}, 1)],
        "otel_connect.agent.probe.missed": [({}, 2)],
        "otel_connect.agent.metrics.overflowed": [({}, 0)],
    }
    assert not found["otel_connect.attempts.in_progress"].sum.is_monotonic
    (build,) = points_of(found["otel_connect.agent.build.info"])
    assert attributes_of(build)["otel_connect.agent.version"] == __version__
    assert build.as_int == 1


def test_figures_of_one_request_are_of_one_moment() -> None:
    seen = iter(range(100))
    metrics = AttemptMetrics(
        Resource({}),
        in_progress=lambda: 0,
        snapshot=lambda: SelfSnapshot(n := next(seen), {Signal.LOGS: n}, {}, {}, n),
        environ={},
    )
    for _ in range(2):
        found = collect(metrics)
        names = ("attempts.seen", "attempts.exported", "probe.missed")
        assert len({total(found[f"otel_connect.agent.{name}"]) for name in names}) == 1


def test_cumulative_by_default_delta_by_the_variable() -> None:
    for environ, totals, temporality in (
        ({}, [1, 2], AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE),
        ({TEMPORALITY: "Delta "}, [1, 1], AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA),
    ):
        metrics = make_metrics(environ)
        for expected in totals:
            metrics.record([make_attempt()])
            found = collect(metrics)
            assert total(found["otel_connect.attempts"]) == expected
            assert points_of(found["otel_connect.attempt.duration"])[0].count == expected
            assert found["otel_connect.attempts"].sum.aggregation_temporality == temporality
            assert found["otel_connect.agent.attempts.seen"].sum.aggregation_temporality == temporality
            up_down = found["otel_connect.attempts.in_progress"].sum.aggregation_temporality
            assert up_down == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def test_low_memory_temporality_keeps_observables_cumulative() -> None:
    metrics = make_metrics({TEMPORALITY: "lowmemory"})
    metrics.record([make_attempt()])
    found = collect(metrics)
    delta = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    assert found["otel_connect.attempts"].sum.aggregation_temporality == delta
    assert found["otel_connect.agent.attempts.seen"].sum.aggregation_temporality != delta


def test_exponential_histogram_by_the_variable() -> None:
    metrics = make_metrics({AGGREGATION: "base2_exponential_bucket_histogram"})
    metrics.record([make_attempt()])
    histogram = collect(metrics)["otel_connect.attempt.duration"]
    assert histogram.exponential_histogram.data_points[0].count == 1


@pytest.mark.parametrize("variable", [TEMPORALITY, AGGREGATION])
def test_unknown_preference_is_logged_and_the_default_taken(variable: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = make_metrics({variable: "sideways"})
    assert variable in caplog.text
    metrics.record([make_attempt()])
    assert collect(metrics)["otel_connect.attempt.duration"].WhichOneof("data") == "histogram"


def test_exemplars_point_to_the_span() -> None:
    metrics = make_metrics()
    context = SpanContext(bytes(range(16)), bytes(range(8)))
    metrics.record([make_attempt(), make_attempt()], [context, None])
    (point,) = points_of(collect(metrics)["otel_connect.attempt.duration"])
    assert [(exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars] == [context]
    assert point.exemplars[0].as_double == 0.0004


def test_encoder_records_its_batches() -> None:
    metrics = make_metrics()
    Encoder(EncodeConfig(), resource(), metrics).encode([make_attempt()])
    (point,) = points_of(collect(metrics)["otel_connect.attempt.duration"])
    assert point.count == len(point.exemplars) == 1


def test_lone_surrogates_are_written_out() -> None:
    metrics = make_metrics()
    metrics.record([make_attempt(executable_name="\udcff")])
    (point,) = points_of(collect(metrics)["otel_connect.attempts"])
    assert attributes_of(point)["process.executable.name"] == "\\udcff"


def test_disabled_sdk_collects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    metrics = make_metrics()
    metrics.record([make_attempt()])
    assert metrics.collect() == []


# --- the bound on attribute sets


def peer(number: int) -> Attempt:
    return make_attempt(peer_address=f"10.0.{number // 250}.{number % 250}", executable_name=f"p{number % 30}")


def test_past_the_limit_addresses_then_names_become_other() -> None:
    sets = AttributeSets(100)
    found = [sets.find(metric_key(peer(number))) for number in range(200)]
    folded = [series.attributes for series in found if series.overflowed]
    assert len(found) - len(folded) == 80
    assert all(attributes["server.address"] == "_other" for attributes in folded)
    assert len({attributes["process.executable.name"] for attributes in folded}) == 11  # ten, and _other
    coarse = [a for a in folded if a["process.executable.name"] == "_other"]
    assert all("server.port" not in attributes for attributes in coarse)
    # What was let in stays in.
    assert [sets.find(metric_key(peer(number))) for number in range(200)] == found


@given(st.lists(attempts, max_size=60), st.integers(0, 40))
def test_totals_are_exact_under_any_limit(batch: list[Attempt], limit: int) -> None:
    metrics = make_metrics(limit=limit)
    half = len(batch) // 2
    metrics.record(batch[:half])
    metrics.record(batch[half:])
    found = collect(metrics)
    outcomes: Counter[str] = Counter()
    points = points_of(found["otel_connect.attempts"]) if batch else []
    for point in points:
        outcomes[str(attributes_of(point)["otel_connect.outcome"])] += point.as_int
    assert outcomes == Counter(attempt.verdict.outcome.value for attempt in batch)
    ended = sum(attempt.event.duration_ns is not None for attempt in batch)
    durations = points_of(found["otel_connect.attempt.duration"]) if ended else []
    assert sum(point.count for point in durations) == ended
    folded = sum(point.as_int for point in points if attributes_of(point).get("server.address") == "_other")
    assert total(found["otel_connect.agent.metrics.overflowed"]) == folded
    exact = [point for point in points if attributes_of(point).get("server.address") != "_other"]
    assert len(exact) <= limit


def test_never_more_sets_than_the_default_limit() -> None:
    metrics = make_metrics()
    outcomes = list(Outcome)
    metrics.record(
        [peer(number)._replace(verdict=make_attempt(outcome=outcomes[number % 10]).verdict) for number in range(20_000)]
    )
    found = collect(metrics)
    assert len(points_of(found["otel_connect.attempts"])) <= 1000
    assert total(found["otel_connect.attempts"]) == 20_000


def test_limit_is_per_collection_with_delta_temporality() -> None:
    metrics = make_metrics({TEMPORALITY: "delta"}, limit=10)
    for start in (0, 8):
        metrics.record([peer(number) for number in range(start, start + 8)])
        found = collect(metrics)
        assert len(points_of(found["otel_connect.attempts"])) == 8
        assert total(found.get("otel_connect.agent.metrics.overflowed")) == 0
