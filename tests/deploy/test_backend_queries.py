"""The queries of docs/backends, run on real backends that a real agent has filled.

Each must find what was made for it: an empty answer fails.
"""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family, Target
from tests.support.collector import Collector
from tests.support.jaeger import Jaeger
from tests.support.peer import Answer, Behaviour
from tests.support.queries import Query, preamble, queries, questions
from tests.support.runtimes import PYTHON

pytestmark = [pytest.mark.captures, pytest.mark.timeout(1500)]  # the first use of the backends builds them

EXAMPLE = Path(__file__).parents[2] / "examples" / "collector-config" / "minimal.yaml"
TO_JAEGER = """
exporters: {otlp_grpc/jaeger: {endpoint: "${env:JAEGER_OTLP}", tls: {insecure: true}}}
service: {pipelines: {traces: {exporters: [file, otlp_grpc/jaeger]}}}
"""
ATTEMPTS = 3
PAGES = ("prometheus", "jaeger", "sql", "tempo", "loki")


class Filled(NamedTuple):
    """The backends, and where the attempts of curl went, which the pages call 10.1.2.80:5432."""

    file: Path
    jaeger: Jaeger
    refusing: Target

    def real(self, query: Query) -> str:
        """Return a query with the place that exists here."""
        text = query.text.replace("10.1.2.80", self.refusing.address)
        return text.replace("5432", str(self.refusing.port)).replace("python3.11", Path(PYTHON[0]).name)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("queries")
    with Jaeger(folder) as jaeger:
        collector = Collector(
            folder / "collector", config=EXAMPLE, overrides=[TO_JAEGER], environment={"JAEGER_OTLP": jaeger.otlp}
        )
        with collector, Bench() as bench:
            refusing = bench.scripted(Family.IPV4, Behaviour(Answer.REFUSE, delay=0.02))
            plans = [
                ("curl", refusing, 0),
                ("python", bench.scripted(Family.IPV4, Behaviour(Answer.SILENT)), 0),
                ("python", bench.scripted(Family.IPV4, Behaviour(Answer.ACCEPT, delay=0.02)), 0),
                ("perl", bench.error_route(Family.IPV4, "prohibit"), 0),
            ]
            with RunningAgent(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}):
                pids = {run.pid for run in bench.run_together(plans, attempts=ATTEMPTS)}
                made = ATTEMPTS * len(pids)

                def arrived() -> int:
                    return sum(r["attributes"].get("process.pid") in pids for r in collector.log_records())

                collector.await_until(lambda: arrived() == made, 30)
            yield Filled(collector.file, jaeger, refusing)


@pytest.mark.parametrize("page", PAGES)
def test_each_page_answers_the_ten_questions(page: str) -> None:
    asked = questions("README")
    assert len(asked) == 10
    assert questions(page) == asked


@pytest.mark.parametrize("query", queries("sql"), ids=lambda query: f"question-{query.question}")
def test_sql_finds(query: Query, filled: Filled) -> None:
    view = preamble("sql", "sql-view").replace("otel-connect.jsonl", str(filled.file))
    with duckdb.connect() as database:
        database.execute(view)
        rows: list[Any] = database.execute(
            filled.real(query).replace("otel-connect.jsonl", str(filled.file))
        ).fetchall()
    assert rows
    if query.question == 1:
        [(service, program, error, since, until, attempts)] = rows
        assert (service, program, error, attempts) == ("unknown_service:curl", "curl", "connection_refused", ATTEMPTS)
        assert since < until


@pytest.mark.parametrize("query", queries("jaeger"), ids=lambda query: f"question-{query.question}")
def test_jaeger_finds(query: Query, filled: Filled) -> None:
    path, _, parameters = filled.real(query).partition("?")
    encoded = urllib.parse.urlencode(urllib.parse.parse_qsl(parameters, strict_parsing=True))
    filled.jaeger.await_until(lambda: filled.jaeger.ask(f"{path}?{encoded}"))
