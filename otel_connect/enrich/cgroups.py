"""What the cgroup of a process says about where it runs: its container, its pod, its systemd unit. Pure.

A path is read from its end, because the innermost says what a process runs in: a container inside a container,
a service inside a container. What a runtime calls its cgroups:

==========  ============================================  ===================================================
runtime     systemd driver                                cgroupfs driver
==========  ============================================  ===================================================
Docker      ``/system.slice/docker-<id>.scope``           ``/docker/<id>``
Podman      ``/machine.slice/libpod-<id>.scope``          ``/libpod_parent/libpod-<id>``
            ``/system.slice/x.service/libpod-payload-<id>`` (a unit of Quadlet)
containerd  ``…-pod<uid>.slice/cri-containerd-<id>.scope``  ``/kubepods/burstable/pod<uid>/<id>``
CRI-O       ``…-pod<uid>.slice/crio-<id>.scope``          ``/kubepods/burstable/pod<uid>/crio-<id>``
==========  ============================================  ===================================================

LXC and Incus put a machine into ``/lxc.payload.<name>`` (earlier ``/lxc/<name>``), systemd-nspawn into
``/machine.slice/systemd-nspawn@<name>.service`` or ``/machine.slice/machine-<name>.scope``. Such a machine has no id,
and services like those of its host; so what is around a service counts, too.

An id has 64 hexadecimal digits; Amazon's Fargate has 32 and a number. What looks after a container (conmon) is
not in it. Seen from another cgroup namespace a path begins with ``/..``, and may lack the directories above.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_CONTAINER = re.compile(
    # runc's systemd cgroup names reach a cgroupfs driver as one directory, ``<slice>:<runtime>:<id>``
    r"(?:[^/]*?(?P<supervisor>conmon-)|(?P<payload>libpod-payload-)|[\w.@:-]*?[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z",
    re.ASCII,
)
_FARGATE = re.compile(r"[0-9a-f]{32}-[0-9]{5,12}\Z")
_POD = re.compile(
    r"(?:[\w-]*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice(?::.*)?)?\Z",
    re.ASCII,
)
_PODMAN_PARENT = "libpod_parent"
_UNIT = ".service"
_USER_MANAGER = re.compile(r"user@[0-9]+\.service\Z")
# One instance for each connection: its number, and either its ends or, of a Unix socket, pid and user.
_CONNECTION = re.compile(r"[0-9]+-(?:.*:[0-9]+-.*:[0-9]+|[0-9]+(?:[-_][0-9]+)+|(?:[0-9]+-)?unknown)\Z", re.DOTALL)
# Named by a number that is another each time.
_TRANSIENT = re.compile(r"run-(?:u[0-9]+|r[0-9a-f]+|p[0-9]+-i[0-9]+)\.service\Z")
_MACHINE = re.compile(
    r"(?:lxc\.payload\.(?P<lxc>.+)|machine-(?:[a-z]+\\x2d[0-9]+\\x2d)?(?P<machine>.+)\.scope)\Z",
    re.DOTALL,
)
_MACHINES_ARE_IN = frozenset({"lxc", "lxc.payload"})
_GROUPS = (".slice", ".scope")
_USER = re.compile(r"user-[0-9]+\.slice\Z")
_MOST_NAMES = 64


class Whereabouts(NamedTuple):
    """What a process runs in; ``None`` where its cgroup does not say."""

    container_id: str | None = None
    pod_uid: str | None = None
    service: str | None = None
    """The systemd service, without ``.service``; of an instance for a single connection only the template."""
    within: tuple[str, ...] = ()
    """All that it is in, from the outermost inward, as far as the names stay the same in the next run: machines, pods,
    containers, services, managers of users. Two workloads that are alike in all else differ in this."""


def whereabouts(cgroup: str | None, cgroup_v1: str | None) -> Whereabouts:
    """Read the path in the v2 tree and the one in a v1 hierarchy; ``None`` where there is none.

    One that knows a container or a pod tells all: on hosts with both trees a runtime may use either, and in the other
    a process stays where it was started from.
    """
    found = [_read(path) for path in (cgroup, cgroup_v1) if path]
    inside = [one for one in found if one.container_id or one.pod_uid]
    named = [one for one in found if one.service]
    nested = [one for one in found if one.within]
    return next(iter((*inside, *named, *nested)), Whereabouts())


def _read(path: str) -> Whereabouts:
    names = path.split("/")[-_MOST_NAMES:]
    pod, pod_uid = _innermost_pod(names)
    container, container_id = _innermost_container(names)
    if container < pod:  # of the machine that the pod runs on, which is a container itself
        container_id = None
    inside = max(container if container_id else -1, pod)
    if container_id and "libpod-payload-" in names[container]:  # its service looks after this container alone
        inside = pod
    return Whereabouts(container_id, pod_uid, _innermost_service(names[inside + 1 :]), _within(names))


def _innermost_pod(names: Sequence[str]) -> tuple[int, str | None]:
    for index in range(len(names) - 1, -1, -1):
        match = _POD.match(names[index])
        if match:
            return index, match["uid"].replace("_", "-")
    return -1, None


def _innermost_container(names: Sequence[str]) -> tuple[int, str | None]:
    for index in range(len(names) - 1, -1, -1):
        name = names[index]
        match = _CONTAINER.match(name)
        if match:
            # The second is a pod of Podman's, which has an id of its own.
            if match["supervisor"] or (_PODMAN_PARENT in names[:index] and not name.startswith("libpod-")):
                continue
            return index, match["id"]
        if _FARGATE.match(name) and "ecs" in names[:index]:
            return index, name
    return -1, None


def _innermost_service(names: Sequence[str]) -> str | None:
    for name in reversed(names):
        if name.endswith(_UNIT) and not _USER_MANAGER.match(name):
            return _service(name) or None
    return None


def _service(name: str) -> str:
    # systemd puts a _ before what the kernel would take for a file of its own
    template, at, instance = name.removesuffix(_UNIT).removeprefix("_").partition("@")
    return template if _CONNECTION.match(instance) else template + at + instance


def _within(names: Sequence[str]) -> tuple[str, ...]:
    """Keep what tells places apart and stays, down to the innermost name of something that runs."""
    found: list[str] = []
    innermost = 0
    for above, name in pairwise(("", *names)):
        kept = _running(above, name)
        if kept:
            innermost = len(found) + 1
        elif kept is None and name not in {"", ".."} and (_USER.match(name) or not name.endswith(_GROUPS)):
            kept = name  # a directory of a manager that is not known here, say
        if kept:
            found.append(kept)
    return tuple(found[:innermost])


def _running(above: str, name: str) -> str | None:
    """Return what runs there, as it is called in its next run, too; empty if that is another number, or nothing."""
    if name.endswith(_UNIT):
        return "" if _TRANSIENT.match(name) else _service(name)
    if match := _MACHINE.match(name):
        return f"lxc {match['lxc']}" if match["lxc"] else f"machine {match['machine']}"
    if above in _MACHINES_ARE_IN:
        return f"lxc {name}"
    if match := _POD.match(name):
        return match["uid"].replace("_", "-")
    if match := _CONTAINER.match(name):
        return "" if match["supervisor"] else match["id"]
    return None
