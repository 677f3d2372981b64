import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)

from otel_connect import __version__
from otel_connect.config import EncodeConfig
from otel_connect.encode.attributes import attempt_attributes
from otel_connect.encode.cardinality import AttributeSets, Limits, Moment, metric_key
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.points import mend_starts
from otel_connect.encode.spans import SpanContext
from otel_connect.figures import Account, Distribution, Figures
from otel_connect.model import Attempt, Detail, Outcome, ServerName, Signal, Tallied
from tests.support.events import attempts, make_attempt
from tests.support.figures import BALANCE, FIGURES, make_figures
from tests.support.otlp import RESOURCES, SCHEMA_URL, SCOPE, by_resource, key_values

BOUNDARIES = [
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 15.0, 31.0, 63.0, 127.0, 150.0),
]
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
NOW = Moment(START_NS, 5 * SECOND)
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"


class Clocks:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.unix_ns, self.monotonic_ns = NOW

    def __call__(self) -> Moment:
        return Moment(self.unix_ns, self.monotonic_ns)

    def move(self, seconds: float) -> None:
        self.unix_ns += int(seconds * SECOND)
        self.monotonic_ns += int(seconds * SECOND)


def make_metrics(environ: Mapping[str, str] | None = None, limits: Limits | None = None) -> AttemptMetrics:
    return AttemptMetrics(
        RESOURCES,
        figures=lambda: FIGURES,
        limits=limits or Limits(),
        environ=environ or {},
    )


def with_clocks(environ: Mapping[str, str] | None = None) -> tuple[AttemptMetrics, Clocks]:
    """Make metrics whose clocks the test moves; only those of attempts, which the SDK has no part in, follow them."""
    clocks = Clocks()
    return AttemptMetrics(RESOURCES, figures=lambda: FIGURES, environ=environ or {}, clock=clocks), clocks


def resources(metrics: AttemptMetrics) -> list[ResourceMetrics]:
    requests = metrics.collect()
    assert {request.signal for request in requests} == {Signal.METRICS}
    assert all(len(request.body) <= 2 << 20 for request in requests)
    found = [
        of_resource
        for request in requests
        for of_resource in ExportMetricsServiceRequest.FromString(request.body).resource_metrics
    ]
    for of_resource in found:
        (of_scope,) = of_resource.scope_metrics
        assert (of_scope.scope.name, of_scope.scope.version) == ("otel_connect", __version__)
        assert of_resource.schema_url == of_scope.schema_url == SCHEMA_URL
    every = [metric for of_resource in found for metric in of_resource.scope_metrics[0].metrics]
    assert sum(len(points_of(metric)) for metric in every) == sum(request.records for request in requests)
    return found


def collect(metrics: AttemptMetrics) -> dict[str, Metric]:
    """Return the metrics of all resources together."""
    merged: dict[str, Metric] = {}
    for of_resource in resources(metrics):
        for metric in of_resource.scope_metrics[0].metrics:
            if metric.name in merged:
                points_of(merged[metric.name]).extend(points_of(metric))
            else:
                merged[metric.name] = metric
    return merged


def by_service(metrics: AttemptMetrics) -> dict[str, dict[str, Metric]]:
    """Return the metrics of each resource, by its service's name."""
    return {
        attributes_of(of_resource.resource)["service.name"]: {
            metric.name: metric for metric in of_resource.scope_metrics[0].metrics
        }
        for of_resource in resources(metrics)
    }


NAMES = (
    "otel_connect.outcome",
    "error.type",
    "network.type",
    "process.executable.name",
    "server.address",
    "server.port",
    "service.peer.name",
)


def points_of(metric: Metric) -> Any:
    kind = metric.WhichOneof("data")
    assert kind is not None
    return getattr(metric, kind).data_points


def attributes_of(point: Any) -> dict[str, Any]:
    return {
        pair.key: pair.value.string_value if pair.value.WhichOneof("value") == "string_value" else pair.value.int_value
        for pair in point.attributes
    }


def named_values(attempt: Attempt) -> tuple[Any, ...]:
    """Return the values of ``NAMES``."""
    _, end, *others = metric_key(attempt)
    return (*end, *others)


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
    seconds = [0.0004, 1.003, 2.1, 3.01, 4.2, 5.3, 7.02, 11.4, 19.9, 31.2, 63.4, 134.5, 150.1]
    metrics.record([make_attempt(duration_ns=int(second * 1e9)) for second in seconds])
    histogram = collect(metrics)["otel_connect.attempt.duration"]
    (point,) = points_of(histogram)
    assert list(point.explicit_bounds) == BOUNDARIES
    assert list(point.bucket_counts) == [0, 0, 1, *[0] * 10, *[1] * 12]
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
        "enrichment.misses": [({"executable"}, 6), ({"silent"}, 17), ({"unread"}, 18)],
        "names.learned": [(set(), 11)],
        "names.unanswered": [(set(), 12)],
        "names.ignored": [({"failed"}, 13)],
        "names.lost": [(set(), 14)],
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

    metrics = AttemptMetrics(RESOURCES, figures=figures, environ={})
    for _ in range(2):
        found = collect(metrics)
        names = ("attempts.seen", "attempts.exported", "probe.missed")
        assert len({total(found[f"otel_connect.agent.{name}"]) for name in names}) == 1


