import logging
import os

import pytest

from otel_connect import __version__
from otel_connect.encode.resource import agent_resource, resource_message

UNAME = os.uname_result(("Linux", "node-7", "6.12.0-arm64", "#1 SMP", "aarch64"))
INSTANCE = "5ef2ed3c-8c44-4a3b-9d52-2f1d3e0b5a11"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)


def attributes(
    *, uname: os.uname_result = UNAME, machine_id: str | None = "abc123\n", node_name: str | None = None
) -> dict[str, object]:
    resource = agent_resource(uname, instance_id=INSTANCE, machine_id=machine_id, node_name=node_name)
    message = resource_message(resource)
    assert {pair.key: pair.value.string_value for pair in message.attributes} == dict(resource.attributes)
    return dict(resource.attributes)


def test_resource_of_the_agent() -> None:
    assert attributes(node_name="worker-2") == {
        "service.name": "otel-connect",
        "service.version": __version__,
        "service.instance.id": INSTANCE,
        "host.name": "node-7",
        "host.id": "abc123",
        "host.arch": "arm64",
        "os.type": "linux",
        "os.version": "6.12.0-arm64",
        "telemetry.distro.name": "otel-connect",
        "telemetry.distro.version": __version__,
        "k8s.node.name": "worker-2",
    }


@pytest.mark.parametrize("machine_id", [None, "", "\n"])
def test_what_is_unknown_is_left_out(machine_id: str | None) -> None:
    found = attributes(machine_id=machine_id, node_name="")
    assert not {"host.id", "k8s.node.name"} & found.keys()


@pytest.mark.parametrize(
    ("machine", "arch"),
    [
        ("x86_64", "amd64"),
        ("aarch64", "arm64"),
        ("armv7l", "arm32"),
        ("i686", "x86"),
        ("ppc64le", "ppc64"),
        ("s390x", "s390x"),
        ("riscv64", "riscv64"),
    ],
)
def test_architecture_in_the_words_of_the_convention(machine: str, arch: str) -> None:
    uname = os.uname_result((*UNAME[:4], machine))
    assert attributes(uname=uname)["host.arch"] == arch


def test_the_operator_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%20b, host.name=mine ")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "connections")
    found = attributes()
    assert found["deployment.environment.name"] == "a b"
    assert found["host.name"] == "mine"
    assert found["service.name"] == "connections"


def test_malformed_entries_are_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "nonsense,=empty,team=%zz,,zone=\udcff")
    with caplog.at_level(logging.WARNING):
        found = attributes()
    assert found["team"] == "%zz"
    assert found["zone"] == "\\udcff"
    assert "" not in found
    assert "nonsense" in caplog.text
