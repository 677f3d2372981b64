"""What cgroup paths say: as the runtimes lay them out, and as nobody does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich import cgroups
from otel_connect.enrich.cgroups import Whereabouts

C = "3f1c9a8be5d7420f6a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071"
OUTER = "aa" * 32
SANDBOX = "b7" * 32
UID = "2c48913c-b29f-11e7-9350-020968147796"
UID_ = UID.replace("-", "_")
STATIC = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"

CONTAINERS = {
    # Docker
    "docker, systemd": f"/system.slice/docker-{C}.scope",
    "docker, cgroupfs": f"/docker/{C}",
    "docker, rootless": f"{USER}/user.slice/docker-{C}.scope",
    "docker, a parent of its own": f"/actions_job/{C}",
    "docker, init inside": f"/docker/{C}/init.scope",
    "docker in docker": f"/docker/{OUTER}/docker/{C}",
    "docker in docker, systemd": f"/system.slice/docker-{OUTER}.scope/system.slice/docker-{C}.scope",
    "docker, seen from a sibling": f"/../{C}",
    "docker, seen from another scope": f"/../docker-{C}.scope",
    "docker, seen from below": f"/../../system.slice/docker-{C}.scope",
    "docker on amazon": f"/ecs/9781c248-0edd-4cdb-9a93-f63cb662a5d3/{C}",
    # containerd
    "nerdctl, systemd": f"/system.slice/nerdctl-{C}.scope",
    "nerdctl, cgroupfs": f"/default/{C}",
    # Podman
    "podman, systemd": f"/machine.slice/libpod-{C}.scope",
    "podman, systemd, crun's folder": f"/machine.slice/libpod-{C}.scope/container",
    "podman, cgroupfs": f"/libpod_parent/libpod-{C}",
    "podman, rootless": f"{USER}/user.slice/libpod-{C}.scope/container",
    "podman, pod, systemd": f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{C}.scope",
    "podman, pod, cgroupfs": f"/libpod_parent/{OUTER}/libpod-{C}",
    "podman inside docker": f"/docker/{OUTER}/libpod_parent/libpod-{C}",
    # CRI-O alone
    "crio": f"/system.slice/crio-{C}.scope",
}

PODS = {
    "containerd, systemd, burstable": (f"{BURSTABLE}/cri-containerd-{C}.scope", UID),
    "containerd, systemd, guaranteed": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{C}.scope",
        UID,
    ),
    "containerd, systemd, besteffort": (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{C}.scope",
        UID,
    ),
    "containerd, cgroupfs, burstable": (f"/kubepods/burstable/pod{UID}/{C}", UID),
    "containerd, cgroupfs, besteffort": (f"/kubepods/besteffort/pod{UID}/{C}", UID),
    "containerd, cgroupfs, guaranteed": (f"/kubepods/pod{UID}/{C}", UID),
    "containerd, systemd's names in cgroupfs": (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{C}",
        UID,
    ),
    "static pod": (f"/kubepods/burstable/pod{STATIC}/{C}", STATIC),
    "static pod, systemd": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{C}.scope",
        STATIC,
    ),
    "crio, systemd": (f"{BURSTABLE}/crio-{C}.scope", UID),
    "crio, systemd, crun's folder": (f"{BURSTABLE}/crio-{C}.scope/container", UID),
    "crio, cgroupfs": (f"/kubepods/burstable/pod{UID}/crio-{C}", UID),
    "docker, systemd": (f"{BURSTABLE}/docker-{C}.scope", UID),
    "docker, cgroupfs": (f"/kubepods/burstable/pod{UID}/{C}", UID),
    "kind, systemd": (
        f"/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{C}.scope",
        UID,
    ),
    "kind, cgroupfs": (f"/docker/{OUTER}/kubelet/kubepods/besteffort/pod{UID}/{C}", UID),
    "a root of its own": (f"/batch.slice/kubepods/burstable/pod{UID}/{C}", UID),
    "private namespace, a neighbour of the pod": (f"/../../pod{UID}/{C}", UID),
    "private namespace, a neighbour, systemd": (
        f"/../../../kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{C}.scope",
        UID,
    ),
    "private namespace, the same pod": (f"/../cri-containerd-{C}.scope", None),
}

SERVICES = {
    "/system.slice/nginx.service": "nginx",
    "/system.slice/system-postgresql.slice/postgresql@14-main.service": "postgresql@14-main",
    "/system.slice/system-openvpn.slice/openvpn@office.service": "openvpn@office",
    "/system.slice/system-getty.slice/getty@tty1.service": "getty@tty1",
    "/system.slice/system-sshd.slice/sshd@12-10.0.0.5:22-10.0.0.9:51234.service": "sshd",
    "/system.slice/system-sshd.slice/sshd@12-4711-10.0.0.5:22-10.0.0.9:51234.service": "sshd",
    "/system.slice/system-sshd.slice/sshd@3-4711-fe80::1:22-fe80::2:51234.service": "sshd",
    "/system.slice/system-coredump.slice/systemd-coredump@3-4242-0.service": "systemd-coredump",
    "/system.slice/system-varlink.slice/varlink@3-99-1234_5678-1000.service": "varlink",
    "/system.slice/nginx.service/workers/7": "nginx",
    "/system.slice/_cpu.weird.service": "cpu.weird",
    "/acme.slice/acme-shop.slice/checkout.service": "checkout",
    f"{USER}/app.slice/syncthing.service": "syncthing",
    f"{USER}/app.slice/app-firefox@2b7c.service": "app-firefox@2b7c",
    "/../nginx.service": "nginx",
    "/system.slice/dbus-org.freedesktop\\x2dx.service": "dbus-org.freedesktop\\x2dx",
}

NOTHING = [
    "",
    "/",
    "/init.scope",
    "/system.slice",
    "/user.slice/user-1000.slice/session-3.scope",
    f"{USER}/init.scope",
    f"{USER}/app.slice/app-gnome-firefox-4711.scope",
    "/system.slice/.service",
    f"/machine.slice/machine-libpod_pod_{C}.slice",
    f"/machine.slice/libpod-conmon-{C}.scope",
    f"/libpod_parent/{OUTER}/conmon",
    "/libpod_parent/conmon",
    f"/docker/{C[:63]}",
    f"/docker/{C}f",
    f"/docker/{C.upper()}",
    f"/docker/x{C}",
    f"/docker/{C[:32]}",
    f"/elsewhere/{C[:32]}-2531612879",
    f"/kubepods/burstable/pod{UID[:-1]}",
    f"/kubepods/burstable/tripod{UID}x",
    "/..",
    "/../..",
]


def whereabouts(cgroup: str | None, cgroup_v1: str | None) -> Whereabouts:
    """Read everything but what is around it."""
    return cgroups.whereabouts(cgroup, cgroup_v1)._replace(within=())


def within(path: str) -> tuple[str, ...]:
    found = cgroups.whereabouts(path, None)
    assert found.within == cgroups.whereabouts("/", path).within == cgroups.whereabouts(None, path).within
    return found.within


@pytest.mark.parametrize("path", CONTAINERS.values(), ids=CONTAINERS)
def test_containers(path: str) -> None:
    assert whereabouts(path, None) == whereabouts(None, path) == Whereabouts(container_id=C)


@pytest.mark.parametrize(("path", "uid"), PODS.values(), ids=PODS)
def test_containers_of_pods(path: str, uid: str | None) -> None:
    assert whereabouts(path, None) == whereabouts(None, path) == Whereabouts(C, uid)


@pytest.mark.parametrize(("path", "service"), SERVICES.items())
def test_services(path: str, service: str) -> None:
    assert whereabouts(path, None) == whereabouts(None, path) == Whereabouts(service=service)


@pytest.mark.parametrize("path", NOTHING)
def test_what_is_no_evidence(path: str) -> None:
    assert whereabouts(path, path) == Whereabouts()


def test_fargate_has_ids_of_another_kind() -> None:
    task = C[:32]
    assert whereabouts(f"/ecs/{task}/{task}-2531612879", None).container_id == f"{task}-2531612879"


def test_a_service_inside_a_container_counts_and_the_one_around_it_does_not() -> None:
    assert whereabouts(f"/docker/{C}/system.slice/nginx.service", None) == Whereabouts(C, None, "nginx")
    assert whereabouts(f"/system.slice/docker.service/docker/{C}", None) == Whereabouts(C)


def test_a_unit_of_quadlet_is_the_service_of_its_container() -> None:
    assert whereabouts(f"/system.slice/web.service/libpod-payload-{C}", None) == Whereabouts(C, None, "web")
    assert whereabouts(f"{USER}/app.slice/web.service/libpod-payload-{C}", None) == Whereabouts(C, None, "web")
    assert whereabouts("/system.slice/web.service/supervisor", None) == Whereabouts(service="web")


def test_who_looks_after_a_container_is_not_in_it() -> None:
    assert whereabouts(f"{BURSTABLE}/crio-conmon-{C}.scope", None) == Whereabouts(pod_uid=UID)
    assert whereabouts(f"/docker/{OUTER}/machine.slice/libpod-conmon-{C}.scope", None) == Whereabouts(OUTER)


def test_a_pod_in_a_node_that_is_a_container_is_not_in_that_container() -> None:
    assert whereabouts(f"/docker/{OUTER}/kubelet/kubepods/pod{UID}", None) == Whereabouts(pod_uid=UID)
    assert whereabouts(f"/docker/{OUTER}/system.slice/kubelet.service", None) == Whereabouts(OUTER, None, "kubelet")


def test_a_container_inside_one_of_a_pod_has_both() -> None:
    assert whereabouts(f"/kubepods/pod{UID}/{OUTER}/docker/{C}", None) == Whereabouts(C, UID)


@pytest.mark.parametrize("elsewhere", ["/", "/system.slice/containerd.service", "/init.scope", None])
def test_with_both_trees_the_one_that_knows_the_container_counts(elsewhere: str | None) -> None:
    path = f"/kubepods/burstable/pod{UID}/{C}"
    assert whereabouts(elsewhere, path) == whereabouts(path, elsewhere) == Whereabouts(C, UID)


def test_with_both_trees_version_2_counts_first() -> None:
    assert whereabouts(f"/docker/{C}", f"/docker/{OUTER}").container_id == C
    assert whereabouts("/system.slice/a.service", "/system.slice/b.service").service == "a"
    assert whereabouts("/", "/system.slice/b.service").service == "b"


IDS = (C, OUTER, UID, UID_, STATIC)
WORDS = (
    "docker-",
    "libpod-",
    "libpod_parent",
    "conmon-",
    "pod",
    ".scope",
    ".service",
    ".slice",
    "@",
    "ecs",
    "kubepods",
)
PIECES = st.sampled_from([*IDS, *WORDS, "/", "..", ":", "-", "_", "1-2:3-4:5", "\x00", "\n", "é", "\\x2d"])


@given(st.lists(PIECES | st.text(max_size=8), max_size=40).map("".join))
def test_garbage_yields_ids_or_nothing(path: str) -> None:
    found = whereabouts(path, None)
    assert found == whereabouts(None, path)
    assert found.container_id is None or found.container_id in path
    assert found.pod_uid is None or found.pod_uid.replace("-", "_") in path.replace("-", "_")
    assert found.service is None or (found.service and found.service in path and "/" not in found.service)


@given(st.sampled_from([*CONTAINERS.values(), *(path for path, _ in PODS.values())]), st.integers(0, 6))
def test_directories_above_change_nothing(path: str, depth: int) -> None:
    assert (
        whereabouts("/.." * depth + path, None) == whereabouts("/any" * depth + path, None) == whereabouts(path, None)
    )


def test_a_path_without_end_is_read_from_its_end() -> None:
    assert whereabouts("/x" * 1_000_000 + f"/docker/{C}", None).container_id == C
    assert whereabouts("a" * 1_000_000, None) == Whereabouts()
    assert whereabouts("-" * 5_000 + C, None).container_id in (C, None)


UNIT = "system.slice/smbd.service"
# Where the same unit can run at the same time.
PLACES = {
    "the host": f"/{UNIT}",
    "a user's manager": f"{USER}/app.slice/smbd.service",
    "another user's manager": f"{USER.replace('1000', '1001')}/app.slice/smbd.service",
    "LXC": f"/lxc.payload.a/{UNIT}",
    "another machine of LXC": f"/lxc.payload.b/{UNIT}",
    "a machine of Incus in a project": f"/lxc.payload.web_a/{UNIT}",
    "LXC in LXC": f"/lxc.payload.a/lxc.payload.a/{UNIT}",
    "LXC, before version 3.1": f"/lxc/x/{UNIT}",
    "LXC, before version 3.1, another": f"/lxc/y/{UNIT}",
    "LXC of a user": f"{USER}/lxc.payload.a/{UNIT}",
    "LXC of a user, started in a session": f"/user.slice/user-1000.slice/session-3.scope/lxc.payload.a/{UNIT}",
    "LXC of another user, in a session": f"/user.slice/user-1001.slice/session-4.scope/lxc.payload.a/{UNIT}",
    "Proxmox": f"/lxc/101/ns/{UNIT}",
    "another machine of Proxmox": f"/lxc/102/ns/{UNIT}",
    "a manager that is not known": f"/vz/101/{UNIT}",
    "nspawn": f"/machine.slice/systemd-nspawn@c.service/payload/{UNIT}",
    "another machine of nspawn": f"/machine.slice/systemd-nspawn@d.service/payload/{UNIT}",
    "nspawn, from a shell": f"/machine.slice/machine-c.scope/payload/{UNIT}",
    "libvirt": f"/machine.slice/machine-lxc\\x2d4711\\x2dvirt.scope/{UNIT}",
    "docker": f"/system.slice/docker-{C}.scope/{UNIT}",
    "another container of docker": f"/system.slice/docker-{OUTER}.scope/{UNIT}",
    "docker in docker": f"/system.slice/docker-{OUTER}.scope/docker/{C}/{UNIT}",
    "podman in LXC": f"/lxc.payload.a/machine.slice/libpod-{C}.scope/container/{UNIT}",
    "podman in another LXC": f"/lxc.payload.b/machine.slice/libpod-{C}.scope/container/{UNIT}",
    "a pod": f"/kubepods/burstable/pod{UID}/{C}/{UNIT}",
    "a pod in kind": f"/docker/{OUTER}/kubelet/kubepods/burstable/pod{UID}/{C}/{UNIT}",
    "a pod in k3s in LXC": f"/lxc.payload.a/kubepods/burstable/pod{UID}/{C}/{UNIT}",
    "a manager inside a container": f"/docker/{C}/user.slice/user-1000.slice/user@1000.service/app.slice/smbd.service",
}


def test_a_unit_is_another_one_wherever_it_can_run_beside_itself() -> None:
    assert {cgroups.whereabouts(path, None).service for path in PLACES.values()} == {"smbd"}
    found = {place: within(path) for place, path in PLACES.items()}
    assert len(set(found.values())) == len(PLACES), found


def test_what_is_in_no_unit_is_another_one_in_each_machine_too() -> None:
    machines = [path.removesuffix(f"/{UNIT}") for path in PLACES.values() if path.endswith(f"/{UNIT}")]
    known = [path for path in machines if not path.startswith("/vz")]
    assert len({within(f"{path}/init.scope") for path in known}) == len(known)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("/user.slice/user-1000.slice/session-3.scope", "/user.slice/user-1000.slice/session-4.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "/user.slice/user-1001.slice/session-4.scope"),
        (f"{USER}/app.slice/app-gnome-x-4711.scope", f"{USER}/app.slice/app-gnome-x-4712.scope"),
        ("/system.slice/run-u12.service", "/system.slice/run-u13.service"),
        ("/system.slice/run-p12-i34.service", "/system.slice/run-p12-i35.service"),
        (f"/system.slice/run-r{C[:32]}.service", f"/system.slice/run-r{OUTER[:32]}.service"),
        ("/system.slice/run-u12.scope/lxc.payload.a", "/system.slice/run-u13.scope/lxc.payload.a"),
        ("/machine.slice/machine-lxc\\x2d1\\x2da.scope", "/machine.slice/machine-lxc\\x2d2\\x2da.scope"),
        (
            "/system.slice/system-sshd.slice/sshd@12-10.0.0.5:22-10.0.0.9:51234.service",
            "/system.slice/system-sshd.slice/sshd@13-10.0.0.5:22-10.0.0.9:51235.service",
        ),
        ("/system.slice/nginx.service/workers/7", "/system.slice/nginx.service/workers/8"),
        (f"/machine.slice/libpod-conmon-{C}.scope", f"/machine.slice/libpod-conmon-{OUTER}.scope"),
    ],
)
def test_what_is_another_number_each_time_tells_nothing_apart(first: str, later: str) -> None:
    assert within(first) == within(later)


def test_with_both_trees_what_is_around_comes_from_the_one_that_knows_more() -> None:
    nested = cgroups.whereabouts("/", "/lxc.payload.a/init.scope").within
    assert nested == cgroups.whereabouts("/lxc.payload.a/init.scope", "/").within == ("lxc a",)
    both = cgroups.whereabouts("/system.slice/lxc.service", f"/docker/{C}").within
    assert both == ("docker", C)


@given(
    st.lists(PIECES | st.sampled_from(["lxc", "lxc.payload.", "machine-", "user-1.slice"]), max_size=40).map("".join)
)
def test_what_is_around_is_bounded_whatever_the_path(path: str) -> None:
    found = within(path)
    assert len(found) <= 64
    assert all(found)
