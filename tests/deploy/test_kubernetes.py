"""The chart and the manifests: rendered by Helm, and held against the schemas of the API."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from otel_connect import __version__
from otel_connect.config import file_layer
from tests.support.collector import collector_binary
from tests.support.helm import CHART, PROJECT, helm, manifests, template

pytestmark = pytest.mark.timeout(1200)  # the first use of Helm builds it

EXAMPLES = PROJECT / "examples/kubernetes"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
VERSIONS = ("1.30", ".".join(kubernetes_validate.latest_version().split(".")[:2]))

CUSTOM = {"ServiceMonitor", "PrometheusRule", "OpenTelemetryCollector"}
"""Kinds that operators define; the API has no schema of them."""

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "imagePullSecrets": [{"name": "pull"}],
        "exporter": {
            "endpoint": "https://gateway.example:4317",
            "protocol": "grpc",
            "headersSecret": {"name": "tokens"},
        },
        "config": "[encode]\nspan_successes_per_second = 5\n",
        "env": [{"name": "OTEL_EXPORTER_OTLP_COMPRESSION", "value": "gzip"}],
        "names": False,
        "seLinuxOptions": {"type": "spc_t"},
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-node-critical",
        "maxUnavailable": 1,
        "podLabels": {"team": "network"},
        "podAnnotations": {"example.com/note": "yes"},
        "networkPolicy": {"from": [{"namespaceSelector": {}}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbookUrl": "https://wiki.example/alerts", "labels": {"release": "p"}},
    },
    "translated": {"conntrack": True},
    "least": {
        "ptrace": False,
        "spool": {"hostPath": ""},
        "seccomp": {"profile": "runtimeDefault"},
        "serviceAccount": {"create": False},
        "networkPolicy": {"enabled": False},
    },
}


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the objects of the chart by their kinds."""
    made = template(values)
    assert made.returncode == 0, made.stderr
    return {one["kind"]: one for one in manifests(made.stdout)}


