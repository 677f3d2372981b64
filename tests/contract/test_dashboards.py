"""The dashboards: what is in the repository is what their source says, about metrics that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "examples" / "grafana").glob("*.json"))


def test_they_are_what_the_source_writes() -> None:
    answer = subprocess.run(
        [sys.executable, ROOT / "tools" / "dashboards.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert len(DASHBOARDS) == 3


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_they_ask_for_metrics_that_are_documented(path: Path) -> None:
    documented = set(re.findall(r"`(otel_connect_\w+)`", (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")))
    labels = {"otel_connect_outcome", "otel_connect_signal", "otel_connect_reason", "otel_connect_map"}
    queries = [target["expr"] for panel in json.loads(path.read_text())["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"otel_connect_\w+", query)} - labels
    assert queries
    assert asked <= documented


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_a_title_an_explanation_and_a_place_of_their_own(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert all(panel["title"] and panel["description"] for panel in panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
