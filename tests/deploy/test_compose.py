"""The compose file: what it says, what it mounts, and its collector at work for both profiles."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.test_image import documented_options
from tests.support.agent import RunningAgent
from tests.support.collector import Collector
from tests.support.network import closed_port
from tests.support.prometheus import prometheus_programs

pytestmark = [pytest.mark.captures, pytest.mark.timeout(1200)]  # the first use of the collector builds it

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "examples/compose"
FILE = FOLDER / "compose.yaml"
PROFILES = ("jaeger", "tempo")


def services(**variables: str) -> dict[str, dict[str, Any]]:
    """Return the services with variables replaced as Compose does it: given ones, else the defaults in the file."""
    text = re.sub(
        r"\$\{(\w+):-([^}]*)\}",
        lambda found: variables.get(found[1], found[2]),
        FILE.read_text(encoding="utf-8"),
    )
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[str, Path | None]:
    """Return what is mounted where: a path of the project or of the host; ``None`` for a named volume."""
    pairs = [volume.split(":")[:2] for volume in service.get("volumes", [])]
    return {inside: (FOLDER / outside).resolve() if outside[0] in "./" else None for outside, inside in pairs}


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("check-jsonschema")),
        "--builtin-schema=vendor.compose-spec",
        str(path),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_what_the_specification_says(tmp_path: Path) -> None:
    answer = checked(FILE)
    assert answer.returncode == 0, answer.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text(encoding="utf-8").replace("cap_drop", "cap_drops"), encoding="utf-8")
    assert checked(wrong).returncode == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_what_it_mounts_is_there_and_images_have_versions(profile: str) -> None:
    found = services(COMPOSE_PROFILES=profile)
    for name, service in found.items():
        for place in mounts(service).values():
            assert place is None or place.exists(), f"{name}: {place}"
        if "build" in service:
            assert (FOLDER / service["build"] / "Dockerfile").is_file()
        else:
            assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"]), service["image"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
    assert {name for name, service in found.items() if profile in service.get("profiles", [])} in (
        {"jaeger"},
        {"tempo", "loki"},
    )


def test_the_profile_that_starts_is_the_one_of_the_configurations() -> None:
    assert "COMPOSE_PROFILES=jaeger" in (FOLDER / ".env").read_text(encoding="utf-8").splitlines()
    assert set(re.findall(r"\$\{COMPOSE_PROFILES:-(\w+)\}", FILE.read_text(encoding="utf-8"))) == {"jaeger"}


def test_the_agent_runs_as_the_image_is_documented_and_tested() -> None:
    agent = services()["agent"]
    given = {
        f"--network={agent['network_mode']}",
        f"--pid={agent['pid']}",
        f"--uts={agent['uts']}",
        *(["--read-only"] if agent["read_only"] else []),
        *(f"--tmpfs={place}" for place in agent["tmpfs"]),
        *(f"--cap-drop={name}" for name in agent["cap_drop"]),
        *(f"--cap-add={name}" for name in agent["cap_add"]),
        *(f"--security-opt={option}" for option in agent["security_opt"]),
        f"--volume={agent['volumes'][0]}",
    }
    documented = {option.replace(f"seccomp={PROJECT}/examples", "seccomp=..") for option in documented_options()}
    # As that page says, this is for what is read of other users' processes.
    assert given - documented == {"--cap-add=SYS_PTRACE"}
    assert documented - given == {"--rm"}


def test_the_agent_sends_where_the_collector_listens() -> None:
    found = services()
    _, _, address = found["agent"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"].partition("//")
    [published] = [port for port in found["collector"]["ports"] if port.startswith(f"{address}:")]
    assert found["collector"]["environment"]["COLLECTOR_OTLP_HTTP"] == f"0.0.0.0:{published.rpartition(':')[2]}"
    elsewhere = services(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.example:4318")["agent"]["environment"]
    assert elsewhere["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.example:4318"


def test_prometheus_takes_its_configuration_and_the_alerts(tmp_path: Path) -> None:
    files = [path for path in mounts(services()["prometheus"]).values() if path is not None]
    for path in files:
        shutil.copy(path, tmp_path)
    command = [str(prometheus_programs() / "promtool"), "check", "config", str(tmp_path / "prometheus.yaml")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rules found", answer.stdout)


def test_prometheus_and_grafana_ask_services_that_are_there() -> None:
    found = services()
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    [target] = scraped[0]["static_configs"][0]["targets"]
    page = found["collector"]["environment"]["COLLECTOR_PROMETHEUS"]
    assert target == page.replace("0.0.0.0", "collector")
    sources = yaml.safe_load((FOLDER / "grafana/datasources.yaml").read_text(encoding="utf-8"))["datasources"]
    assert {re.sub(r"https?://|:\d+", "", source["url"]) for source in sources} < found.keys()
    provided = yaml.safe_load((FOLDER / "grafana/dashboards.yaml").read_text(encoding="utf-8"))["providers"]
    folder = mounts(found["grafana"])[provided[0]["options"]["path"]]
    assert folder is not None
    assert list(folder.glob("*.json"))


@pytest.mark.parametrize("profile", PROFILES)
def test_all_signals_of_the_agent_reach_their_backends(tmp_path: Path, profile: str) -> None:
    service = services(COMPOSE_PROFILES=profile)["collector"]
    files = mounts(service)
    first, *others = [path for option in service["command"] if (path := files[option.removeprefix("--config=")])]
    with Collector(tmp_path / "backend") as backend:
        addresses = {
            "JAEGER_OTLP": backend.grpc_endpoint.removeprefix("http://"),
            "TEMPO_OTLP": backend.http_endpoint,
            "LOKI_OTLP": backend.http_endpoint,
        }
        assert addresses.keys() < service["environment"].keys()
        overrides = [path.read_text(encoding="utf-8") for path in others]
        collecting = Collector(tmp_path, config=first, overrides=overrides, environment=addresses)
        variables = {"OTEL_METRIC_EXPORT_INTERVAL": "500", "OTEL_CONNECT_LISTEN": "off"}
        with (
            collecting as collector,
            RunningAgent("--endpoint", collector.http_endpoint, environment=variables),
            closed_port() as port,
        ):
            with socket.socket() as client:
                client.connect_ex(("127.0.0.1", port))

            def ours(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
                wanted = (os.getpid(), port)
                return [
                    record
                    for record in records
                    if (record["attributes"].get("process.pid"), record["attributes"].get("network.peer.port"))
                    == wanted
                ]

            [span] = backend.await_until(lambda: ours(backend.spans()))
            assert span["attributes"]["otel_connect.outcome"] == "refused"
            collector.await_until(
                lambda: any(
                    sample.name == "otel_connect_attempts_total" and sample.labels["otel_connect_outcome"] == "refused"
                    for sample in collector.prometheus_samples()
                )
            )
            if profile == "tempo":
                [record] = backend.await_until(lambda: ours(backend.log_records()))
                assert record["attributes"]["otel_connect.outcome"] == "refused"
            else:
                collector.await_until(lambda: f":{port} refused" in collector.stderr)
