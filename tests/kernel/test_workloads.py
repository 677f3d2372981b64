"""Containers, pods and services as the runtimes lay them out, named from what the kernel tells of a process.

The clients connect once and end; nothing asks /proc about them. The cgroups are real ones, in the v2 tree, in the
v1 hierarchy, or in both; one container is made by Podman.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.config import CaptureConfig
from otel_connect.encode.resource import Resource, WorkloadResources
from otel_connect.enrich.cgroups import whereabouts
from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.otel_context import process_context
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import Lookups, Processes
from otel_connect.enrich.workloads import LOOK_AGAIN_S, Workloads
from otel_connect.model import Workload
from tests.support.agent import RunningAgent
from tests.support.cgroups import cgroup, hierarchies, own_cgroups
from tests.support.collector import Collector
from tests.support.network import closed_port
from tests.support.otlp_json import Fields
from tests.support.publisher import Publisher
from tests.support.watch import once_program

pytestmark = pytest.mark.captures

ENGINE = Path(__file__).parents[1] / "image/engine.sh"
NUMBER = f"{os.getpid():012x}"
ID = "0f" * 26 + NUMBER
UID = f"2c48913c-b29f-11e7-9350-{NUMBER}"
UID_ = UID.replace("-", "_")
HERE = own_cgroups().get("", "").rstrip("/")
BELOW = f"otc-{NUMBER}"  # as of a kubelet or an engine with a root of its own: others may have the rest already
SLICE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"

# What it is → its cgroup, and what is to be found out from that: container, pod, service.
LAYOUTS: dict[str, tuple[str, str | None, str | None, str | None]] = {
    "docker, systemd": (f"system.slice/docker-{ID}.scope", ID, None, None),
    "docker, cgroupfs": (f"docker/{ID}", ID, None, None),
    "docker, a service inside": (f"docker/{ID}/system.slice/nginx.service", ID, None, "nginx"),
    "containerd, systemd": (f"{SLICE}/cri-containerd-{ID}.scope", ID, UID, None),
    "containerd, cgroupfs": (f"kubepods/besteffort/pod{UID}/{ID}", ID, UID, None),
    "crio, systemd": (f"{SLICE}/crio-{ID}.scope/container", ID, UID, None),
    "podman": (f"machine.slice/libpod-{ID}.scope/container", ID, None, None),
    "kind": (f"docker/{'ee' * 32}/kubelet/kubepods/pod{UID}/{ID}", ID, UID, None),
    "systemd": (f"otc-{NUMBER}.slice/postgresql@14-main.service", None, None, "postgresql@14-main"),
    "a session": (f"otc-{NUMBER}.slice/session-3.scope", None, None, None),
}


class Watch:
    """The kernel side at work, and workloads told from it alone but for published contexts; its clock is set."""

    def __init__(self, capture: KernelCapture) -> None:
        self._capture = capture
        self.now = 0.0
        workloads = Workloads(process_context, 4096, clock=lambda: self.now)
        self._enricher = Enricher(Processes(Lookups(), lambda _uid: None, 4096), workloads, KnownPeers(()))

    def take(self) -> list[tuple[int, Workload]]:
        """Take what there is now, as the agent does: pid and workload."""
        taken = []
        more = True
        while more:
            drained = self._capture.drain()
            self._enricher.learn(drained.told)
            taken += [(event.pid, self._enricher.name(event).workload) for event in drained.events]
            more = drained.more
        return taken


def within(path: str) -> tuple[str, ...]:
    """Say what is around the processes of one of the layouts."""
    return whereabouts(f"{HERE}/{BELOW}/{path}", None).within


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with once_program() as once:
        yield once


class Watching(NamedTuple):
    """One capture for all tests: to load the probes takes longer than most of them."""

    capture: KernelCapture
    port: int

    @contextmanager
    def __call__(self) -> Iterator[tuple[Watch, str]]:
        """Watch from now on, with a port where nobody listens."""
        while self.capture.drain().more:
            pass
        yield Watch(self.capture), str(self.port)


@pytest.fixture(scope="module")
def watching() -> Iterator[Watching]:
    with closed_port() as port, KernelCapture(CaptureConfig(), 0) as capture:
        yield Watching(capture, port)


def started(*command: str | Path, **environment: str) -> int:
    """Run a client to its end, and return its pid."""
    with subprocess.Popen(command, env=environment) as client:
        assert client.wait(30) == 0
    return client.pid


@pytest.mark.parametrize("private", [False, True], ids=["", "private"])
@pytest.mark.parametrize("trees", [("",), ("pids",), ("", "pids")], ids=["v2", "v1", "hybrid"])
def test_runtimes(trees: tuple[str, ...], private: bool, program: Path, watching: Watching) -> None:
    if not set(trees) <= hierarchies().keys():  # a host of today has the v2 tree only, and that is tested
        trees = ("",)
    enter = ("unshare", "--cgroup") if private else ()
    variables = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=web,team=a%2Cb,host.name=x",
    }
    expected = {}
    with watching() as (watch, port):
        for path, container, pod, service in LAYOUTS.values():
            with cgroup(f"{BELOW}/{path}", *trees):
                name = service or "unknown_service:once"
                pid = started(*enter, program, port, PATH=os.environ["PATH"])
                expected[pid] = Workload(name, None, None, container, pod, (), within(path))
                pid = started(*enter, program, port, PATH=os.environ["PATH"], **variables)
                expected[pid] = Workload("shop", "web", None, container, pod, (("team", "a,b"),), within(path))
        taken = {pid: workload for pid, workload in watch.take() if pid in expected}
    assert taken == expected


def test_the_same_unit_in_machines_and_on_their_host_is_a_workload_each(program: Path, watching: Watching) -> None:
    unit = "system.slice/smbd.service"
    places = (
        f"lxc.payload.a/{unit}",
        f"lxc.payload.b/{unit}",
        f"machine.slice/systemd-nspawn@c.service/payload/{unit}",
        f"machine.slice/machine-d.scope/payload/{unit}",
        f"user.slice/user-1000.slice/user@1000.service/app.slice/{Path(unit).name}",
        f"user.slice/user-1001.slice/user@1001.service/app.slice/{Path(unit).name}",
        unit,
    )
    resources = WorkloadResources(Resource({"host.id": "h"}))
    with watching() as (watch, port):
        pids: dict[int, str] = {}
        for place in places * 2:
            with cgroup(f"{BELOW}/{place}"):
                pids[started(program, port)] = place
        taken = [(pids[pid], resources.attributes(workload)) for pid, workload in watch.take() if pid in pids]
    assert {found["service.name"] for _, found in taken} == {"smbd"}
    instances = {(place, found["service.instance.id"]) for place, found in taken}
    assert len(taken) == 2 * len(places)
    assert len(instances) == len({instance for _, instance in instances}) == len(places)


def run_in_podman(program: Path, folder: Path, port: str, name: str) -> str:
    """Run the client in a container to its end, and return the container's id."""
    root, identity = folder / "root", folder / "id"
    root.mkdir()
    (root / "once").write_bytes(program.read_bytes())
    (root / "once").chmod(0o755)
    options = ("--rm", "--network=host", f"--cidfile={identity}", f"--env=OTEL_SERVICE_NAME={name}")
    subprocess.run([ENGINE, "podman", "run", *options, "--rootfs", root, "/once", port], check=True, timeout=60)
    return identity.read_text(encoding="ascii")


