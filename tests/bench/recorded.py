"""The agent's two ends without a kernel and without a backend."""

from collections.abc import Callable, Mapping, Sequence
from threading import Event

from otel_connect.capture.kernel import Drained, Fill
from otel_connect.capture.layout import ClockOffsets, decode_event, ring_records
from otel_connect.config import ExportConfig
from otel_connect.enrich.enricher import Enricher
from otel_connect.export.delay import Delays
from otel_connect.export.ledger import Account, Ledger
from otel_connect.export.sender import Health
from otel_connect.export.spool import SpoolState
from otel_connect.figures import AgentState
from otel_connect.model import (
    Attempt,
    ConnectEvent,
    KernelCounters,
    KernelFilters,
    Request,
    Signal,
    Tallied,
    Tally,
    ThrottleEvent,
)
from tests.bench.records import READING
from tests.support.enriching import make_enricher

CLOCK = ClockOffsets(monotonic_ns=1_700_000_000_000_000_000, boot_ns=1_700_000_000_000_000_000)


def fake_enricher() -> Enricher:
    """Name processes without asking the host."""
    return make_enricher(lambda pid, _start: f"/usr/lib/programs/program-{pid}", "user-{0.uid}".format)


class Recorded:
    """A source that gives readings of a ring, one at each drain, and stops the agent after the last."""

    hooks = ("recorded",)
    probes = "recorded"

    def __init__(self, rings: Sequence[bytes], stop: Event) -> None:
        self._rings = list(reversed(rings))
        self._records = len(rings) * READING
        self._stop = stop

    def drain(self) -> Drained:
        """Decode the next reading, as the kernel's source does."""
        if not self._rings:
            self._stop.set()
            return Drained([], 0, more=False)
        ring = self._rings.pop()
        records = ring_records(ring, -1, 0, len(ring), len(ring)).records
        return Drained([decode_event(record, CLOCK) for record in records], 0, more=False)

    def take_tallies(self) -> list[Tally]:
        """Everything has a record."""
        return []

    def counters(self) -> KernelCounters:
        """Count what the readings hold."""
        return KernelCounters(self._records, self._records, 0, 0, 0, 0, 0)

    def filter(self, filters: KernelFilters) -> None:
        """There are none."""

    def in_progress(self) -> int:
        """Nothing is in progress."""
        return 0

    def fill(self) -> Fill:
        """Nothing has a size."""
        return Fill(0, 0, 0)

    def missed(self) -> int:
        """Nothing was missed."""
        return 0

    def take_stale(self, now_monotonic_ns: int) -> list[ConnectEvent]:  # noqa: ARG002 - the source's interface
        """Nothing is stale."""
        return []

    def take_in_progress(self) -> list[ConnectEvent]:
        """Nothing is in progress."""
        return []

    def detach(self) -> None:
        """Nothing is attached."""


class Discard:
    """A sink that counts requests and throws them away."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self.log_bytes = 0

    def put(self, request: Request) -> None:
        """Count a request."""
        self._ledger.accept(request.signal, request.records)
        self._ledger.export(request.signal, request.records)
        self.log_bytes += len(request.body) if request.signal is Signal.LOGS else 0

    def accounts(self) -> Mapping[Signal, Account]:
        """Say what was counted."""
        return self._ledger.snapshot()

    def health(self) -> Mapping[Signal, Health]:
        """Nothing is delivered."""
        return {}

    def spool_state(self) -> SpoolState | None:
        """Nothing waits here."""
        return None

    def delays(self) -> Mapping[Signal, Delays]:
        """Nothing waits here."""
        return {}

    def reconfigure(self, config: ExportConfig) -> None:
        """Nothing can be configured."""

    def close(self, timeout_s: float) -> None:
        """Nothing waits here."""


class Keep:
    """An output that keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Attempt]] = []

    def write(self, attempts: Sequence[Attempt]) -> int:
        """Keep a batch."""
        self.batches.append(attempts)
        return 0

    def count(self, tallied: Sequence[Tallied]) -> None:
        """Everything has a record."""

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        """Nothing is withheld."""

    def tick(self, state: Callable[[], AgentState]) -> None:
        """Nothing waits here."""

    def close(self, state: AgentState) -> None:
        """Nothing waits here."""
