"""The room's front door: an event in, all that is found out about it."""

from collections.abc import Iterable

from otel_connect.enrich.masks import Masks
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import Processes
from otel_connect.enrich.workloads import Workloads
from otel_connect.model import ConnectEvent, Executable, Named


class Enricher:
    """Says of an attempt whose it is, and to whom."""

    def __init__(
        self, processes: Processes, workloads: Workloads, peers: KnownPeers, masks: Masks | None = None
    ) -> None:
        self._processes = processes
        self._workloads = workloads
        self._peers = peers
        self._masks = masks

    @property
    def misses(self) -> int:
        """Processes whose executable was not to be found out any more."""
        return self._processes.misses

    @property
    def conceals(self) -> bool:
        """Whether ``conceal`` changes anything."""
        return self._masks is not None

    def learn(self, executables: Iterable[Executable]) -> None:
        """Take note of what the kernel tells about processes."""
        self._processes.learn(executables)

    def inherit(self, former: "Enricher") -> None:
        """Take over what another one was told: the kernel does not tell it again."""
        self._processes.inherit(former._processes)  # noqa: SLF001 - one of its own

    def name(self, event: ConnectEvent) -> Named:
        """Name the process of an event, its workload and its peer."""
        process = self._processes.name(event)
        return Named(
            process,
            self._workloads.of(event, process, self._processes.surroundings),
            service_peer_name=self._peers.find(*event.target),
        )

    def conceal(self, event: ConnectEvent) -> ConnectEvent:
        """Return the event as it may leave the agent, once all is decided that depends on its addresses."""
        return event if self._masks is None else self._masks.event(event)