def test_what_was_counted_elsewhere_is_a_histogram_of_the_same_request() -> None:
    for temporality, expected in (("cumulative", ([3, 2, 1], [3, 4, 1])), ("delta", ([3, 2, 1], [0, 2, 0]))):
        grown = iter([(3, 2, 1), (3, 4, 1), (3, 4, 1)])
        metrics = AttemptMetrics(
            RESOURCES,
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


def test_the_agents_own_sums_begin_no_earlier_than_the_clock_that_was_set_says() -> None:
    """The SDK's points have its own clock, which is the machine's: an hour behind the one that is said to hold now."""
    metrics = AttemptMetrics(
        RESOURCES, figures=lambda: FIGURES, clock=lambda: Moment(time.time_ns() + 3600 * SECOND, 7)
    )
    collect(metrics)
    own = collect(metrics)["otel_connect.agent.events"].sum.data_points
    assert own
    assert all(point.start_time_unix_nano == point.time_unix_nano for point in own)


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
    Encoder(EncodeConfig(), RESOURCES, metrics).encode([make_attempt()])
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


@given(st.lists(attempts, min_size=1, max_size=20), st.sampled_from(["", "delta"]), st.booleans())
@settings(deadline=None)
def test_joined_bytes_are_what_protobuf_reads(batch: list[Attempt], temporality: str, exponential: bool) -> None:
    environ = {TEMPORALITY: temporality}
    if exponential:
        environ[AGGREGATION] = "base2_exponential_bucket_histogram"
    metrics, clocks = with_clocks(environ)
    metrics.record(batch)
    clocks.move(3)
    times = {"start_time_unix_nano": START_NS, "time_unix_nano": clocks.unix_ns}
    enum = "AGGREGATION_TEMPORALITY_DELTA" if temporality else "AGGREGATION_TEMPORALITY_CUMULATIVE"
    expected = []
    for resource, keyed in by_resource(batch, [named_values(attempt) for attempt in batch]):
        counter = Metric(name="otel_connect.attempts", unit="{attempt}", description="TCP connect attempts that ended.")
        counter.sum.is_monotonic, counter.sum.aggregation_temporality = True, AggregationTemporality.Value(enum)
        for key, count in Counter(keyed).items():
            pairs = {name: value for name, value in zip(NAMES, key, strict=True) if value is not None}
            counter.sum.data_points.add(as_int=count, attributes=key_values(pairs.items()), **times)
        expected.append((resource, counter))
    of_workloads = resources(metrics)[1:]
    assert [(each.resource, each.scope_metrics[0].metrics[0]) for each in of_workloads] == expected
    for each in of_workloads:
        scoped = ScopeMetrics(scope=SCOPE, metrics=each.scope_metrics[0].metrics, schema_url=SCHEMA_URL)
        assert each == ResourceMetrics(resource=each.resource, scope_metrics=[scoped], schema_url=SCHEMA_URL)
        for histogram in each.scope_metrics[0].metrics[1:]:
            kind = "exponential_histogram" if exponential else "histogram"
            assert (histogram.name, histogram.unit) == ("otel_connect.attempt.duration", "s")
            assert histogram.description == "Time from the start of a TCP connect attempt to its end."
            assert histogram.WhichOneof("data") == kind
            assert getattr(histogram, kind).aggregation_temporality == AggregationTemporality.Value(enum)
            known = [point.attributes for point in points_of(each.scope_metrics[0].metrics[0])]
            for point in points_of(histogram):
                assert point.attributes in known
                assert (point.start_time_unix_nano, point.time_unix_nano) == tuple(times.values())


# --- the bound on attribute sets


def peer(number: int, workload: int = 0) -> Attempt:
    return make_attempt(
        peer_address=f"10.0.{number // 250}.{number % 250}",
        executable_name=f"p{number % 30}",
        service_name=f"w{workload}",
    )


def test_past_the_limit_addresses_then_names_become_other() -> None:
    sets = AttributeSets(Limits(sets_of_workload=100))
    found = [sets.find(metric_key(peer(number)), NOW) for number in range(200)]
    folded = [
        attributes_of(NumberDataPoint.FromString(b"".join(b"\x3a" + one for one in series.fragments)))
        for series in found
        if series.overflowed
    ]
    assert len(found) - len(folded) == 80
    assert all(attributes["server.address"] == "_other" for attributes in folded)
    assert len({attributes["process.executable.name"] for attributes in folded}) == 11  # ten, and _other
    coarse = [a for a in folded if a["process.executable.name"] == "_other"]
    assert all("server.port" not in attributes for attributes in coarse)
    # What was let in stays in.
    assert [sets.find(metric_key(peer(number)), NOW) for number in range(200)] == found


@given(st.lists(attempts, max_size=60), st.integers(0, 40))
def test_totals_are_exact_under_any_limit(batch: list[Attempt], limit: int) -> None:
    metrics = make_metrics(limits=Limits(limit, limit * 2, 3))
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
    assert len(exact) <= limit * 2


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
    metrics = make_metrics({TEMPORALITY: "delta"}, Limits(sets_of_workload=10))
    for start in (0, 8):
        metrics.record([peer(number) for number in range(start, start + 8)])
        found = collect(metrics)
        assert len(points_of(found["otel_connect.attempts"])) == 8
        assert metrics.overflowed == 0


def test_each_workload_has_its_own_attempts_and_the_agent_none() -> None:
    metrics = make_metrics()
    metrics.record([make_attempt(service_name=name) for name in ("shop", "cart", "shop")])
    found = by_service(metrics)
    assert list(found) == ["otel-connect", "shop", "cart"]
    agent = found.pop("otel-connect")
    assert not {"otel_connect.attempts", "otel_connect.attempt.duration"} & agent.keys()
    for name, count in (("shop", 2), ("cart", 1)):
        assert found[name].keys() == {"otel_connect.attempts", "otel_connect.attempt.duration"}
        assert total(found[name]["otel_connect.attempts"]) == count
        assert [point.count for point in points_of(found[name]["otel_connect.attempt.duration"])] == [count]


def test_a_server_is_known_by_its_name_and_by_what_the_operator_calls_it() -> None:
    metrics = make_metrics()
    names = {"server": ServerName("db.example", "dns", "process"), "service_peer_name": "database"}
    metrics.record([make_attempt(peer_address=address, **names) for address in ("10.0.0.1", "10.0.0.2")])
    (point,) = points_of(collect(metrics)["otel_connect.attempts"])
    assert point.as_int == 2
    assert {"server.address": "db.example", "service.peer.name": "database"}.items() <= attributes_of(point).items()


@pytest.mark.parametrize(("asked", "told"), [(None, 8443), (443, 443)])
def test_a_name_goes_with_the_port_that_the_record_has(asked: int | None, told: int) -> None:
    metrics = make_metrics()
    attempt = make_attempt(peer_port=8443, server=ServerName("db.example", "dns", "process", asked))
    metrics.record([attempt])
    (point,) = points_of(collect(metrics)["otel_connect.attempts"])
    assert attributes_of(point)["server.port"] == dict(attempt_attributes(attempt))["server.port"] == told


@pytest.mark.parametrize(("comm", "shown"), [("forks", "forks"), ("", "_other"), ("_other", "_other")])
def test_tallies_that_do_not_tell_processes_apart_are_of_another_workload(comm: str, shown: str) -> None:
    """They keep the kernel's name for the program, unless there were too many of those, too."""
    metrics = make_metrics()
    attempt = make_attempt()
    alike = Tallied(attempt.event._replace(comm=comm), attempt.verdict, None, Detail.WITHOUT_PROCESS, 7, None)
    metrics.record_tallied([alike, alike._replace(named=attempt.named, detail=Detail.WITHOUT_PEER)])
    found = by_service(metrics)
    assert total(found["_other"]["otel_connect.attempts"]) == total(found["shop"]["otel_connect.attempts"]) == 7
    assert metrics.overflowed == 14
    (other,), (known,) = (points_of(found[name]["otel_connect.attempts"]) for name in ("_other", "shop"))
    assert attributes_of(other)["server.address"] == "_other"
    assert attributes_of(other)["process.executable.name"] == shown
    assert attributes_of(known)["process.executable.name"] == "curl"
    assert metric_key(alike).workload.service_name == "_other"


def test_all_workloads_together_stay_below_a_limit() -> None:
    metrics = make_metrics()
    metrics.record([peer(number, workload=number % 50) for number in range(60_000)])
    found = {
        name: each["otel_connect.attempts"] for name, each in by_service(metrics).items() if name != "otel-connect"
    }
    sizes = {name: len(points_of(metric)) for name, metric in found.items()}
    assert 8000 < sum(sizes.values()) <= 10_000
    assert all(size <= 1000 for size in sizes.values())
    assert sum(map(total, found.values())) == 60_000


def test_workloads_beyond_a_number_are_one() -> None:
    metrics = make_metrics()
    metrics.record([peer(number % 7, workload=number % 2500) for number in range(10_000)])
    found = by_service(metrics)
    assert len(found) == 1002  # with that of the agent, and _other
    assert sum(total(each.get("otel_connect.attempts")) for each in found.values()) == 10_000
    assert metrics.overflowed == total(found["_other"]["otel_connect.attempts"]) == 6000


def only_point(metrics: AttemptMetrics, name: str = "otel_connect.attempts") -> Any:
    (point,) = points_of(collect(metrics)[name])
    return point


def test_idle_sets_expire_and_begin_anew() -> None:
    metrics, clocks = with_clocks()
    metrics.expire_s = 100
    metrics.record([make_attempt(), make_attempt()])
    first = only_point(metrics)
    clocks.move(99)
    metrics.record([make_attempt(peer_address="10.1.2.81")])
    assert [point.as_int for point in points_of(collect(metrics)["otel_connect.attempts"])] == [2, 1]
    clocks.move(2)
    assert len(points_of(collect(metrics)["otel_connect.attempts"])) == 2  # said for the last time
    assert only_point(metrics).as_int == 1
    clocks.move(2)
    metrics.record([make_attempt()])
    _, again = points_of(collect(metrics)["otel_connect.attempts"])
    assert (again.as_int, again.start_time_unix_nano) == (1, START_NS + 103 * SECOND)
    assert again.attributes == first.attributes
    assert first.start_time_unix_nano == START_NS


def test_a_set_is_reported_before_it_expires() -> None:
    metrics, clocks = with_clocks()
    metrics.expire_s = 100
    metrics.record([make_attempt()])
    clocks.move(1000)
    assert only_point(metrics).as_int == only_point(metrics).as_int == 1


def test_expired_workloads_make_room_for_others() -> None:
    metrics, clocks = with_clocks()
    metrics.record([peer(1, workload=number) for number in range(1500)])
    assert len(resources(metrics)) == 1002
    clocks.move(4000)
    assert len(resources(metrics)) == 1002
    metrics.record([peer(1, workload=number) for number in range(1400, 1500)])
    found = by_service(metrics)
    assert len(found) == 101
    assert "_other" not in found


@pytest.mark.parametrize("day", [86_400, -86_400])
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_starts_of_attempts_follow_a_clock_that_was_set(day: int, temporality: str) -> None:
    metrics, clocks = with_clocks({TEMPORALITY: temporality})
    for moved in (0, day, 0):
        clocks.unix_ns += moved * SECOND
        metrics.record([make_attempt()])
        before = clocks.unix_ns
        clocks.move(10)
        found = collect(metrics)
        for name in ("otel_connect.attempts", "otel_connect.attempt.duration"):
            (point,) = points_of(found[name])
            age = 10 if temporality == "delta" else (clocks.monotonic_ns - 5 * SECOND) // SECOND
            assert point.time_unix_nano == clocks.unix_ns == before + 10 * SECOND
            assert point.time_unix_nano - point.start_time_unix_nano == age * SECOND


def test_the_start_of_a_cumulative_sum_stays_while_clocks_drift() -> None:
    metrics, clocks = with_clocks()
    metrics.record([make_attempt()])
    starts = set()
    for _ in range(5):
        clocks.move(60)
        clocks.unix_ns += 1000
        starts.add(only_point(metrics).start_time_unix_nano)
    assert starts == {START_NS}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 80)), max_size=40), st.sampled_from(["", "delta"]))
@settings(deadline=None)
def test_what_was_sent_of_each_set_since_each_start_adds_up(steps: list[tuple[int, int]], temporality: str) -> None:
    metrics, clocks = with_clocks({TEMPORALITY: temporality})
    metrics.expire_s = 100
    last: dict[tuple[bytes, int], int] = {}
    for number, seconds in [*steps, (0, 0)]:
        metrics.record([peer(number, workload=number % 2)])
        clocks.move(seconds)
        for of_resource in resources(metrics)[1:]:
            for point in of_resource.scope_metrics[0].metrics[0].sum.data_points:
                identity = of_resource.resource.SerializeToString() + str(attributes_of(point)).encode()
                key = identity, point.start_time_unix_nano
                last[key] = point.as_int + (last.get(key, 0) if temporality else 0)
        clocks.move(1)
    assert sum(last.values()) == len(steps) + 1
