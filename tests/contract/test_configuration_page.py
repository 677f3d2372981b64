"""docs/configuration.md has every key, variable and flag, with its default and its limits, and no other."""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from otel_connect.config import DEFAULT_LISTEN, CaptureConfig, Configuration, SignalConfig
from otel_connect.config.filters import FilterRule
from otel_connect.config.words import keys
from otel_connect.environment import variables
from otel_connect.model import Signal
from otel_connect.running import MADE_AT_START

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
OF_SIGNALS = tuple(f"export.{signal}." for signal in Signal)
ABSENT: Mapping[str, tuple[object, ...]] = {"": (None, {}), "none": ((),)}
"""What stands for no default: nothing, or for a list "none" without quotes."""


class Row(NamedTuple):
    """A row of the page."""

    default: str
    variable: str
    meaning: str


def rows() -> dict[str, Row]:
    """Read the tables of keys, by key."""
    found: dict[str, Row] = {}
    for section in re.split(r"^## `\[", PAGE, flags=re.MULTILINE)[1:]:
        name = section.partition("]")[0]
        for head, body in re.findall(r"^(\| key \|.*)\n\|[-|]+\|\n((?:\|.*\n)+)", section, re.MULTILINE):
            for line in body.splitlines():
                cells = dict(zip(_cells(head), _cells(line), strict=True))
                row = Row(cells["default"], cells.get("variable", ""), cells["meaning"])
                found |= {f"{name}.{key}": row for key in re.findall(r"`(\w+)`", cells["key"])}
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


ROWS = rows()


def field(key: str) -> FieldInfo:
    section, name = key.split(".")
    model: Any = Configuration.model_fields[section].annotation
    found: FieldInfo = model.model_fields[name]
    return found


def default_of(key: str) -> object:
    default = field(key).get_default(call_default_factory=True)
    return default.value if isinstance(default, Enum) else default


def test_every_key_is_on_the_page_and_no_other() -> None:
    assert ROWS.keys() == {key for key in keys(Configuration) if not key.startswith(OF_SIGNALS)}


@pytest.mark.parametrize("key", ROWS)
def test_the_default(key: str) -> None:
    default, said = default_of(key), ROWS[key].default
    if key == "serve.listen":
        assert said == f"`{DEFAULT_LISTEN}`"
    elif said in ABSENT:
        assert default in ABSENT[said]
    else:
        bare = said.strip("`")
        assert bare == (str(default).lower() if isinstance(default, bool | int) else default)


@pytest.mark.parametrize("key", ROWS)
def test_the_limits(key: str) -> None:
    limits: Mapping[type, int] = {type(one): getattr(one, type(one).__name__.lower()) for one in metadata(key)}
    meaning = ROWS[key].meaning
    for low, high in re.findall(r"\b(\d+) to (\d+)\b", meaning):
        if key.endswith(("_ms", "_s")):
            assert (int(low), int(high)) == (limits[Ge], limits[Le])
    for low in re.findall(r"\b(\d+) or more\b", meaning):
        assert int(low) == limits[Ge]
    for high in re.findall(r"up to (\d+)\b", meaning):
        assert int(high) == limits[Le]
    if "a day at the most" in meaning:
        assert limits[Le] == 86_400_000


def metadata(key: str) -> Iterator[Any]:
    yield from (one for one in field(key).metadata if isinstance(one, Ge | Le))


@pytest.mark.parametrize("key", [key for key in ROWS if re.search(r"_(ms|s|bytes)$", key)])
def test_a_unit_is_a_whole_number(key: str) -> None:
    assert field(key).annotation is int


def test_the_variables() -> None:
    named = {key: row.variable for key, row in ROWS.items() if row.variable}
    del named["export.spool_directory"]  # STATE_DIRECTORY, and no variable of ours
    told = {key: name for name, key in variables().items() if not key.startswith(OF_SIGNALS)}
    assert named.keys() == told.keys()
    for key, name in told.items():
        assert name in named[key] or f"…{name.removeprefix('OTEL_EXPORTER_OTLP')}" in named[key]


def test_what_a_signal_overrides() -> None:
    (sentence,) = re.findall(r"`\[export\.traces\]` override (.*?) for one signal", PAGE, re.DOTALL)
    files = {"certificate", "client_certificate", "client_key"}
    assert set(re.findall(r"`(\w+)`", sentence)) == set(SignalConfig.model_fields) - files
    assert "and the files" in " ".join(sentence.split())


def test_what_needs_a_restart() -> None:
    (sentence,) = re.findall(r"again on SIGHUP; (.*?) need a restart", PAGE, re.DOTALL)
    stays = {f"capture.{name}" for name in CaptureConfig.model_fields} - {"capture.drain_interval_ms"}
    assert (
        set(re.findall(r"`([\w.*]+)`", sentence)) - {"capture.*", "capture.drain_interval_ms", "export.output"}
        == {".".join(key) for key in MADE_AT_START} - stays
    )
    assert stays <= {".".join(key) for key in MADE_AT_START}
    assert re.match(r"`capture\.\*` but for `capture\.drain_interval_ms`, ", sentence)


def test_the_conditions_of_rules() -> None:
    (table,) = re.findall(r"\| condition \| holds \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE)
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(FilterRule.model_fields)
