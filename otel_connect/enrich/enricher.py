"""The room's front door: an event in, all that is found out about it."""

from collections.abc import Iterable

from otel_connect.enrich.asking import Reader
from otel_connect.enrich.backends import Backends
from otel_connect.enrich.kubelet import Pods
from otel_connect.enrich.masks import Masks
from otel_connect.enrich.names import Names
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import Processes
from otel_connect.enrich.redact import redact_title
from otel_connect.enrich.workloads import Workloads
from otel_connect.figures import NamesState
from otel_connect.model import ConnectEvent, Named, Segment, Surroundings, Told


class Enricher:
    """Says of an attempt whose it is, and to whom."""

    def __init__(
        self,
        processes: Processes,
        workloads: Workloads,
        peers: KnownPeers,
        *,
        masks: Masks | None = None,
        names: Names | None = None,
        backends: Backends | None = None,
        pods: Pods | None = None,
        reader: Reader | None = None,
    ) -> None:
        """Join the parts; ``pods`` is what is asked for them beside the loop, to be closed with it.

        ``reader`` is who the parts ask about processes, and stays when this one goes.
        """
        self._processes = processes
        self._workloads = workloads
        self._peers = peers
        self._masks = masks
        self._names = names
        self._backends = backends
        self._pods = pods
        self._reader = reader
        self._calls_itself_a_secret = False

    @property
    def misses(self) -> int:
        """Processes whose executable was not to be found out any more."""
        return self._processes.misses

    @property
    def silent(self) -> int:
        """Processes of which nothing was read because that took too long; of all enrichers with this reader."""
        return 0 if self._reader is None else self._reader.silent

    @property
    def unread(self) -> int:
        """Processes of which nothing was read because the reader has ended; of all enrichers with this reader."""
        return 0 if self._reader is None else self._reader.unread

    @property
    def conceals(self) -> bool:
        """Whether ``conceal`` changes anything in what has been named so far."""
        return self._masks is not None or self._calls_itself_a_secret

    def learn(self, told: Iterable[Told]) -> None:
        """Take note of what the kernel tells about processes."""
        self._processes.learn(told)

    @property
    def crowded(self) -> bool:
        """Whether attempts without a record have to be named now, before their processes are forgotten."""
        return self._processes.crowded

    def turn(self) -> None:
        """Begin another turn: the attempts without a record have been taken."""
        self._processes.turn()

    def overhear(self, segments: Iterable[Segment]) -> None:
        """Take note of what name servers are asked, and of what they say."""
        if self._names is not None:
            self._names.see(segments)

    def names_state(self, lost: int) -> NamesState | None:
        """Say what has been learned of names, ``None`` when none are; ``lost`` as in ``NamesState``."""
        return None if self._names is None else self._names.state(lost)

    def inherit(self, former: "Enricher") -> None:
        """Take over what another one was told: the kernel does not tell it again."""
        self._processes.inherit(former._processes)  # noqa: SLF001 - one of its own
        self._names = former._names  # noqa: SLF001

    def close(self, wait_s: float = 0.0) -> None:
        """End what goes on beside the loop, and wait so long at the most until it has ended."""
        if self._pods is not None:
            self._pods.close(wait_s)

    def name(self, event: ConnectEvent, *, patient: bool = False) -> Named:
        """Name the process of an event, its workload and its peer.

        ``patient`` raises NotYetError where something is still being read of the process; else that is left out.
        """
        if self._reader is not None:
            self._reader.patient = patient
        process = self._processes.name(event)
        self._calls_itself_a_secret |= redact_title(event.comm) != event.comm
        return Named(
            process,
            self._workloads.of(event, process, self._processes.surroundings),
            server=None if self._names is None else self._names.of(event),
            service_peer_name=self._peers.find(*event.target),
            backend=self._backend(event),
        )

    def surroundings(self, event: ConnectEvent) -> Surroundings:
        """Say what the process of an event lives in; not remembered here."""
        if self._reader is not None:
            self._reader.patient = False
        return self._processes.surroundings(event)

    def conceal(self, event: ConnectEvent) -> ConnectEvent:
        """Return the event as it may leave the agent, once all is decided that depends on what it hides."""
        comm = redact_title(event.comm)
        shown = event if comm == event.comm else event._replace(comm=comm)
        return shown if self._masks is None else self._masks.event(shown)

    def _backend(self, event: ConnectEvent) -> tuple[str, int] | None:
        if self._backends is None or (found := self._backends.find(event)) is None:
            return None
        address, port = found
        return (address if self._masks is None else self._masks.address(address)), port
