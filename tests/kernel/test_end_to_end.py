"""Kernel → agent → a real collector: real programs of several runtimes make attempts of every outcome.

What must arrive is known from the programs: how many attempts each made, its pid and executable, to where,
and what it was told. The collector's own file and Prometheus page are read back.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family, Run, Target
from tests.support.collector import Collector
from tests.support.peer import Answer, Behaviour
from tests.support.runtimes import Runtime, available

pytestmark = pytest.mark.captures(shared=True)

ATTEMPTS = 13
"""Of every outcome, spread over the runtimes: a prime, so that nothing doubled or halved can add up to it."""

PER_ATTEMPT = "otel_connect_attempts_total"
DURATION_COUNT = "otel_connect_attempt_duration_seconds_count"


class Kind(NamedTuple):
    """One outcome, and where to go for it."""

    outcome: str
    errno_name: str | None
    error_type: str | None
    target: Callable[[Bench], Target]
    timeout_ms: int = 0
    seconds: tuple[float, float] = (0, 1)
    """Between which the duration must lie."""


def scripted(answer: Answer) -> Callable[[Bench], Target]:
    return lambda bench: bench.scripted(Family.IPV4, Behaviour(answer, delay=0.02))


KINDS = (
    Kind("established", None, None, scripted(Answer.ACCEPT), seconds=(0.02, 1)),
    Kind("refused", "ECONNREFUSED", "connection_refused", scripted(Answer.REFUSE), seconds=(0.02, 1)),
    Kind("reset", "ECONNRESET", "connection_reset", scripted(Answer.RESET), seconds=(0.02, 1)),
    Kind("timed_out", "ETIMEDOUT", "timed_out", scripted(Answer.SILENT), seconds=(2.5, 6)),
    Kind("unreachable", "EHOSTUNREACH", "host_unreachable", scripted(Answer.HOST_UNREACHABLE), seconds=(0.02, 1)),
    Kind("denied", "EACCES", "access_denied", lambda bench: bench.error_route(Family.IPV4, "prohibit")),
    Kind("local_error", "EINVAL", "invalid_argument", lambda bench: bench.error_route(Family.IPV4, "blackhole")),
    Kind("abandoned", None, "canceled", scripted(Answer.SILENT), timeout_ms=200, seconds=(0.15, 2.5)),
)


class Made(NamedTuple):
    """One program that ran."""

    kind: Kind
    runtime: Runtime
    attempts: int
    run: Run


class Arrived(NamedTuple):
    """What the collector has, in plain values."""

    made: list[Made]
    logs: list[dict[str, Any]]
    spans: list[dict[str, Any]]
    all_logs: list[dict[str, Any]]
    """Also those of other programs."""
    attempts_total: dict[str, float]
    durations: dict[str, float]
    by_job: dict[tuple[str, str, str], float]
    """Attempts by job, instance and outcome."""
    agent_errors: list[str]


def make_attempts(bench: Bench) -> list[Made]:
    """Let every runtime make its share of every outcome, many at a time, since most only wait."""
    runtimes = available()
    plans = [
        (kind, kind.target(bench), runtime, len(range(index, ATTEMPTS, len(runtimes))))
        for kind in KINDS
        for index, runtime in enumerate(runtimes)
    ]
    with ThreadPoolExecutor(16) as pool:
        runs = pool.map(
            lambda plan: bench.run_runtime(plan[2], plan[1], attempts=plan[3], timeout_ms=plan[0].timeout_ms), plans
        )
        return [Made(kind, runtime, count, run) for (kind, _, runtime, count), run in zip(plans, runs, strict=True)]


def by_outcome(collector: Collector, name: str) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for sample in collector.prometheus_samples():
        if sample.name == name:
            totals[sample.labels["otel_connect_outcome"]] += sample.value
    return dict(totals)


def by_job(collector: Collector) -> dict[tuple[str, str, str], float]:
    totals: dict[tuple[str, str, str], float] = defaultdict(float)
    for sample in collector.prometheus_samples():
        if sample.name == PER_ATTEMPT:
            totals[sample.labels["job"], sample.labels["instance"], sample.labels["otel_connect_outcome"]] += (
                sample.value
            )
    return dict(totals)


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"])
def arrived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrived]:
    folder: Path = tmp_path_factory.mktemp("end_to_end")
    settings = folder / "otel-connect.toml"
    # Whatever else happens on this machine: every attempt has its record, and its span.
    settings.write_text("[capture]\nprocess_rate = 0\ncgroup_rate = 0\n[encode]\nspan_successes_per_second = 100000\n")
    with Collector(folder / "collector") as collector, Bench() as bench:
        endpoint = collector.grpc_endpoint if request.param == "grpc" else collector.http_endpoint
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": request.param,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }
        with RunningAgent("--config", str(settings), environment=environment) as agent:
            made = make_attempts(bench)
            pids = {one.run.pid for one in made}

            def ours(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
                return [record for record in records if record["attributes"].get("process.pid") in pids]

            collector.await_until(lambda: len(ours(collector.log_records())) >= ATTEMPTS * len(KINDS), 30)
            assert agent.stop() == 0
        logs = [record for record in collector.log_records() if record["eventName"] == "otel_connect.attempt"]
        seen = Counter(record["attributes"]["otel_connect.outcome"] for record in logs)
        collector.await_until(lambda: by_outcome(collector, PER_ATTEMPT) == seen, 10)
        yield Arrived(
            made,
            ours(logs),
            ours(collector.spans()),
            logs,
            by_outcome(collector, PER_ATTEMPT),
            by_outcome(collector, DURATION_COUNT),
            by_job(collector),
            agent.errors,
        )


@pytest.mark.parametrize("kind", KINDS, ids=[kind.outcome for kind in KINDS])
def test_every_attempt_is_one_log_record_with_the_right_facts(kind: Kind, arrived: Arrived) -> None:
    records = {
        one.run.pid: [r for r in arrived.logs if r["attributes"]["process.pid"] == one.run.pid]
        for one in arrived.made
        if one.kind is kind
    }
    assert sum(map(len, records.values())) == ATTEMPTS
    for made in arrived.made:
        if made.kind is not kind:
            continue
        assert len(records[made.run.pid]) == made.attempts, made.runtime.name
        for record in records[made.run.pid]:
            facts = record["attributes"]
            assert record["eventName"] == "otel_connect.attempt"
            assert facts["otel_connect.outcome"] == kind.outcome, made.runtime.name
            assert facts.get("otel_connect.errno.name") == kind.errno_name
            assert facts.get("error.type") == kind.error_type
            assert facts["network.peer.address"] == made.run.target.address
            assert facts["network.peer.port"] == made.run.target.port
            path = made.runtime.executable_path
            assert facts["process.executable.name"] == Path(path).name
            assert facts["process.executable.path"] == path
            assert facts["process.owner"] == "root"
            assert kind.seconds[0] <= facts["otel_connect.duration"] <= kind.seconds[1], made.runtime.name
            assert record["severityText"] == ("INFO" if kind.outcome == "established" else "WARN")


def test_the_programs_themselves_report_the_same(arrived: Arrived) -> None:
    said = {"established": "ok", "abandoned": "abandoned"}
    for made in arrived.made:
        assert len(made.run.reports) == made.attempts, made.runtime.name
        result = said.get(made.kind.outcome, "error")
        if made.runtime.name == "curl" and made.kind.outcome == "timed_out":
            result = "abandoned"  # curl has one exit code for the kernel's timeout and its own
        assert {report.result for report in made.run.reports} == {result}
        told = {report.errno_name for report in made.run.reports} - {None}
        assert told <= {made.kind.errno_name}, made.runtime.name
    assert len({made.runtime.name for made in arrived.made}) >= 4


def test_every_attempt_is_one_span_that_joins_its_log_record(arrived: Arrived) -> None:
    assert len(arrived.spans) == ATTEMPTS * len(KINDS)
    logs = {record["attributes"]["otel_connect.event.id"]: record for record in arrived.logs}
    assert len(logs) == len(arrived.logs)
    for span in arrived.spans:
        log = logs[span["attributes"]["otel_connect.event.id"]]
        assert (span["traceId"], span["spanId"]) == (log["traceId"], log["spanId"])
        assert span["startTimeUnixNano"] == log["timeUnixNano"]
        lasted = (span["endTimeUnixNano"] - span["startTimeUnixNano"]) / 1e9
        assert lasted == pytest.approx(log["attributes"]["otel_connect.duration"], abs=1e-6)
        assert span["attributes"] == log["attributes"]
        failed = log["attributes"]["otel_connect.outcome"] != "established"
        assert (span["status"].get("code") == 2) == failed


def test_the_prometheus_page_has_the_same_totals(arrived: Arrived) -> None:
    for kind in KINDS:
        assert arrived.attempts_total[kind.outcome] >= ATTEMPTS
    ended = {outcome: count for outcome, count in arrived.attempts_total.items() if outcome != "pending"}
    assert arrived.durations == ended


def test_each_program_is_a_service_of_its_own(arrived: Arrived) -> None:
    programs = {one.run.pid: Path(one.runtime.executable_path).name for one in arrived.made}
    for record in (*arrived.logs, *arrived.spans):
        resource = record["resource"]
        assert resource["service.name"] == f"unknown_service:{programs[record['attributes']['process.pid']]}"
        assert resource["telemetry.distro.name"] == "otel-connect"
        assert resource["host.name"]
    instances = {(one["resource"]["service.name"], one["resource"]["service.instance.id"]) for one in arrived.logs}
    assert len(instances) == len({instance for _, instance in instances}) == len(set(programs.values())) >= 4


def test_each_service_has_as_many_attempts_in_the_metrics_as_it_has_records(arrived: Arrived) -> None:
    recorded = Counter(
        (
            record["resource"]["service.name"],
            record["resource"]["service.instance.id"],
            record["attributes"]["otel_connect.outcome"],
        )
        for record in arrived.all_logs
    )
    assert arrived.by_job == recorded


def test_the_ledger_balances(arrived: Arrived) -> None:
    logs, traces = (line for line in arrived.agent_errors if ": seen " in line)
    assert "+ queued 0 + dropped 0" in logs
    # An attempt of another program that goes on at the end has a record and no span.
    pending = int(arrived.attempts_total.get("pending", 0))
    assert f"+ queued 0 + dropped {pending}" in traces
    assert f"(sampled {pending})" in traces or not pending
    assert "unaccounted" not in logs + traces
