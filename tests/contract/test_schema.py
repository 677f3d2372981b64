"""The schema file in docs/schema has the names that the agent sends, as docs/signals.md has them, and forgets none."""

import re
from pathlib import Path
from typing import Any

import yaml

from otel_connect import __version__
from otel_connect.encode.attributes import SCHEMA_URL
from tests.contract.test_telemetry_names import emitted_metrics, instrument, table

FOLDER = Path(__file__).parents[2] / "docs" / "schema"
GROUPS: dict[str, dict[str, Any]] = {
    group["id"]: group for group in yaml.safe_load((FOLDER / "otel_connect.yaml").read_text(encoding="utf-8"))["groups"]
}
ATTRIBUTES = {one["id"]: one for one in GROUPS["registry.otel_connect"]["attributes"]}
TABLES = ("Attributes of an attempt", "Attributes of metrics", "Attributes of agent events")


def of_type(kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Return the groups of a kind by the name that is sent, without those that are no longer."""
    return {one[name]: one for one in GROUPS.values() if one["type"] == kind and "deprecated" not in one}


def refs(group: dict[str, Any]) -> set[str]:
    own = group.get("attributes", []) + (GROUPS[group["extends"]]["attributes"] if "extends" in group else [])
    return {one["ref"] for one in own}


def test_attributes() -> None:
    documented = {
        name: row["type"].removesuffix(", s")
        for heading in TABLES
        for name, row in table(heading).items()
        if row["mark"] == "own"
    }
    types = {
        name: "string" if isinstance(one["type"], dict) else one["type"]
        for name, one in ATTRIBUTES.items()
        if "deprecated" not in one
    }
    assert types == documented


def test_values_of_enumerations() -> None:
    members = {
        name: {member["value"] for member in one["type"]["members"]}
        for name, one in ATTRIBUTES.items()
        if isinstance(one["type"], dict)
    }
    assert members.pop("otel_connect.outcome") == table("Outcomes").keys()
    said = table("Attributes of an attempt") | table("Attributes of agent events")
    for name, values in members.items():
        text = " ".join(f"`{cell}`" for cell in said[name].values())  # the outer ones are taken off by ``table``
        assert [value for value in values if f"`{value}`" not in text] == [], name


def test_metrics() -> None:
    described = of_type("metric", "metric_name")
    emitted = emitted_metrics()
    assert described.keys() == emitted.keys()
    for name, metric in emitted.items():
        points = getattr(metric, str(metric.WhichOneof("data"))).data_points
        assert described[name]["instrument"] == instrument(metric), name
        assert (described[name]["unit"], described[name]["brief"]) == (metric.unit, metric.description)
        assert refs(described[name]) == {attribute.key for point in points for attribute in point.attributes}, name


def test_events_and_the_span() -> None:
    events = of_type("event", "name")
    documented = {name: row["attributes"] for name, row in table("Agent events").items()}
    attempt = table("Attributes of an attempt").keys()
    assert refs(events.pop("otel_connect.attempt")) == refs(GROUPS["span.otel_connect.attempt"]) == attempt
    assert {name: refs(event) for name, event in events.items()} == {
        name: set(re.findall(r"[a-z_]+\.[a-z_.]+", text)) for name, text in documented.items()
    }


def test_a_name_is_not_the_beginning_of_another() -> None:
    """What stores attributes as objects has no room for both."""
    names = sorted(ATTRIBUTES)
    assert [(one, other) for one in names for other in names if other.startswith(f"{one}.")] == []


def test_what_was_renamed_leads_to_a_name_that_is_sent() -> None:
    metrics = of_type("metric", "metric_name")
    for one in (*ATTRIBUTES.values(), *GROUPS.values()):
        if one.get("deprecated", {}).get("reason") == "renamed":
            new = one["deprecated"]["renamed_to"]
            assert new in metrics or "deprecated" not in ATTRIBUTES[new]


def test_versions() -> None:
    manifest = yaml.safe_load((FOLDER / "manifest.yaml").read_text(encoding="utf-8"))
    (conventions,) = manifest["dependencies"]
    assert manifest["schema_url"].endswith(f"/{__version__}")
    assert conventions["schema_url"] == SCHEMA_URL
    assert f"@v{SCHEMA_URL.rpartition('/')[2]}[" in conventions["registry_path"]
