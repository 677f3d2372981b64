"""The agent's resource: whose the telemetry is, as the SDK's value and as OTLP's message."""

from os import uname_result

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.semconv._incubating.attributes import host_attributes, os_attributes
from opentelemetry.semconv._incubating.attributes.host_attributes import HostArchValues
from opentelemetry.semconv._incubating.attributes.os_attributes import OsTypeValues
from opentelemetry.semconv.attributes import k8s_attributes, service_attributes, telemetry_attributes

from otel_connect import __version__
from otel_connect.encode.attributes import SCHEMA_URL, valid_text

__all__ = ["AGENT", "NODE_NAME_VARIABLE", "Resource", "agent_resource", "host_description", "resource_message"]

AGENT = "otel-connect"

NODE_NAME_VARIABLE = "K8S_NODE_NAME"
"""Where a pod gets the name of its node from, by the downward API (``spec.nodeName``)."""

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


def agent_resource(uname: uname_result, *, instance_id: str, machine_id: str | None, node_name: str | None) -> Resource:
    """Describe the agent and its host; what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say wins.

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
    told = OTELResourceDetector().detect().attributes
    attributes = {**own, **{key: str(value) for key, value in told.items()}}
    return Resource({valid_text(key): valid_text(value) for key, value in attributes.items() if value}, SCHEMA_URL)


def resource_message(resource: Resource) -> ResourceMessage:
    """Return the resource as OTLP has it, attributes in the same order; all values are text."""
    return ResourceMessage(
        attributes=[
            KeyValue(key=key, value=AnyValue(string_value=str(value))) for key, value in resource.attributes.items()
        ]
    )
