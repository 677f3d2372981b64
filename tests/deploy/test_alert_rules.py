"""The alerts of examples/alerts: promtool accepts each; it fires in one case, is quiet in another, has a runbook."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_connect.encode.durations import DURATION_BOUNDARIES
from tests.support.prometheus import ROOT, RULES, prometheus_programs
from tools.scale_rules import scaled

CASES = sorted((Path(__file__).parent / "alerts").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "alerts.md"
SIGNALS = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")


def alerts(text: str = RULES.read_text(encoding="utf-8")) -> dict[str, dict[str, Any]]:
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


ALERTS = alerts()


def promtool(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [str(prometheus_programs() / "promtool"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def cases_of(files: list[Path]) -> dict[str, dict[bool, int]]:
    """Count the cases of each alert: in how many it fires, in how many it never does."""
    counted: dict[str, dict[bool, int]] = defaultdict(lambda: defaultdict(int))
    for file in files:
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            fires: dict[str, bool] = defaultdict(bool)
            for expected in test.get("alert_rule_test", ()):
                fires[expected["alertname"]] |= bool(expected["exp_alerts"])
            for name, once in fires.items():
                counted[name][once] += 1
    return counted


@pytest.mark.parametrize("written", ["{:g}", "{}"], ids=["Prometheus 2", "Prometheus 3"])
def test_every_bucket_that_a_rule_names_is_one_of_the_histogram(written: str) -> None:
    buckets = list(map(written.format, DURATION_BOUNDARIES))
    named = re.findall(r'", le(=~?)"([^"]+)"}', RULES.read_text(encoding="utf-8"))
    assert named
    for operator, value in named:
        pattern = value if operator == "=~" else re.escape(value)
        assert len([bucket for bucket in buckets if re.fullmatch(pattern, bucket)]) == 1, value


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    for kind, name in (("rules", "otel-connect.rules.yml"), ("config", "prometheus.yml")):
        checked = promtool("check", kind, f"examples/alerts/{name}")
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("file", CASES, ids=[file.stem for file in CASES])
def test_every_case_comes_out_as_written(file: Path) -> None:
    tested = promtool("test", "rules", file.name, folder=file.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_it_has_a_case_in_which_it_fires_and_one_in_which_it_is_near_but_quiet(name: str) -> None:
    own = cases_of(CASES)[name]
    assert own[True], "no case in which it fires"
    assert own[False], "no case of its own in which it is quiet"


def test_of_restarts_and_superseded_attempts_no_alert_at_all_may_come() -> None:
    [quiet] = [file for file in CASES if file.stem == "quiet"]
    tests = yaml.safe_load(quiet.read_text(encoding="utf-8"))["tests"]
    assert len(tests) >= 3
    for test in tests:
        asked = {(expected["expr"], tuple(expected["exp_samples"])) for expected in test["promql_expr_test"]}
        assert asked == {('ALERTS{alertstate="firing"}', ())}, test["name"]


@pytest.mark.parametrize("name", ALERTS)
def test_it_says_how_bad_it_is_and_where_its_runbook_is(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
    assert "runbook_url" not in rule["annotations"], "what is shown as a link has to open"
    runbook = re.split(r"^#+ ", RUNBOOKS.read_text(encoding="utf-8").split(f"### {name}\n", 1)[1], flags=re.MULTILINE)[
        0
    ]
    assert len(runbook.split()) > 40, "a runbook says what it means, what to look at and what to do"


def test_the_documented_line_makes_every_runbook_a_whole_address(tmp_path: Path) -> None:
    [line] = re.findall(r"^\$ (sed -i .*)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    [page] = re.findall(r"(https://[^#|]+)#", line)
    shutil.copy(RULES, tmp_path)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    text = (tmp_path / RULES.name).read_text(encoding="utf-8")
    assert {name: rule["annotations"]["runbook_url"] for name, rule in alerts(text).items()} == {
        name: f"{page}#{name.lower()}" for name in ALERTS
    }
    assert text.replace(f"runbook_url: {page}#", "runbook: docs/alerts.md#") == RULES.read_text(encoding="utf-8")
    checked = promtool("check", "rules", RULES.name, folder=tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    assert re.findall(r"^### (OtelConnect\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE) == list(ALERTS)


def test_rules_use_only_names_that_the_agent_has() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    expressions = "\n".join(rule["expr"] for rule in rules)
    names = set(
        re.findall(r"(?<![:\w])otel_connect_\w+_(?:total|bucket|count|bytes|seconds|healthy|degraded)\b", expressions)
    )
    assert len(names) > 8
    documented = SIGNALS + SIGNALS.replace("_bucket`", "_count`")
    assert not {name for name in names if f"`{name}`" not in documented}


def test_scaled_rules_differ_in_their_times_only() -> None:
    text = RULES.read_text(encoding="utf-8")
    fast = scaled(text, 60)
    assert set(re.findall(r"\[(\w+)\]", fast)) == {
        "5000ms",
        "10000ms",
        "15000ms",
        "30000ms",
        "60000ms",
        "360000ms",
        "1440000ms",
    }
    assert {str(rule.get("for")) for rule in alerts(fast).values()} == {
        "None",
        "2000ms",
        "4000ms",
        "5000ms",
        "10000ms",
        "15000ms",
    }
    assert "offset 60000ms" in fast
    times = r"\b\d+(ms|s|m|h|d)\b"
    words = [re.sub(times, "T", line) if re.search(r"\[|offset|for:", line) else line for line in text.splitlines()]
    fast_words = [
        re.sub(times, "T", line) if re.search(r"\[|offset|for:", line) else line for line in fast.splitlines()
    ]
    assert fast_words == words
    assert scaled("scrape_interval: 15s\n", 60) == "scrape_interval: 250ms\n"
