"""Seen in Jaeger: real programs → agent → collector → a real Jaeger, asked by its query API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family, Target
from tests.support.collector import Collector
from tests.support.jaeger import Found, Jaeger
from tests.support.peer import Answer, Behaviour

pytestmark = [pytest.mark.captures, pytest.mark.timeout(1500)]  # the first use of Jaeger and the collector builds them

EXAMPLE = Path(__file__).parents[2] / "examples" / "collector-config" / "jaeger.yaml"
# The log records, too, so that the spans can be held against them.
WITH_LOGS = """
exporters: {file: {path: "${env:COLLECTOR_FILE}"}}
service: {pipelines: {logs: {receivers: [otlp], exporters: [file]}}}
"""
ATTEMPTS = 3
OUTCOMES = {"curl": "refused", "python": "timed_out", "perl": "established"}


class Seen(NamedTuple):
    """What Jaeger has of each program, and the log records of these attempts."""

    jaeger: Jaeger
    spans: dict[str, list[Found]]
    logs: dict[str, list[dict[str, Any]]]


def target(bench: Bench, outcome: str) -> Target:
    if outcome == "refused":
        return bench.closed(Family.IPV4)
    if outcome == "timed_out":
        return bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
    return bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT, delay=0.02))


def make_attempts(bench: Bench) -> dict[str, int]:
    """Let each program make its attempts; returns the pids."""
    plans = [(program, target(bench, outcome), 0) for program, outcome in OUTCOMES.items()]
    runs = bench.run_together(plans, attempts=ATTEMPTS)
    return {program: run.pid for program, run in zip(OUTCOMES, runs, strict=True)}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("jaeger")
    with Jaeger(folder) as jaeger:
        variables = {"JAEGER_OTLP": jaeger.otlp}
        collector = Collector(folder / "collector", config=EXAMPLE, overrides=[WITH_LOGS], environment=variables)
        with collector, Bench() as bench:
            agent = RunningAgent(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint})
            with agent:
                pids = make_attempts(bench)

                def records(program: str) -> list[dict[str, Any]]:
                    return [r for r in collector.log_records() if r["attributes"].get("process.pid") == pids[program]]

                collector.await_until(lambda: all(len(records(program)) == ATTEMPTS for program in pids), 30)
            logs = {program: records(program) for program in pids}

            def spans(program: str) -> list[Found]:
                service = logs[program][0]["resource"]["service.name"]
                return jaeger.traces(service, tags={"process.pid": str(pids[program])})

            jaeger.await_until(lambda: all(len(spans(program)) == ATTEMPTS for program in pids))
            yield Seen(jaeger, {program: spans(program) for program in pids}, logs)


def test_each_program_is_a_service(seen: Seen) -> None:
    services = {program: {span.service for span in spans} for program, spans in seen.spans.items()}
    for program, names in services.items():
        path = seen.logs[program][0]["attributes"]["process.executable.path"]
        assert names == {f"unknown_service:{Path(path).name}"}
    assert seen.jaeger.services() >= {name for names in services.values() for name in names}


@pytest.mark.parametrize("program", OUTCOMES)
def test_spans_are_those_of_the_log_records(program: str, seen: Seen) -> None:
    logs = {(record["traceId"], record["spanId"]): record for record in seen.logs[program]}
    assert len(logs) == ATTEMPTS
    for span in seen.spans[program]:
        log = logs.pop((span.trace_id.rjust(32, "0"), span.span_id.rjust(16, "0")))
        assert span.operation == "tcp connect"
        assert span.tags["otel_connect.event.id"] == log["attributes"]["otel_connect.event.id"]
        assert abs(span.start_us - log["timeUnixNano"] / 1000) <= 1000
        assert abs(span.duration_us - log["attributes"]["otel_connect.duration"] * 1e6) <= 1000


@pytest.mark.parametrize("program", OUTCOMES)
def test_errors_can_be_asked_for(program: str, seen: Seen) -> None:
    error_types = {"refused": "connection_refused", "timed_out": "timed_out", "established": None}
    failed = error_types[OUTCOMES[program]]
    for span in seen.spans[program]:
        assert span.tags.get("error.type") == failed
        assert span.tags.get("error", False) is (failed is not None)
    service = seen.spans[program][0].service
    ours = {span.span_id for span in seen.spans[program]}
    found = {span.span_id for span in seen.jaeger.traces(service, tags={"error.type": failed or "connection_refused"})}
    assert ours <= found if failed else not ours & found
