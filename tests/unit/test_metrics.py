import itertools
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
from otel_connect.encode.points import mend_starts
from otel_connect.encode.spans import SpanContext
from otel_connect.figures import Account, Distribution, Figures
from otel_connect.model import Attempt, Outcome, Signal
from tests.support.events import attempts, make_attempt
from tests.support.figures import BALANCE, FIGURES, make_figures
from tests.support.otlp import SCHEMA_URL, resource

BOUNDARIES = [
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.1, 3.3, 7.5, 15.5, 32.0, 64.0, 130.0),
]
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"


def make_metrics(environ: Mapping[str, str] | None = None, limit: int = 1000) -> AttemptMetrics:
    return AttemptMetrics(
        Resource({"service.name": "otel-connect"}),
        figures=lambda: FIGURES,
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
    prefix = "otel_connect.agent."
    values = {
        name.removeprefix(prefix): [
            (set(attributes_of(point).values()), point.as_int or point.as_double) for point in points_of(metric)
        ]
        for name, metric in found.items()
        if name.startswith(prefix) and name != "otel_connect.agent.export.delay"
    }
    hooks, tables = {"raw_tracepoint:inet_sock_set_state"}, {"in_progress"}
    assert values.pop("build.info")
    assert values == {
        "attempts.seen": [(set(), 10)],
        "attempts.recovered": [({"logs"}, 2), ({"traces"}, 0)],
        "attempts.exported": [({"logs"}, 6), ({"traces"}, 7)],
        "attempts.queued": [({"logs"}, 5), ({"traces"}, 2)],
        "attempts.dropped": [({"logs", "queue_full"}, 1), ({"traces", "sampled"}, 1)],
        "data_points.made": [(set(), 30)],
        "data_points.recovered": [(set(), 0)],
        "data_points.exported": [(set(), 20)],
        "data_points.queued": [(set(), 3)],
        "data_points.dropped": [({"expired"}, 7)],
        "probe.attached": [(hooks, 1)],
        "probe.missed": [(set(), 2)],
        "map.entries": [(tables, 5)],
        "map.limit": [(tables, 64)],
        "ring.usage": [(set(), 176)],
        "ring.limit": [(set(), 4096)],
        "enrichment.misses": [({"executable"}, 6)],
        "metrics.overflowed": [(set(), 8)],
        "export.healthy": [({"logs"}, 1), ({"traces"}, 0)],
        "spool.usage": [(set(), 1000)],
        "spool.limit": [(set(), 5000)],
        "spool.oldest.age": [(set(), 2.5)],
        "spool.degraded": [(set(), 0)],
        "events": [({"otel_connect.agent.started"}, 1)],
        "heartbeat": [(set(), 1_700_000_000.5)],
    }
    assert points_of(found["otel_connect.attempts.in_progress"])[0].as_int == 5
    assert not found["otel_connect.attempts.in_progress"].sum.is_monotonic
    (build,) = points_of(found["otel_connect.agent.build.info"])
    assert attributes_of(build)["otel_connect.agent.version"] == __version__
    assert build.as_int == 1


def test_figures_of_one_request_are_of_one_moment() -> None:
    taken = itertools.count()

    def figures() -> Figures:
        n = next(taken)
        accounts = {Signal.LOGS: Account(n, 0, n, 0, {})}
        return make_figures(accounts=accounts, balance=BALANCE._replace(seen=n, probe_missed=n))

    metrics = AttemptMetrics(Resource({}), figures=figures, environ={})
    for _ in range(2):
        found = collect(metrics)
        names = ("attempts.seen", "attempts.exported", "probe.missed")
        assert len({total(found[f"otel_connect.agent.{name}"]) for name in names}) == 1


def test_what_was_counted_elsewhere_is_a_histogram_of_the_same_request() -> None:
    for temporality, expected in (("cumulative", ([3, 2, 1], [3, 4, 1])), ("delta", ([3, 2, 1], [0, 2, 0]))):
        grown = iter([(3, 2, 1), (3, 4, 1), (3, 4, 1)])
        metrics = AttemptMetrics(
            Resource({}),
            figures=lambda: make_figures(delays={Signal.LOGS: Distribution((0.1, 1.0), next(grown), 4.5)}),  # noqa: B023
            environ={TEMPORALITY: temporality},
        )
        starts = []
        for counts in expected:
            (point,) = points_of(collect(metrics)["otel_connect.agent.export.delay"])
            assert (list(point.bucket_counts), point.count) == (counts, sum(counts))
            assert attributes_of(point) == {"otel_connect.signal": "logs"}
            starts.append(point.start_time_unix_nano)
            assert starts[0] <= starts[-1] <= point.time_unix_nano
        assert ("otel_connect.agent.export.delay" in collect(metrics)) is (temporality == "cumulative")
        assert (starts[0] == starts[1]) is (temporality == "cumulative")


@pytest.mark.parametrize("day_ns", [86_400 * 10**9, -86_400 * 10**9])
def test_starts_follow_a_clock_that_was_set(day_ns: int) -> None:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    began, last, now = (1_700_000_000 * 10**9 + second * 10**9 for second in (0, 50, 60))
    for temporality, start in ((2, began), (2, last), (1, last)):
        metric = metrics.add()
        metric.sum.aggregation_temporality = temporality  # type: ignore[assignment]  # the enum of the stubs
        metric.sum.data_points.add(start_time_unix_nano=start, time_unix_nano=now + day_ns)
    metrics.add().gauge.data_points.add(time_unix_nano=now + day_ns)
    mend_starts(request, cumulative_ns=began + day_ns, delta_ns=last + day_ns)
    starts = [metric.sum.data_points[0].start_time_unix_nano for metric in metrics[:3]]
    assert starts == [began + day_ns, began + day_ns, last + day_ns]
    before = request.SerializeToString()
    mend_starts(request, cumulative_ns=began + day_ns, delta_ns=last + day_ns)
    assert request.SerializeToString() == before


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
    assert metrics.overflowed == folded
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
        assert metrics.overflowed == 0
