"""Whose telemetry an attempt is: precedence, what is remembered, and when a context is asked for again."""

from typing import Any

from otel_connect.enrich.cgroups import Whereabouts
from otel_connect.enrich.workloads import LOOK_AGAIN_S, Workloads, workload
from otel_connect.model import ConnectEvent, EventFlag, Process, Surroundings, Workload
from tests.support.events import make_event

CURL = Process("curl", "/usr/bin/curl", "alice")
ID = "ab" * 32


class Host:
    """Contexts and surroundings to be asked for, and a clock; remembers who asked."""

    def __init__(self) -> None:
        self.contexts: dict[int, dict[str, str]] = {}
        self.surrounding = Surroundings()
        self.asked: list[int] = []
        self.places = 0
        self.now = 100.0
        self.pods: dict[str, dict[str, str]] = {}
        self.workloads = Workloads(self._context, 4, self._pod, lambda: self.now)

    def of(self, **changes: Any) -> Workload:
        return self.workloads.of(make_event(**changes), CURL, self._surroundings)

    def _context(self, pid: int, _start_boot_ns: int) -> dict[str, str] | None:
        self.asked.append(pid)
        return self.contexts.get(pid)

    def _pod(self, container_id: str | None, pod_uid: str | None) -> dict[str, str]:
        return self.pods.get(container_id or pod_uid or "", {})

    def _surroundings(self, _event: ConnectEvent) -> Surroundings:
        self.places += 1
        return self.surrounding


NOTHING: dict[str, str] = {}


def test_whose_name_counts() -> None:
    context, environment, pod = ({"service.name": name} for name in ("context", "environment", "pod"))
    unit = Whereabouts(service="unit")
    assert workload(context, environment, pod, unit, "x").service_name == "context"
    assert workload(NOTHING, environment, pod, unit, "x").service_name == "environment"
    assert workload(NOTHING, NOTHING, pod, unit, "x").service_name == "pod"
    assert workload(NOTHING, NOTHING, NOTHING, unit, "x").service_name == "unit"
    assert workload(NOTHING, NOTHING, NOTHING, Whereabouts(), "x").service_name == "unknown_service:x"


def test_all_threads_of_the_kernel_are_one_service() -> None:
    host = Host()
    names = {host.of(pid=pid, comm=f"kworker/{pid}:0", flags=int(EventFlag.KERNEL)).service_name for pid in (7, 8)}
    assert names == {"unknown_service:kernel"}
    assert host.of(pid=9).service_name == "unknown_service:curl"


def test_what_an_sdk_calls_a_service_without_a_name_is_no_name() -> None:
    unnamed = {"service.name": "unknown_service:java"}
    assert workload(unnamed, {}, {}, Whereabouts(service="shop"), "java").service_name == "shop"
    assert workload(unnamed, unnamed, {}, Whereabouts(), "java17").service_name == "unknown_service:java17"


def test_attributes_of_all_sources_are_joined_and_the_nearest_wins() -> None:
    context = {"service.instance.id": "7", "a": "context"}
    environment = {"service.namespace": "web", "service.instance.id": "1", "a": "environment", "b": "2"}
    pod = {"k8s.pod.name": "p", "b": "pod"}
    assert workload(context, environment, pod, Whereabouts(), "x") == Workload(
        "unknown_service:x", "web", "7", None, None, (("a", "context"), ("b", "2"), ("k8s.pod.name", "p"))
    )


def test_the_kernels_container_and_pod_win_over_published_ones() -> None:
    published = {"container.id": "published", "k8s.pod.uid": "published"}
    assert workload(published, {}, {}, Whereabouts(ID, "uid"), "x")[3:] == (ID, "uid", (), ())
    assert workload(published, {}, {}, Whereabouts(), "x")[3:] == ("published", "published", (), ())


def test_surroundings_are_read() -> None:
    host = Host()
    variables = (("OTEL_SERVICE_NAME", "shop"), ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=web,team=a"))
    host.surrounding = Surroundings("/", f"/docker/{ID}", variables)
    assert host.of() == Workload("shop", "web", None, ID, None, (("team", "a"),), ("docker", ID))


def test_a_process_is_looked_up_once() -> None:
    host = Host()
    host.contexts[7] = {"service.name": "shop"}
    assert {host.of(pid=7) for _ in range(5)} == {Workload("shop")}
    assert (host.asked, host.places) == ([7], 1)


def test_another_start_program_or_cgroup_is_looked_up_again() -> None:
    host = Host()
    for change in ({}, {"process_start_boot_ns": 9}, {"exec_id": 9}, {"cgroup_id": 9}, {}):
        host.of(pid=7, **change)
    assert host.asked == [7, 7, 7, 7]


def test_attempts_that_were_only_counted_are_of_the_latest_program() -> None:
    host = Host()
    host.contexts[7] = {"service.name": "shop"}
    host.of(pid=7, exec_id=3, cgroup_id=5)
    host.contexts.clear()
    assert host.of(pid=7, exec_id=0, cgroup_id=0).service_name == "shop"
    assert host.of(pid=8, exec_id=0, cgroup_id=0).service_name == "unknown_service:curl"


def test_a_context_that_is_published_late_is_found() -> None:
    host = Host()
    assert host.of(pid=7).service_name == "unknown_service:curl"
    host.contexts[7] = {"service.name": "shop"}
    assert host.of(pid=7).service_name == "unknown_service:curl"
    host.now += LOOK_AGAIN_S[0]
    assert host.of(pid=7).service_name == "shop"
    host.contexts[7] = {"service.name": "shop", "service.instance.id": "new"}
    host.now += LOOK_AGAIN_S[1]
    assert host.of(pid=7).service_instance_id == "new"


def test_a_context_is_asked_for_a_bounded_number_of_times() -> None:
    host = Host()
    for _ in range(10_000):
        host.of(pid=7)
        host.now += 1
    assert host.asked == [7] * (1 + len(LOOK_AGAIN_S))
    host.of(pid=8)
    host.now += LOOK_AGAIN_S[-1]
    for _ in range(10):
        host.of(pid=8)
    assert host.asked[4:] == [8, 8]


def test_a_process_that_has_gone_keeps_what_it_had_published() -> None:
    host = Host()
    host.contexts[7] = {"service.name": "shop"}
    host.of(pid=7)
    host.contexts.clear()
    host.now += LOOK_AGAIN_S[0]
    assert host.of(pid=7).service_name == "shop"


def test_a_pod_that_becomes_known_late_and_then_goes_keeps_its_names() -> None:
    host = Host()
    host.surrounding = Surroundings(f"/docker/{ID}")
    assert host.of(pid=7) == Workload("unknown_service:curl", container_id=ID, within=("docker", ID))
    named = Workload("shop", container_id=ID, published=(("k8s.pod.name", "shop-1"),), within=("docker", ID))
    host.pods[ID] = {"service.name": "shop", "k8s.pod.name": "shop-1"}
    host.now += LOOK_AGAIN_S[0]
    assert host.of(pid=7) == named
    host.pods.clear()
    host.now += LOOK_AGAIN_S[1]
    assert host.of(pid=7) == named


def test_memory_is_bounded() -> None:
    host = Host()
    for pid in (*range(100), 0):
        host.of(pid=pid)
    assert host.asked.count(0) == 2
