"""Whose the telemetry is: the agent's resource, and one for each workload, whose attempts they are."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import uname_result
from types import MappingProxyType
from urllib.parse import unquote
from uuid import UUID, uuid5

from cachetools import LRUCache
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv._incubating.attributes import host_attributes, os_attributes
from opentelemetry.semconv._incubating.attributes.host_attributes import HostArchValues
from opentelemetry.semconv._incubating.attributes.os_attributes import OsTypeValues
from opentelemetry.semconv.attributes import (
    container_attributes,
    k8s_attributes,
    service_attributes,
    telemetry_attributes,
)

from otel_connect import __version__
from otel_connect.encode.attributes import SCHEMA_URL, valid_text
from otel_connect.model import Attempt, Workload

__all__ = [
    "AGENT",
    "NODE_NAME_VARIABLE",
    "OTHER_WORKLOAD",
    "Resource",
    "WorkloadResources",
    "agent_resource",
    "host_description",
    "resource_message",
]

_log = logging.getLogger(__name__)

AGENT = "otel-connect"

NODE_NAME_VARIABLE = "K8S_NODE_NAME"
"""Where a pod gets the name of its node from, by the downward API (``spec.nodeName``)."""

OTHER_WORKLOAD = Workload("_other")
"""Stands in the metrics for workloads that are not told apart."""

# The conventions' own, for ids that are made of other attributes.
_INSTANCE_NAMESPACE = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

# Of the agent's resource, what is true of everything on its host.
_OF_THE_HOST = ("host.", "os.type", "cloud.", "k8s.node.", "k8s.cluster.", "telemetry.distro.")
# The same, unless the workload knows better.
_UNLESS_PUBLISHED = ("deployment.",)

# What ``uname -m`` says where the convention says something else.
_ARCHITECTURES = {
    "x86_64": HostArchValues.AMD64,
    "aarch64": HostArchValues.ARM64,
    "armv6l": HostArchValues.ARM32,
    "armv7l": HostArchValues.ARM32,
    "armv8l": HostArchValues.ARM32,
    "i386": HostArchValues.X86,
    "i686": HostArchValues.X86,
    "ppc": HostArchValues.PPC32,
    "ppc64le": HostArchValues.PPC64,
}


def host_description(uname: uname_result, machine_id: str | None) -> dict[str, str]:
    """Describe a host in the convention's words; what is not known is left out.

    ``machine_id`` is the content of ``/etc/machine-id``.
    """
    architecture = _ARCHITECTURES.get(uname.machine)
    attributes = {
        host_attributes.HOST_NAME: uname.nodename,
        host_attributes.HOST_ID: (machine_id or "").strip(),
        host_attributes.HOST_ARCH: architecture.value if architecture else uname.machine,
        os_attributes.OS_TYPE: OsTypeValues.LINUX.value,
        os_attributes.OS_VERSION: uname.release,
    }
    return {key: valid_text(value) for key, value in attributes.items() if value}


def agent_resource(
    uname: uname_result,
    *,
    instance_id: str,
    machine_id: str | None,
    node_name: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Resource:
    """Describe the agent and its host; what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME in ``environ`` say wins.

    ``uname`` is that of the host, ``instance_id`` a UUID that is new with every start, ``machine_id`` the
    content of ``/etc/machine-id``, ``node_name`` the value of ``NODE_NAME_VARIABLE``. A malformed entry of
    OTEL_RESOURCE_ATTRIBUTES is logged and left out.
    """
    own = {
        service_attributes.SERVICE_NAME: AGENT,
        service_attributes.SERVICE_VERSION: __version__,
        service_attributes.SERVICE_INSTANCE_ID: instance_id,
        **host_description(uname, machine_id),
        telemetry_attributes.TELEMETRY_DISTRO_NAME: AGENT,
        telemetry_attributes.TELEMETRY_DISTRO_VERSION: __version__,
        k8s_attributes.K8S_NODE_NAME: node_name or "",
    }
    attributes = {**own, **_told(environ)}
    return Resource({valid_text(key): valid_text(value) for key, value in attributes.items() if value}, SCHEMA_URL)


def _told(environ: Mapping[str, str]) -> dict[str, str]:
    """Read ``key=value,…``, values URL-encoded; the name of the service has a variable of its own, which wins."""
    told: dict[str, str] = {}
    entries = [entry.strip() for entry in environ.get(OTEL_RESOURCE_ATTRIBUTES, "").split(",")]
    for position, entry in enumerate(filter(None, entries), start=1):
        key, separator, value = (part.strip() for part in entry.partition("="))
        if separator and key:
            told[key] = unquote(value)
        else:
            entry_is = f"entry {position} is not key=value and is left out; write a comma inside of a value as %2C"
            _log.warning("%s: %s", OTEL_RESOURCE_ATTRIBUTES, entry_is)
    if name := environ.get(OTEL_SERVICE_NAME, "").strip():
        told[service_attributes.SERVICE_NAME] = name
    return told


def resource_message(resource: Resource) -> ResourceMessage:
    """Return the resource as OTLP has it, attributes in the same order; all values are text."""
    return _message({key: str(value) for key, value in resource.attributes.items()})


class WorkloadResources:
    """Makes the resource of a workload on the host of the agent, and remembers a bounded number of them.

    What the agent's resource says of its host holds for all of them.
    """

    def __init__(self, agent: Resource, remembered: int = 4096) -> None:
        self.agent = agent
        """The agent's own."""
        of_agent = {key: str(value) for key, value in agent.attributes.items()}
        self._facts = {key: value for key, value in of_agent.items() if key.startswith(_OF_THE_HOST)}
        self._defaults = {key: value for key, value in of_agent.items() if key.startswith(_UNLESS_PUBLISHED)}
        self._host = _host_identity(self._facts)
        self._encoded: LRUCache[Workload, bytes] = LRUCache(remembered)

    def attributes(self, workload: Workload) -> Mapping[str, str]:
        """Return the attributes of a workload's resource."""
        name, namespace, instance_id, container_id, pod_uid, published, _ = workload
        identity = {
            service_attributes.SERVICE_NAME: name or "unknown_service",
            service_attributes.SERVICE_NAMESPACE: namespace,
            service_attributes.SERVICE_INSTANCE_ID: instance_id or self._instance_id(workload),
            container_attributes.CONTAINER_ID: container_id,
            k8s_attributes.K8S_POD_UID: pod_uid,
        }
        known = {key: value for key, value in identity.items() if value}
        attributes = {**known, **self._defaults, **dict(published), **self._facts, **known}
        return MappingProxyType({valid_text(key): valid_text(value) for key, value in attributes.items()})

    def encoded(self, workload: Workload) -> bytes:
        """Return the resource of a workload as OTLP has it, serialized."""
        made = self._encoded.get(workload)
        if made is None:
            made = self._encoded[workload] = _message(self.attributes(workload)).SerializeToString()
        return made

    def group(self, attempts: Sequence[Attempt], records: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
        """Put the record of each attempt with its workload: serialized resources with their records, in order."""
        groups: dict[Workload, list[bytes]] = {}
        for attempt, record in zip(attempts, records, strict=True):
            workload = attempt.named.workload
            group = groups.get(workload)
            if group is None:
                group = groups[workload] = []
            group.append(record)
        for workload, group in groups.items():
            yield self.encoded(workload), group

    def _instance_id(self, workload: Workload) -> str:
        """Make an id that no other workload has, here or on another host, and that is the same after a restart."""
        return str(uuid5(_INSTANCE_NAMESPACE, json.dumps([self._host, *workload])))


def _host_identity(facts: Mapping[str, str]) -> Sequence[str]:
    """Return what tells this host from others, and stays: its name only where there is nothing else."""
    lasting = [facts[key] for key in (host_attributes.HOST_ID, k8s_attributes.K8S_NODE_NAME) if key in facts]
    return lasting or [facts.get(host_attributes.HOST_NAME, "")]


def _message(attributes: Mapping[str, str]) -> ResourceMessage:
    return ResourceMessage(
        attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()]
    )
