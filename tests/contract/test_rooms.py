"""The walls of the house: who imports whom."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE, ARCHITECTURE = PROJECT / "otel_connect", PROJECT / "docs" / "architecture.md"
ROOMS = ("capture", "enrich", "encode", "export", "serve")
SHARED = {"otel_connect"} | {f"otel_connect.{name}" for name in ("model", "figures", "errors", "errnos", "config")}
SHARED |= {f"otel_connect.config.{path.stem}" for path in (PACKAGE / "config").glob("[a-z]*.py")}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_of_the_house_but_itself_and_the_shared_modules(room: str) -> None:
    own = f"otel_connect.{room}"
    strangers = {
        f"{path.name}: {name}"
        for path in modules(room)
        for name in imports(path)
        if name.startswith("otel_connect") and name not in SHARED and name != own and not name.startswith(own + ".")
    }
    assert modules(room)
    assert not strangers


def test_the_architecture_names_all_modules_that_join_rooms() -> None:
    rooms = tuple(f"otel_connect.{room}." for room in ROOMS)
    joiners = {path.name for path in PACKAGE.glob("*.py") if any(name.startswith(rooms) for name in imports(path))}
    (sentence,) = re.findall(r"nothing else of the house; (.*?) join them", ARCHITECTURE.read_text(), re.DOTALL)
    assert joiners == set(re.findall(r"`(\w+\.py)`", sentence))


def test_only_the_child_imports_bcc() -> None:
    # It does so by name at run time, so that its absence can be told from other errors.
    users = {path.name for path in PACKAGE.rglob("*.py") if '"bcc' in path.read_text()}
    assert users == {"child.py"}
    assert not {path.name for path in PACKAGE.rglob("*.py") for name in imports(path) if name.split(".")[0] == "bcc"}


UNUSED = {"requests", "charset_normalizer", "opentelemetry.exporter.otlp.proto.http"}
"""Six megabytes: a client on top of the one that is used."""


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        ("cli, otel_connect.running, otel_connect.run", UNUSED | {"grpc"}),
        ("reader", UNUSED | {"grpc", "urllib3", "ssl", "google.protobuf"}),
        ("plugin.exporters", UNUSED),
    ],
)
def test_what_nobody_needs_who_speaks_http_is_not_loaded(names: str, left_out: set[str]) -> None:
    code = f"import sys, otel_connect.{names}; print(*{left_out} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "\n"


def test_the_plugin_joins_nothing_but_encode_and_export() -> None:
    allowed = SHARED | {"otel_connect.environment", "otel_connect.host"}
    rooms = ("otel_connect.encode.", "otel_connect.export.", "otel_connect.plugin.")
    strangers = {
        f"{path.name}: {name}"
        for path in modules("plugin")
        for name in imports(path)
        if name.startswith("otel_connect") and name not in allowed and not name.startswith(rooms)
    }
    assert modules("plugin")
    assert not strangers


def test_nothing_of_the_agent_is_loaded_into_an_application() -> None:
    code = "import json, sys, otel_connect.plugin.{}; print(json.dumps(sorted(sys.modules)))"
    loaded = {
        name: set(json.loads(subprocess.check_output([sys.executable, "-c", code.format(name)])))
        for name in ("exporters", "detector")
    }
    agent = {
        "bcc",
        "uvicorn",
        "starlette",
        "click",
        "rich",
        "otel_connect.run",
        "otel_connect.agent",
        "otel_connect.cli",
    }
    agent |= {f"otel_connect.{room}" for room in ("capture", "enrich", "serve")}
    assert not loaded["exporters"] & agent
    assert not loaded["detector"] & (agent | {"grpc", "requests", "pydantic", "sqlite3", "otel_connect.export"})


def test_only_encode_and_the_plugin_import_the_sdk() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for name in imports(path)
        if name.startswith("opentelemetry.sdk")
    }
    assert users == {"encode", "plugin"}


def test_only_who_serves_pays_for_the_server() -> None:
    script = "import sys, otel_connect.run; print(*{'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == ""
