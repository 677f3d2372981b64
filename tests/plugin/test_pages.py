"""The examples of docs/plugin.md and of README.md for applications, typed as they stand, in a network of their own."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.collector import Collector
from tests.support.network import NetworkNamespace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugin.md").read_text(encoding="utf-8")
README = (
    (ROOT / "README.md").read_text(encoding="utf-8").split("\n## In a Python application\n")[1].partition("\n## ")[0]
)
PATIENCE_S = 120
APP = """
import logging
from opentelemetry import metrics, trace

with trace.get_tracer("shop").start_as_current_span("order"):
    logging.getLogger("shop").warning("ordered")
metrics.get_meter("shop").create_counter("shop.orders").add(1)
"""


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def typed(block: str) -> str:
    """Return the lines that a person types."""
    return "\n".join(line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))


@pytest.fixture(scope="module")
def network() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def collector(network: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    usual = {"COLLECTOR_OTLP_GRPC": "127.0.0.1:4317", "COLLECTOR_OTLP_HTTP": "127.0.0.1:4318"}
    collector = Collector(tmp_path_factory.mktemp("collector"), environment=usual)
    network.inside(collector.start)
    try:
        yield collector
    finally:
        collector.kill()


def asked_for(text: str) -> list[str]:
    """Name the packages that the lines for pip name beside the checkout."""
    lines = re.findall(r"pip install (.*?)(?:  +#|`|$)", text, re.MULTILINE)
    return [word for line in lines for word in line.split() if word != "." and not word.startswith("-")]


def installed_with(*names: str) -> Iterator[Distribution]:
    """Give what pip installs for these, found where it is installed already."""
    waiting, found = [*names], set[str]()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        yield (one := distribution(name))
        waiting += one.requires or ()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with what the lines of both pages install, and nothing else: no index is asked."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    (library,) = place.glob("lib/python*/site-packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert asked_for(README) == asked_for(blocks(PAGE, "console")[0])
    for one in installed_with(
        *asked_for(PAGE), *project["project"]["dependencies"], *project["build-system"]["requires"]
    ):
        for file in one.files or ():
            if ".." not in file.parts and not (library / file).exists():
                (library / file).parent.mkdir(parents=True, exist_ok=True)
                (library / file).symlink_to(file.locate())
    return place / "bin"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what is built from, with an application in it."""
    for name in ("otel_connect", "probes"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "checkout")
    (tmp_path / "checkout" / "app.py").write_text(APP)
    return tmp_path / "checkout"


def type_in(network: NetworkNamespace, programs: Path, checkout: Path, lines: str, **variables: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "XDG_", "PYTHON"))}
    # pip reads the second one the wrong way round: 0 is no isolation.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        network.command(["bash", "-e"]),
        input=lines,
        cwd=checkout,
        env=clean | offline | variables | {"PATH": path, "HOME": str(checkout.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "does not take requests" not in done.stderr


def await_all(collector: Collector, service: str) -> None:
    for arrived in (collector.log_records, collector.spans, collector.metrics):
        collector.await_until(lambda: [one for one in arrived() if one["resource"]["service.name"] == service])  # noqa: B023


def test_the_first_example_delivers(
    network: NetworkNamespace, programs: Path, checkout: Path, collector: Collector
) -> None:
    (block,) = blocks(PAGE, "console")
    type_in(network, programs, checkout, typed(block))
    await_all(collector, "shop")


def test_the_example_of_the_readme_delivers(
    network: NetworkNamespace, programs: Path, checkout: Path, collector: Collector
) -> None:
    (block,) = blocks(README, "console")
    type_in(network, programs, checkout, typed(block), OTEL_SERVICE_NAME="till")  # it leaves the name to the reader
    await_all(collector, "till")
    (span,) = (span for span in collector.spans() if span["resource"]["service.name"] == "till")
    assert span["resource"]["host.arch"]


def test_the_example_in_code_delivers(
    network: NetworkNamespace, programs: Path, checkout: Path, collector: Collector
) -> None:
    (block,) = blocks(PAGE, "python")
    (checkout / "own.py").write_text(block + APP)
    type_in(network, programs, checkout, "python own.py", OTEL_SERVICE_NAME="code")
    collector.await_until(lambda: [one for one in collector.spans() if one["resource"]["service.name"] == "code"])


def test_the_declarative_configuration_delivers(
    network: NetworkNamespace, programs: Path, checkout: Path, collector: Collector
) -> None:
    (block,) = blocks(PAGE, "yaml")
    (checkout / "otel.yaml").write_text(block)
    type_in(network, programs, checkout, "opentelemetry-instrument python app.py", OTEL_CONFIG_FILE="otel.yaml")
    await_all(collector, "basket")
