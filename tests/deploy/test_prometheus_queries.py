"""Every query of the dashboards and of docs/backends/prometheus.md, on a real Prometheus that a real agent has filled.

Each must find something: a panel that stays empty and a series that is not known fail alike.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family, Target
from tests.support.collector import Collector, await_until
from tests.support.peer import Answer, Behaviour
from tests.support.prometheus import Monitoring, as_grafana_sends
from tests.support.queries import Query, queries

pytestmark = [pytest.mark.captures, pytest.mark.timeout(1200)]  # the first use of the collector builds it

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "collector-config" / "prometheus.yaml"
FASTER = 60
"""A scrape in a quarter of a second; the queries stay as they are."""
NOBODY = "http://127.0.0.1:9/"


class Filled(NamedTuple):
    """The Prometheus, and where the attempts of curl went, which the page calls 10.1.2.80:5432."""

    monitoring: Monitoring
    refusing: Target

    def real(self, query: str) -> str:
        """Return a query of the page with the place that exists here."""
        return query.replace("10.1.2.80", self.refusing.address).replace("5432", str(self.refusing.port))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("prometheus")
    settings = folder / "otel-connect.toml"
    settings.write_text("[encode]\nspan_successes_per_second = 0\n")  # so that something is left out
    with Collector(folder / "collector", config=EXAMPLE) as collector, Bench() as bench:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "250",
        }
        monitoring = Monitoring(
            folder / "monitoring", page_url=collector.prometheus_url, webhook_url=NOBODY, factor=FASTER
        )
        refusing = bench.scripted(Family.IPV4, Behaviour(Answer.REFUSE, delay=0.02))
        silent = bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        plans = [
            ("curl", refusing, 0),
            ("python", silent, 0),
            ("python", silent, 200),
            ("python", bench.listener(Family.IPV4), 0),
            ("perl", bench.error_route(Family.IPV4, "prohibit"), 0),
        ]
        with RunningAgent("--config", str(settings), environment=environment), monitoring:
            for least in (1, 2):  # what has increased has to be seen before and after
                bench.run_together(plans, attempts=1)
                collector.await_until(partial(_seen, monitoring, least), 30)
            yield Filled(monitoring, refusing)


def _seen(monitoring: Monitoring, least: int) -> bool:
    """Say whether so many attempts of each of these kinds have been scraped."""
    outcomes = ("refused", "timed_out", "abandoned", "established", "denied")
    counts = [monitoring.query(f"max(otel_connect_attempts_total{{otel_connect_outcome='{one}'}})") for one in outcomes]
    return all(count and count[0][1] >= least for count in counts)


def _panels() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "examples" / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}: {target['refId']}", target["expr"]


@pytest.mark.parametrize("query", [query for _, query in _panels()], ids=[name for name, _ in _panels()])
def test_no_panel_is_empty(query: str, filled: Filled) -> None:
    query = as_grafana_sends(query, "1m")
    assert "$" not in query
    await_until(lambda: filled.monitoring.query(query), 20)


@pytest.mark.parametrize("query", queries("prometheus"), ids=lambda query: f"question-{query.question}")
def test_no_answer_is_empty(query: Query, filled: Filled) -> None:
    text = filled.real(query.text)
    await_until(lambda: filled.monitoring.query(text), 20)