def container(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    [found] = objects["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the agent's configuration file."""
    return tomllib.loads(objects["ConfigMap"]["data"]["otel-connect.toml"])


def validate(objects: list[dict[str, Any]]) -> None:
    for one in objects:
        for version in VERSIONS:
            if one["kind"] not in CUSTOM:
                kubernetes_validate.validate(one, version, strict=True)


def test_the_chart_is_as_helm_wants_it() -> None:
    linted = helm("lint", "--strict", str(CHART))
    assert linted.returncode == 0, linted.stdout
    assert yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"] == __version__


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_what_it_renders_to_is_what_the_api_takes(values: dict[str, Any]) -> None:
    validate(list(rendered(values).values()))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_manifests_are_what_the_api_takes(path: Path) -> None:
    objects = manifests(path.read_text(encoding="utf-8"))
    assert objects
    validate(objects)
    assert f"({path.name})" in README


def test_the_schemas_refuse_what_is_misspelt() -> None:
    objects = rendered({})
    container(objects)["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(list(objects.values()))


def test_the_manifest_is_what_the_documented_line_writes() -> None:
    [line] = re.findall(r"^helm (template .*) > (\S+)$", README, re.MULTILINE)
    written = helm(*shlex.split(line[0]))
    assert written.returncode == 0, written.stderr
    assert (PROJECT / line[1]).read_text(encoding="utf-8") == written.stdout


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        pytest.param({"exporter": {"endpiont": "http://a"}}, "endpiont", id="misspelt"),
        pytest.param({"exporter": {"endpoint": "collector:4318"}}, "endpoint", id="no_scheme"),
        pytest.param({"seccomp": {"profile": "none"}}, "profile", id="unknown"),
        pytest.param({"status": {"port": 80}}, "port", id="port_that_takes_a_privilege"),
        pytest.param({"prometheusRule": {"enabled": True}}, "runbookUrl", id="alerts_without_their_page"),
        pytest.param(
            {"prometheusRule": {"enabled": True, "runbookUrl": "docs/alerts.md"}}, "runbookUrl", id="relative_page"
        ),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any], named: str) -> None:
    refused = template(wrong)
    assert refused.returncode != 0
    assert named in refused.stderr


def test_it_has_the_privileges_that_the_image_needs_and_no_more() -> None:
    objects = rendered({})
    context = container(objects)["securityContext"]
    assert context == {
        "runAsUser": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_PTRACE"]},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "otel-connect.json"},
    }
    assert container(rendered(VALUES["least"]))["securityContext"]["capabilities"]["add"] == ["BPF", "PERFMON"]
    assert settings(objects) == {"enrich": {"names": True, "conntrack": False}}
    without_names = rendered({"names": False})
    assert container(without_names)["securityContext"] == context
    assert settings(without_names) == {"enrich": {"names": False, "conntrack": False}}
    pod = objects["DaemonSet"]["spec"]["template"]["spec"]
    assert (pod["hostPID"], pod["automountServiceAccountToken"]) == (True, False)
    assert not {"hostNetwork", "hostIPC"} & pod.keys()
    translated = rendered(VALUES["translated"])
    assert container(translated)["securityContext"]["capabilities"]["add"][-1] == "NET_ADMIN"
    assert translated["DaemonSet"]["spec"]["template"]["spec"]["hostNetwork"] is True
    assert settings(translated) == {"enrich": {"names": True, "conntrack": True}}
    writable = {each["name"] for each in container(objects)["volumeMounts"] if not each.get("readOnly")}
    assert writable == {"spool", "tmp"}


def test_the_profile_that_it_installs_is_the_one_of_the_image() -> None:
    objects = rendered({})
    installed = json.loads(objects["ConfigMap"]["data"]["seccomp.json"])
    assert installed == json.loads((PROJECT / "examples/docker/seccomp.json").read_text(encoding="utf-8"))
    [installing] = objects["DaemonSet"]["spec"]["template"]["spec"]["initContainers"]
    assert (
        installing["command"][-1]
        == "/seccomp/" + container(objects)["securityContext"]["seccompProfile"]["localhostProfile"]
    )


def test_its_alerts_are_those_of_the_examples_with_a_runbook_that_can_be_opened() -> None:
    page = "https://wiki.example/otel-connect/alerts"
    made = rendered({"prometheusRule": {"enabled": True, "runbookUrl": page, "labels": {"release": "p"}}})[
        "PrometheusRule"
    ]
    text = (PROJECT / "examples/alerts/otel-connect.rules.yml").read_text(encoding="utf-8")
    assert made["metadata"]["labels"]["release"] == "p"
    assert made["spec"] == yaml.safe_load(text.replace("runbook: docs/alerts.md#", f"runbook_url: {page}#"))
    alerts = [rule for group in made["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    assert [rule["annotations"]["runbook_url"] for rule in alerts] == [
        f"{page}#{rule['alert'].lower()}" for rule in alerts
    ]
    assert "PrometheusRule" not in rendered({})


def test_the_agent_takes_what_it_is_given(tmp_path: Path) -> None:
    objects = rendered(VALUES["everything"])
    file = tmp_path / "otel-connect.toml"
    file.write_text(objects["ConfigMap"]["data"]["otel-connect.toml"], encoding="utf-8")
    assert file_layer(file).values == {"encode.span_successes_per_second": 5}
    given = container(objects)
    variables = {each["name"]: each["value"] for each in given["env"] if "value" in each}
    agent = PROJECT / ".venv/bin/otel-connect"
    checked = subprocess.run(
        [agent, "validate", "--config", file], env=variables, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "logs: grpc to gateway.example:4317" in checked.stdout.replace("https://", "")
    assert "status pages: 0.0.0.0:9475" in checked.stdout
    assert given["args"] == ["run", "--config", "/etc/otel-connect/otel-connect.toml"]
    for probe, page in {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        assert given[probe]["httpGet"] == {"path": page, "port": given["ports"][0]["name"]}


def test_the_collector_beside_it_is_right_and_where_the_agent_looks(tmp_path: Path) -> None:
    objects = {one["kind"]: one for one in manifests((EXAMPLES / "collector.yaml").read_text(encoding="utf-8"))}
    spec = objects["OpenTelemetryCollector"]["spec"]
    config = tmp_path / "collector.yaml"
    config.write_text(yaml.safe_dump(spec["config"]), encoding="utf-8")
    variables = {"BACKEND_OTLP": "http://backend:4318", "K8S_NODE_NAME": "node-1"}
    command = [str(collector_binary()), "validate", f"--config={config}"]
    checked = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    [port] = spec["ports"]
    endpoint = {each["name"]: each.get("value") for each in container(rendered({}))["env"]}[
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    ]
    assert endpoint == f"http://$(HOST_IP):{port['hostPort']}"
    assert spec["config"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{port['port']}"


def test_the_sidecar_has_the_privileges_of_the_daemonset() -> None:
    [deployment] = manifests((EXAMPLES / "sidecar.yaml").read_text(encoding="utf-8"))
    [sidecar] = deployment["spec"]["template"]["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == f"otel-connect:{__version__}"
    of_daemonset = container(rendered({"seccomp": {"profile": "runtimeDefault"}}))["securityContext"]
    assert sidecar["securityContext"] == {key: value for key, value in of_daemonset.items() if key != "privileged"}
