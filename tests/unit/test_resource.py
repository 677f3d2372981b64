import logging
import os
import uuid
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
from hypothesis import given
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage

from otel_connect import __version__
from otel_connect.encode.attributes import valid_text
from otel_connect.encode.resource import WorkloadResources, agent_resource, resource_message
from otel_connect.enrich.cgroups import Whereabouts
from otel_connect.enrich.otel_context import attributes as context_attributes
from otel_connect.enrich.pods import names
from otel_connect.enrich.published import from_environment
from otel_connect.enrich.workloads import workload
from otel_connect.model import Workload
from tests.support import publisher
from tests.support.events import workloads
from tests.support.kubernetes import pod

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
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "OTEL_RESOURCE_ATTRIBUTES: entry 1 is not key=value and is left out",
        "OTEL_RESOURCE_ATTRIBUTES: entry 2 is not key=value and is left out",
    ]


# --- of workloads

MACHINE = "4ddd5be1b2414b2c8eb1d0f0a1a1d9a5"
PLAIN = Workload("shop")


def of_host(
    *, name: str = "node-7", machine_id: str | None = MACHINE, node_name: str | None = None
) -> WorkloadResources:
    uname = os.uname_result(("Linux", name, *UNAME[2:]))
    return WorkloadResources(agent_resource(uname, instance_id=INSTANCE, machine_id=machine_id, node_name=node_name))


def instance(workload: Workload, resources: WorkloadResources) -> str:
    return resources.attributes(workload)["service.instance.id"]


def test_resource_of_a_workload() -> None:
    published = (("service.version", "2.1"), ("deployment.environment.name", "staging"))
    workload = Workload("shop", "web", "shop-7", "c0ffee", "5d1c", published)
    assert of_host(node_name="worker-2").attributes(workload) == {
        "service.name": "shop",
        "service.namespace": "web",
        "service.instance.id": "shop-7",
        "container.id": "c0ffee",
        "k8s.pod.uid": "5d1c",
        "service.version": "2.1",
        "deployment.environment.name": "staging",
        "host.name": "node-7",
        "host.id": MACHINE,
        "host.arch": "arm64",
        "os.type": "linux",
        "k8s.node.name": "worker-2",
        "telemetry.distro.name": "otel-connect",
        "telemetry.distro.version": __version__,
    }


def test_what_the_operator_says_of_the_host_holds_for_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "cloud.region": "eu-1",
        "deployment.environment.name": "live",
        "k8s.cluster.name": "blue",
        "k8s.pod.name": "agent-x",
        "k8s.pod.uid": "77",
        "service.namespace": "monitoring",
        "team": "platform",
    }
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", ",".join(map("=".join, told.items())))
    monkeypatch.setenv("OTEL_SERVICE_NAME", "connections")
    found = of_host().attributes(PLAIN)
    applied = {"cloud.region", "deployment.environment.name", "k8s.cluster.name"}
    assert {key: told[key] for key in applied}.items() <= found.items()
    assert not (told.keys() - applied) & found.keys()
    assert found["service.name"] == "shop"
    knows = PLAIN._replace(published=(("deployment.environment.name", "test"), ("cloud.region", "mars")))
    assert (
        of_host().attributes(knows).items() >= {"deployment.environment.name": "test", "cloud.region": "eu-1"}.items()
    )


FORGED = (
    "container.id",
    "k8s.pod.uid",
    "host.name",
    "host.type",
    "os.type",
    "os.description",
    "telemetry.distro.name",
    "telemetry.sdk.name",
    "process.pid",
    "process.command_args",
    "otel_connect.outcome",
    "otel.scope.name",
)


class Published(NamedTuple):
    """What a process and its pod published, by source, as ``workload`` takes it."""

    context: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    pod: Mapping[str, str] = {}


def in_memory(told: Mapping[str, str]) -> Published:
    found = context_attributes(publisher.process_context(publisher.resource(**told)))
    assert found is not None
    return Published(context=found)


def in_the_environment(told: Mapping[str, str]) -> Published:
    return Published(
        environment=from_environment([("OTEL_RESOURCE_ATTRIBUTES", ",".join(map("=".join, told.items())))])
    )


def in_annotations(told: Mapping[str, str]) -> Published:
    annotations = {f"resource.opentelemetry.io/{key}": value for key, value in told.items()}
    return Published(pod=names({"items": [pod("web-1", "5d1c", "c0ffee", annotations=annotations)]})["c0ffee"])


@pytest.mark.parametrize("publish", [in_memory, in_the_environment, in_annotations])
def test_a_workload_can_publish_nothing_that_the_agent_knows_better(
    publish: Callable[[Mapping[str, str]], Published],
) -> None:
    published = publish({"team": "true", **dict.fromkeys(FORGED, "forged")})
    found = of_host().attributes(workload(*published, Whereabouts("c0ffee", "5d1c"), "shop"))
    assert found["team"] == "true"
    assert "forged" not in found.values()


def test_an_instance_is_the_same_after_a_restart_and_another_on_another_host() -> None:
    made = instance(PLAIN, of_host())
    assert made == instance(PLAIN, of_host(name="renamed"))
    assert uuid.UUID(made).version == 5
    others = [
        instance(PLAIN, of_host(machine_id="another")),
        instance(PLAIN, of_host(node_name="worker-2")),
        instance(PLAIN, of_host(machine_id=None)),
        instance(PLAIN, of_host(machine_id=None, name="renamed")),
        instance(PLAIN._replace(container_id="c0ffee"), of_host()),
        instance(PLAIN._replace(service_namespace="c0ffee"), of_host()),
        instance(PLAIN._replace(pod_uid="c0ffee"), of_host()),
        instance(PLAIN._replace(published=(("service.version", "2"),)), of_host()),
        instance(PLAIN._replace(within=("machine a",)), of_host()),
        instance(PLAIN._replace(within=("machine a", "machine b")), of_host()),
    ]
    assert len({made, *others}) == 1 + len(others)


@given(workloads)
def test_any_workload_has_a_resource(workload: Workload) -> None:
    resources = of_host()
    found = resources.attributes(workload)
    message = ResourceMessage.FromString(resources.encoded(workload))
    assert {pair.key: pair.value.string_value for pair in message.attributes} == dict(found)
    assert len(message.attributes) == len(found)
    assert found["service.name"] == valid_text(workload.service_name or "unknown_service")
    assert found["service.instance.id"]
    assert found["host.name"] == "node-7"
    assert resources.encoded(workload) == message.SerializeToString()
