"""What the agent knows about itself: one immutable account of a moment, for every output that shows it.

The loop takes it; ``encode`` makes metrics of it, ``serve`` the pages. All counts are totals since the start.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from otel_connect.model import Balance, Signal, ThrottleEvent


class NamesState(NamedTuple):
    """What has been learned of the names of peers."""

    learned: int
    """Lookups whose question and answer were both seen."""
    unanswered: int
    """Questions that got no answer within ten seconds."""
    ignored: Mapping[str, int]
    """Answers that named nothing, by reason."""
    lost: int
    """Packets that found no room on the way to the agent."""


class AgentState(NamedTuple):
    """What the loop knows of itself and of the kernel side."""

    balance: Balance
    probes: str
    """The set of probes in use: capture.hooks.ProbeSet."""
    hooks: tuple[str, ...]
    """Attached, by name."""
    in_progress_limit: int
    """How many attempts can be in progress at one time."""
    ring_bytes: int
    """What waits in the ring between kernel and agent."""
    ring_limit_bytes: int
    unnamed: int
    """Processes whose executable was not to be found out any more."""
    silent: int
    """Processes whose files or memory could not be read in time, and were given up."""
    unread: int
    """Processes whose files and memory nobody read, because the process that does so has ended."""
    at_unix_ns: int
    """When the loop went round."""
    throttles: tuple[ThrottleEvent, ...] = ()
    """The starts of the limits that withhold attempts now, with what they have withheld; the largest ones first."""
    names: NamesState | None = None
    """``None``: names are switched off."""


class Account(NamedTuple):
    """Where the records of one signal are: ``taken + recovered = exported + queued + Σ dropped``.

    Records are attempts for logs and traces, data points for metrics.
    """

    taken: int
    """What the kernel has seen, for logs and traces; what has been made, for metrics."""
    recovered: int
    """What an earlier run had left on disk."""
    exported: int
    queued: int
    """In progress, in the ring, in the current batch, or waiting for the backend."""
    dropped: Mapping[str, int]
    """By reason; only those that occurred."""

    @property
    def difference(self) -> int:
        """Records without an explanation; anything but 0 is a fault of the agent."""
        return self.taken + self.recovered - self.exported - self.queued - sum(self.dropped.values())


class Delivery(NamedTuple):
    """How the delivery of one signal is going."""

    state: str
    """``delivering``, ``retrying`` or ``unhealthy``."""
    message: str
    """What the backend, or the way to it, last complained of; empty if it never did."""
    for_s: float
    """How long it has been so."""


class Spool(NamedTuple):
    """What waits on disk."""

    bytes: int
    limit_bytes: int
    oldest_s: float
    """Age of the oldest record that waits; 0 when none does."""
    degraded: str
    """Why the disk is not used at the moment; empty when it is."""


class Distribution(NamedTuple):
    """A histogram: how many values lie up to each bound, and how many above the last one."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """Of each interval by itself; one more than there are bounds."""
    sum: float


class Outlet(NamedTuple):
    """What an output knows about what it was given; empty where attempts do not become telemetry."""

    accounts: Mapping[Signal, Account]
    delivery: Mapping[Signal, Delivery]
    spool: Spool | None
    delays: Mapping[Signal, Distribution]
    """Seconds from handing a record over to the backend's success."""
    events: Mapping[str, int]
    """Events of the agent that were sent, by name."""
    overflowed: int
    """Attempts that the metrics count with ``_other`` in place of an attribute."""


NO_OUTLET = Outlet({}, {}, None, {}, {}, 0)
"""That of an output whose attempts do not become telemetry."""


class Figures(NamedTuple):
    """Everything the agent can say about itself at one moment."""

    state: AgentState
    outlet: Outlet


NO_FIGURES = Figures(AgentState(Balance(0, 0, 0, 0, {}, 0), "", (), 0, 0, 0, 0, 0, 0, 0), NO_OUTLET)
"""Before anything is known."""


class Kind(StrEnum):
    """What a metric is to a backend."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "up_down_counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Point(NamedTuple):
    """One value of a metric; a histogram has a distribution."""

    value: float | Distribution
    attributes: Mapping[str, str]


class SelfMetric(NamedTuple):
    """One metric about the agent itself, with its values, as OTLP and the metrics page both show it."""

    name: str
    kind: Kind
    unit: str
    """By UCUM, as OpenTelemetry has it; empty for none."""
    description: str
    points: tuple[Point, ...]
