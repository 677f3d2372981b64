"""What a kubelet says of the pods of its node: names and labels, by container and by pod. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from otel_connect.enrich.published import SERVICE_NAME, bounded

Names = Mapping[str, Mapping[str, str]]
"""Resource attributes, by id of a container and by uid of a pod."""

_ANNOTATION = "resource.opentelemetry.io/"
_LABEL = "app.kubernetes.io/name"
_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_TEMPLATE = "pod-template-hash"


def names(pod_list: object) -> Names:
    """Read a ``PodList``, parsed from JSON; what is not as it should be is left out.

    A service is called as the conventions have it: by the pod's annotation for it, the label
    ``app.kubernetes.io/name``, the workload that it belongs to.
    """
    found: dict[str, Mapping[str, str]] = {}
    for pod in _objects(_object(pod_list), "items"):
        metadata = _object(pod.get("metadata"))
        of_pod = _of_pod(metadata)
        for uid in (_text(metadata, "uid"), _text(_object(metadata.get("annotations")), "kubernetes.io/config.hash")):
            if uid:  # the cgroup of a static pod has the second
                found[uid] = bounded(of_pod.items())
        status = _object(pod.get("status"))
        for container in (one for kind in _STATUSES for one in _objects(status, kind)):
            container_id = _text(container, "containerID").rpartition("://")[2]
            if container_id:
                of_container = {"k8s.container.name": _text(container, "name"), **of_pod}
                found[container_id] = bounded(of_container.items())
    return found


def _of_pod(metadata: Mapping[str, Any]) -> dict[str, str]:
    labels, annotations = _object(metadata.get("labels")), _object(metadata.get("annotations"))
    kind, owner = _owner(metadata, _text(labels, _TEMPLATE))
    published = {
        key.removeprefix(_ANNOTATION): value
        for key, value in annotations.items()
        if key.startswith(_ANNOTATION) and isinstance(value, str)
    }
    observed = {
        SERVICE_NAME: _text(labels, _LABEL) or owner,
        "k8s.namespace.name": _text(metadata, "namespace"),
        "k8s.pod.name": _text(metadata, "name"),
    }
    if kind:
        observed[f"k8s.{kind}.name"] = owner
    return {**observed, **published}


def _owner(metadata: Mapping[str, Any], template: str) -> tuple[str, str]:
    """Say what a pod belongs to: kind and name; a replica set whose template has a hash belongs to a deployment."""
    for reference in _objects(metadata, "ownerReferences"):
        kind, name = _text(reference, "kind").lower(), _text(reference, "name")
        if reference.get("controller") is True and kind in {"replicaset", "statefulset", "daemonset", "job"}:
            if kind == "replicaset" and template and name.endswith(f"-{template}"):
                return "deployment", name.removesuffix(f"-{template}")
            return kind, name
    return "", ""


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    many = value.get(key)
    return (one for one in many if isinstance(one, dict)) if isinstance(many, list) else iter(())


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) else ""
