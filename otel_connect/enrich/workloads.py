"""Whose telemetry an attempt is: the service, container and pod that its process belongs to, remembered."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cachetools import LRUCache

from otel_connect.enrich.cgroups import Whereabouts, whereabouts
from otel_connect.enrich.published import SERVICE_NAME, from_environment
from otel_connect.model import ConnectEvent, EventFlag, Process, Surroundings, Workload

ContextLookup = Callable[[int, int], Mapping[str, str] | None]
"""What a process, by pid and start time, publishes of itself now; ``None`` when nothing is to be had."""

PodLookup = Callable[[str | None, str | None], Mapping[str, str]]
"""What Kubernetes says of a container, by its id, else of its pod, by its uid, as far as that is known now."""


def no_pod(_container_id: str | None, _pod_uid: str | None) -> Mapping[str, str]:
    """Know of no pod: Kubernetes is not asked."""
    return {}


LOOK_AGAIN_S = (5, 60, 600)
"""How long after the first attempt of a process it is asked again who it is: many publish that only later."""

_NAMESPACE, _INSTANCE = "service.namespace", "service.instance.id"
_CONTAINER, _POD = "container.id", "k8s.pod.uid"
_OF_THEIR_OWN = frozenset({SERVICE_NAME, _NAMESPACE, _INSTANCE, _CONTAINER, _POD})

# What an SDK calls a service when nobody has named it.
_UNNAMED = "unknown_service"

_KERNEL = "kernel"  # in place of the executable that its threads do not have: they are one service, however many


class _Sources(NamedTuple):
    context: Mapping[str, str]
    environment: Mapping[str, str]
    pod: Mapping[str, str]
    place: Whereabouts
    executable_name: str


class _Known(NamedTuple):
    workload: Workload
    sources: _Sources
    since_s: float
    looks: int
    """How often it has been asked again."""


class Workloads:
    """Tells workloads; remembers those of a bounded number of processes."""

    def __init__(
        self,
        context: ContextLookup,
        remembered: int,
        pod: PodLookup = no_pod,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._pod = pod
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
            sources = self._ask(event, process, surroundings(event))
            known = self._known[key] = _Known(workload(*sources), sources, self._clock(), 0)
            self._latest[who] = state
        elif known.looks < len(LOOK_AGAIN_S):
            passed_s = self._clock() - known.since_s
            if passed_s >= LOOK_AGAIN_S[known.looks]:
                sources = self._ask_again(event, known.sources)
                looks = sum(passed_s >= seconds for seconds in LOOK_AGAIN_S)
                known = self._known[key] = _Known(workload(*sources), sources, known.since_s, looks)
        return known.workload

    def _ask(self, event: ConnectEvent, process: Process, surroundings: Surroundings) -> _Sources:
        place = whereabouts(surroundings.cgroup, surroundings.cgroup_v1)
        return _Sources(
            self._context(event.pid, event.process_start_boot_ns) or {},
            from_environment(surroundings.environment),
            self._pod(place.container_id, place.pod_uid),
            place,
            _KERNEL if event.flags & EventFlag.KERNEL else process.executable_name,
        )

    def _ask_again(self, event: ConnectEvent, sources: _Sources) -> _Sources:
        """Ask what may have changed; who has no answer any more may be gone, which takes nothing back."""
        context = self._context(event.pid, event.process_start_boot_ns)
        pod = self._pod(sources.place.container_id, sources.place.pod_uid)
        return sources._replace(context=sources.context if context is None else context, pod=pod or sources.pod)


def workload(
    context: Mapping[str, str],
    environment: Mapping[str, str],
    pod: Mapping[str, str],
    place: Whereabouts,
    executable_name: str,
) -> Workload:
    """Decide what a workload is called and what is said of it. Pure.

    The name is that of the published context, of the environment, of Kubernetes, of the systemd service, else
    ``unknown_service:<executable>``. Other attributes are joined, in the same order of precedence, but for the
    container and the pod: those that the kernel has win over all.
    """
    published = {**pod, **environment, **context}
    names = (*(source.get(SERVICE_NAME) for source in (context, environment, pod)), place.service)
    name = next((name for name in names if name and not name.startswith(_UNNAMED)), None)
    return Workload(
        service_name=name or f"{_UNNAMED}:{executable_name}",
        service_namespace=published.get(_NAMESPACE),
        service_instance_id=published.get(_INSTANCE),
        container_id=place.container_id or published.get(_CONTAINER),
        pod_uid=place.pod_uid or published.get(_POD),
        published=tuple(sorted((key, value) for key, value in published.items() if key not in _OF_THEIR_OWN)),
        within=place.within,
    )
