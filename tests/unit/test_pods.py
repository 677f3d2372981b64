"""What is read from a kubelet's list of pods."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.pods import names
from tests.support.kubernetes import pod

UID, ID = "2c48913c-b29f-11e7-9350-020968147796", "3f1c9a8b" * 8


def owner(kind: str, name: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "controller": True, **changes}


OWNERS = {
    "deployment": (owner("ReplicaSet", "web-6c45f8d6f6"), {"service.name": "web", "k8s.deployment.name": "web"}),
    "replica set": (owner("ReplicaSet", "web-x"), {"service.name": "web-x", "k8s.replicaset.name": "web-x"}),
    "stateful set": (owner("StatefulSet", "db"), {"service.name": "db", "k8s.statefulset.name": "db"}),
    "daemon set": (owner("DaemonSet", "log"), {"service.name": "log", "k8s.daemonset.name": "log"}),
    "job": (owner("Job", "backup-1"), {"service.name": "backup-1", "k8s.job.name": "backup-1"}),
    "something else": (owner("Rollout", "web"), {}),
    "no controller": (owner("DaemonSet", "log", controller=False), {}),
}


def listed(*pods: object) -> dict[str, object]:
    return {"kind": "PodList", "items": list(pods)}


@pytest.mark.parametrize(("reference", "expected"), OWNERS.values(), ids=OWNERS)
def test_a_service_is_called_by_what_its_pod_belongs_to(reference: dict[str, Any], expected: dict[str, str]) -> None:
    one = pod("web-1", UID, ID, ownerReferences=[reference], labels={"pod-template-hash": "6c45f8d6f6"})
    of_pod = {"k8s.namespace.name": "shop", "k8s.pod.name": "web-1", **expected}
    assert names(listed(one)) == {UID: of_pod, ID: {"k8s.container.name": "main", **of_pod}}


def test_the_annotation_then_the_label_then_the_owner() -> None:
    annotation = {"resource.opentelemetry.io/service.name": "a", "resource.opentelemetry.io/team": "t", "other": "o"}
    metadata: dict[str, Any] = {"ownerReferences": [owner("DaemonSet", "o")], "labels": {"app.kubernetes.io/name": "l"}}
    assert names(listed(pod("p", UID, ID, **metadata)))[UID]["service.name"] == "l"
    found = names(listed(pod("p", UID, ID, annotations=annotation, **metadata)))[ID]
    assert (found["service.name"], found["team"], found.get("other")) == ("a", "t", None)


def test_a_static_pod_is_known_by_the_hash_that_its_cgroup_has() -> None:
    hashed = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    found = names(listed(pod("p", UID, ID, annotations={"kubernetes.io/config.hash": hashed})))
    assert found[hashed] == found[UID]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARTS = (
    "metadata",
    "status",
    "labels",
    "annotations",
    "ownerReferences",
    "containerStatuses",
    "containerID",
    "uid",
    "name",
)


@given(JSON, st.lists(st.sampled_from(PARTS), max_size=3))
def test_anything_in_any_place_is_left_out(value: object, place: list[str]) -> None:
    good = pod("p", UID, ID)
    bad: Any = pod("x", "other", "other")
    at = bad
    for key in place[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else {}
    if place and isinstance(at, dict):
        at[place[-1]] = value
    found = names(listed(bad, value, good))
    assert found[ID]["k8s.pod.name"] == "p"
    assert isinstance(names(value), dict)
