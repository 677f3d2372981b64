"""The dashboards are what their source says, about metrics that exist, with pictures of what they are today."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import dashboards

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


@pytest.mark.parametrize("dashboard", dashboards.DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_its_picture_is_of_what_it_is_today(dashboard: dashboards.Dashboard) -> None:
    picture = (ROOT / "docs" / "dashboards" / f"{dashboard.name}.svg").read_text(encoding="utf-8")
    assert f"<dc:identifier>{dashboards.fingerprint(dashboard)}</dc:identifier>" in picture, "make pictures"


@pytest.mark.parametrize(
    "change",
    [{"title": "Other"}, {"unit": "s"}, {"curves": {"{{job}}": "up"}}, {"help": "Other."}, {"kind": "bargauge"}],
    ids=lambda change: next(iter(change)),
)
def test_any_change_of_a_panel_makes_a_picture_stale(change: dict[str, Any]) -> None:
    today = dashboards.DESTINATIONS
    first, *others = today.panels
    tomorrow = today._replace(panels=(first._replace(**change), *others))
    assert dashboards.fingerprint(tomorrow) != dashboards.fingerprint(today)


@pytest.mark.parametrize("dashboard", dashboards.DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_the_page_shows_it_and_tells_of_panels_that_it_has(dashboard: dashboards.Dashboard) -> None:
    page = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    _, below = page.split(f"](dashboards/{dashboard.name}.svg)\n")
    header, _, *told = re.findall(r"^\| (.+?) \|", below.split("\n## ")[0], re.MULTILINE)
    assert header == "panel"
    assert told
    assert set(told) <= {panel.title for panel in dashboard.panels}