def test_a_container_of_podman(program: Path, tmp_path: Path, watching: Watching) -> None:
    name = f"otc-{NUMBER}"
    with watching() as (watch, port):
        container = run_in_podman(program, tmp_path, port, name)
        taken = [workload for _, workload in watch.take() if workload.service_name == name]
    assert [one._replace(within=()) for one in taken] == [Workload(name, container_id=container)]
    assert container in taken[0].within


def test_a_context_is_found_once_it_is_published(watching: Watching) -> None:
    names = []
    with watching() as (watch, port), Publisher(environment={"OTEL_SERVICE_NAME": "by-environment"}) as client:
        for order, now in (
            (f"connect {port}", 0),
            ("publish first i-1", 0),
            (f"connect {port}", 0),
            (f"connect {port}", LOOK_AGAIN_S[0]),
            ("publish second i-2", LOOK_AGAIN_S[0]),
            (f"connect {port}", LOOK_AGAIN_S[1]),
        ):
            client.order(order)
            watch.now = now
            names += [(one.service_name, one.service_instance_id) for pid, one in watch.take() if pid == client.pid]
    assert names == [("by-environment", None), ("by-environment", None), ("first", "i-1"), ("second", "i-2")]


def test_a_context_that_is_there_before_the_first_attempt(watching: Watching) -> None:
    with watching() as (watch, port), Publisher() as client:
        client.order("publish shop i-1")
        client.order(f"connect {port}")
        taken = [one for pid, one in watch.take() if pid == client.pid]
    assert [(one.service_name, one.service_instance_id) for one in taken] == [("shop", "i-1")]


def test_the_collector_has_them_as_resources(program: Path, tmp_path: Path) -> None:
    own = f"otc-{NUMBER}"
    published = {"OTEL_SERVICE_NAME": f"{own}-shop", "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=web,team=a"}
    with Collector(tmp_path / "collector") as collector, closed_port() as port:
        options = ("--output", "otlp", "--endpoint", collector.grpc_endpoint, "--protocol", "grpc")
        with RunningAgent(*options) as agent, Publisher() as client:
            with cgroup(f"{BELOW}/{SLICE}/cri-containerd-{ID}.scope"):
                pod = started(program, str(port), **published)
            with cgroup(f"{BELOW}/{own}.slice/{own}.service"):
                service = started(program, str(port))
            client.order(f"publish {own}-live i-1")
            client.order(f"connect {port}")
            container = run_in_podman(program, tmp_path, str(port), f"{own}-podman")
            assert agent.stop() == 0
        expected = {
            pod: {
                "service.name": f"{own}-shop",
                "service.namespace": "web",
                "container.id": ID,
                "k8s.pod.uid": UID,
                "team": "a",
            },
            service: {"service.name": own},
            client.pid: {"service.name": f"{own}-live", "service.instance.id": "i-1"},
        }
        for arrived in (collector.log_records, collector.spans):
            records = of_service(arrived(), own)
            found = {one["attributes"]["process.pid"]: one["resource"] for one in records}
            assert len(records) == len(found) == 4
            [of_podman] = [found.pop(pid) for pid in found.keys() - expected.keys()]
            assert of_podman.items() >= {"service.name": f"{own}-podman", "container.id": container}.items()
            for pid, attributes in expected.items():
                assert found[pid].items() >= attributes.items()
            assert not {"container.id", "k8s.pod.uid"} & found[service].keys()
        attempts = [one for one in collector.metrics() if one["name"] == "otel_connect.attempts"]
        counted = {one["resource"]["service.name"]: one["value"] for one in of_service(attempts, own)}
        assert counted == {f"{own}-shop": 1, own: 1, f"{own}-live": 1, f"{own}-podman": 1}


def of_service(records: list[Fields], beginning: str) -> list[Fields]:
    return [one for one in records if one["resource"]["service.name"].startswith(beginning)]
