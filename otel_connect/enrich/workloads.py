"""Whose telemetry an attempt is: the service, container and pod that its process belongs to, remembered."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cachetools import LRUCache

from otel_connect.enrich.cgroups import Whereabouts, whereabouts
from otel_connect.enrich.published import SERVICE_NAME, from_environment
from otel_connect.model import ConnectEvent, Process, Surroundings, Workload

ContextLookup = Callable[[int, int], Mapping[str, str] | None]
"""What a process, by pid and start time, publishes of itself now; ``None`` when nothing is to be had."""

LOOK_AGAIN_S = (5, 60, 600)
"""How long after the first attempt of a process its context is asked for again: many publish one only later."""

_NAMESPACE, _INSTANCE = "service.namespace", "service.instance.id"
_CONTAINER, _POD = "container.id", "k8s.pod.uid"
_OF_THEIR_OWN = frozenset({SERVICE_NAME, _NAMESPACE, _INSTANCE, _CONTAINER, _POD})

# What an SDK calls a service when nobody has named it.
_UNNAMED = "unknown_service"


class _Known(NamedTuple):
    workload: Workload
    since_s: float
    looks: int
    """How often its context has been asked for again."""


class Workloads:
    """Tells workloads; remembers those of a bounded number of processes."""

    def __init__(self, context: ContextLookup, remembered: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._known: LRUCache[tuple[int, int, int, int], _Known] = LRUCache(remembered)
        self._latest: LRUCache[tuple[int, int], tuple[int, int]] = LRUCache(remembered)

    def of(
        self, event: ConnectEvent, process: Process, surroundings: Callable[[ConnectEvent], Surroundings]
    ) -> Workload:
        """Tell the workload of the process of an event; ``surroundings`` is asked only where it is not known yet."""
        who = event.pid, event.process_start_boot_ns
        state = event.exec_id, event.cgroup_id
        if not event.exec_id:  # attempts that were only counted do not say which of its programs a process ran
            state = self._latest.get(who, state)
        key = (*who, *state)
        known = self._known.get(key)
        if known is None:
            found = _find(process, surroundings(event), self._context(*who) or {})
            known = self._known[key] = _Known(found, self._clock(), 0)
            self._latest[who] = state
        elif known.looks < len(LOOK_AGAIN_S):
            passed_s = self._clock() - known.since_s
            if passed_s >= LOOK_AGAIN_S[known.looks]:
                context = self._context(*who)
                # Without one the process may be gone: that takes nothing back.
                found = known.workload if context is None else _find(process, surroundings(event), context)
                looks = sum(passed_s >= seconds for seconds in LOOK_AGAIN_S)
                known = self._known[key] = _Known(found, known.since_s, looks)
        return known.workload


def workload(
    context: Mapping[str, str], environment: Mapping[str, str], place: Whereabouts, executable_name: str
) -> Workload:
    """Decide what a workload is called and what is said of it. Pure.

    The name is that of the published context, of the environment, of the systemd service, else
    ``unknown_service:<executable>``. Of other attributes the context's win over those of the environment, and the
    container and the pod that the kernel has over both.
    """
    published = {**environment, **context}
    names = (context.get(SERVICE_NAME), environment.get(SERVICE_NAME), place.service)
    name = next((name for name in names if name and not name.startswith(_UNNAMED)), None)
    return Workload(
        service_name=name or f"{_UNNAMED}:{executable_name}",
        service_namespace=published.get(_NAMESPACE),
        service_instance_id=published.get(_INSTANCE),
        container_id=place.container_id or published.get(_CONTAINER),
        pod_uid=place.pod_uid or published.get(_POD),
        published=tuple(sorted((key, value) for key, value in published.items() if key not in _OF_THEIR_OWN)),
    )


def _find(process: Process, surroundings: Surroundings, context: Mapping[str, str]) -> Workload:
    environment = from_environment(surroundings.environment)
    place = whereabouts(surroundings.cgroup, surroundings.cgroup_v1)
    return workload(context, environment, place, process.executable_name)
