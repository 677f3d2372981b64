"""Where attempts go: the console, JSON lines, or OTLP. Joins encode with export and serve."""

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from otel_connect.config import Configuration, ExportConfig
from otel_connect.encode.cardinality import Moment
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.events import AgentEvent, encode_event, stopped
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.repeats import Repeats
from otel_connect.encode.resource import (
    NODE_NAME_VARIABLE,
    Resource,
    WorkloadResources,
    agent_resource,
    resource_message,
)
from otel_connect.encode.throttles import throttle_event
from otel_connect.export.delay import BOUNDARIES_S, Delays
from otel_connect.export.ledger import Account as Records
from otel_connect.export.ledger import Reason
from otel_connect.export.sender import Health
from otel_connect.export.spool import SpoolState
from otel_connect.figures import (
    NO_FIGURES,
    NO_OUTLET,
    Account,
    AgentState,
    Delivery,
    Distribution,
    Figures,
    Outlet,
    Spool,
)
from otel_connect.host import machine_id
from otel_connect.model import Attempt, Balance, Request, Signal, Tallied, ThrottleEvent
from otel_connect.serve.console import ConsoleOutput
from otel_connect.serve.lines import Lines
from otel_connect.serve.summary import Summary, account_line, render

_log = logging.getLogger(__name__)

_FLUSH_ON_CLOSE_S = 5.0
_BATCH_RECORDS = 4096
_PER_ATTEMPT = (Signal.LOGS, Signal.TRACES)  # metrics are sums: their records are data points

StateNow = Callable[[], AgentState]


class ConsoleView:
    """One line for each attempt as it ends, and a summary."""

    def __init__(self, console: ConsoleOutput, lines: Lines) -> None:
        self._console = console
        self._lines = lines
        self._summary = Summary()
        self._begun = False

    def write(self, attempts: Sequence[Attempt]) -> int:
        """Show the attempts now, and return how many could not be shown; the summary has them all the same."""
        self._summary.add(attempts)
        return self._console.write(attempts)

    def count(self, tallied: Sequence[Tallied]) -> None:
        """Leave it to the summary's losses: there is nothing to show of each."""

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        """Nothing: the agent's own log says it."""

    def tick(self, _state: StateNow) -> None:
        """Show the header at first: something to see while nothing happens."""
        if not self._begun:
            self._begun = True
            self._console.write([])

    def close(self, state: AgentState) -> None:
        """Show the summary; what of it cannot be shown, the account at least goes to the log."""
        lines = ["", *render(self._summary, state.balance)]
        if self._lines.write(lines) < len(lines):
            _log.warning("%s", account_line(state.balance))

    def outlet(self, _state: AgentState) -> Outlet:
        """Nothing is sent from here."""
        return NO_OUTLET

    def event(self, event: AgentEvent) -> None:
        """Events are for backends; a person reads the log."""

    def reconfigure(self, configuration: Configuration) -> None:
        """Nothing of it can be configured."""


class Sink(Protocol):
    """Takes serialized requests, and knows what became of their records."""

    def put(self, request: Request) -> object:
        """Take a request; never waits for anyone."""

    def accounts(self) -> Mapping[Signal, Records]:
        """Say where the records of each signal are."""

    def health(self) -> Mapping[Signal, Health]:
        """Tell for each signal how delivery is going."""

    def spool_state(self) -> SpoolState | None:
        """Say what waits on disk; ``None`` where nothing does."""

    def delays(self) -> Mapping[Signal, Delays]:
        """Tell how long the records that arrived had waited."""

    def reconfigure(self, config: ExportConfig) -> None:
        """Deliver in another way from now on; raises ConfigError and changes nothing when that cannot be."""

    def close(self, timeout_s: float) -> None:
        """Send what waits until the time is up."""


class Telemetry:
    """Encodes attempts in batches, and collects the metrics when they are due, for a sink."""

    def __init__(
        self,
        configuration: Configuration,
        resource: Resource,
        sink: Sink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._state = NO_FIGURES.state
        self._encoded = 0
        self._collapsed = 0
        self._encode_errors = 0
        self._events: Counter[str] = Counter()
        self._resource = resource_message(resource)
        self._workloads = WorkloadResources(resource)
        self._metrics = AttemptMetrics(
            self._workloads,
            figures=lambda: Figures(self._state, self.outlet(self._state)),
            clock=lambda: Moment(time.time_ns(), int(clock() * 1e9)),
        )
        self._repeats = Repeats(configuration.encode)
        self._batch: list[Attempt] = []
        self._next_flush = self._next_metrics = 0.0
        self._configure(configuration)

    def write(self, attempts: Sequence[Attempt]) -> int:
        """Add the attempts to the batch; a large batch does not wait for its time. What is lost, the ledger has."""
        if not self._batch:
            self._next_flush = self._clock() + self._flush_interval
        self._batch += attempts
        if len(self._batch) >= _BATCH_RECORDS:
            self._flush()
        return 0

    def count(self, tallied: Sequence[Tallied]) -> None:
        """Count the attempts in the metrics."""
        self._metrics.record_tallied(tallied)

    def throttled(self, events: Sequence[ThrottleEvent]) -> None:
        """Send each event now: it is a log record, but of no attempt, and stands in no account of them."""
        for event in events:
            made = throttle_event(event)
            self._events[made.name] += 1
            self._sink.put(encode_event(made, self._resource, event.at_unix_ns))

    def tick(self, state: StateNow) -> None:
        """Send the batch and the metrics when they are due."""
        now = self._clock()
        if (self._batch and now >= self._next_flush) or self._repeats.over(now):
            self._flush()
        if now >= self._next_metrics:
            self._next_metrics = now + self._metric_interval
            self._collect(state())

    def event(self, event: AgentEvent) -> None:
        """Send an event of the agent; it is no attempt, and not in the account of these."""
        self._events[event.name] += 1
        self._sink.put(encode_event(event, self._resource, time.time_ns()))

    def reconfigure(self, configuration: Configuration) -> None:
        """Encode and deliver in another way from now on; raises ConfigError and changes nothing if that cannot be."""
        self._sink.reconfigure(configuration.export)
        self._send(self._encoder_uncounted, self._repeats.ended(None))
        self._repeats = Repeats(configuration.encode)
        self._configure(configuration)

    def outlet(self, state: AgentState) -> Outlet:
        """Say where the record of every attempt is, for each signal that has one record an attempt, and of all else."""
        records, spool, now = self._sink.accounts(), self._sink.spool_state(), self._clock()
        return Outlet(
            accounts={signal: self._account(signal, state.balance, records[signal]) for signal in Signal},
            delivery={
                signal: Delivery(health.state, health.message, round(now - health.since_s, 3))
                for signal, health in self._sink.health().items()
            },
            spool=None if spool is None else _spool(spool),
            delays={
                signal: Distribution(BOUNDARIES_S, delays.counts, delays.sum_s)
                for signal, delays in self._sink.delays().items()
            },
            events=dict(self._events),
            overflowed=self._metrics.overflowed,
        )

    def close(self, state: AgentState) -> None:
        """Send everything, and say where it went."""
        self._flush()
        self._send(self._encoder_uncounted, self._repeats.ended(None))
        self._collect(state)
        self.event(stopped(state.balance.seen))
        self._sink.close(_FLUSH_ON_CLOSE_S)
        accounts = self.outlet(state).accounts
        for signal in (*_PER_ATTEMPT, Signal.METRICS):
            _log.info("%s", _ledger_line(signal, accounts[signal]))
        if state.balance.probe_missed:
            _log.info(
                "probes skipped by the kernel at most %d times: see docs/troubleshooting.md", state.balance.probe_missed
            )

    def _configure(self, configuration: Configuration) -> None:
        self._flush_interval = configuration.export.flush_interval_ms / 1000
        self._metric_interval = configuration.export.metric_interval_ms / 1000
        self._next_metrics = self._clock() + self._metric_interval
        self._metrics.expire_s = configuration.encode.series_expire_s
        self._encoder = Encoder(configuration.encode, self._workloads, self._metrics)
        # For what the metrics have counted before.
        self._encoder_uncounted = Encoder(configuration.encode, self._workloads)

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        now = self._clock()
        self._send(self._encoder_uncounted, self._repeats.ended(now))
        selected = self._repeats.select(batch, now)
        self._metrics.record(selected.unsent)
        self._send(self._encoder, selected.sent)

    def _send(self, encoder: Encoder, batch: Sequence[Attempt]) -> None:
        try:
            requests = encoder.encode(batch).requests
        except Exception as error:  # noqa: BLE001 - a fault of ours; said, and contained below
            _log.warning("a batch could not be encoded (%r); its attempts are tried one by one", error)
            requests = self._one_by_one(batch)
        stood_for = sum(attempt.repeat_count for attempt in batch)
        self._encoded += stood_for
        self._collapsed += stood_for - len(batch)
        for request in requests:
            self._sink.put(request)

    def _one_by_one(self, batch: Sequence[Attempt]) -> tuple[Request, ...]:
        """Encode each attempt alone, so that one that cannot be encoded costs no neighbour."""
        requests: list[Request] = []
        for attempt in batch:
            try:
                requests += self._encoder_uncounted.encode([attempt]).requests
            except Exception:  # noqa: BLE001 - whatever it was, it is counted
                self._encode_errors += 1
        return tuple(requests)

    def _collect(self, state: AgentState) -> None:
        self._state = state
        for request in self._metrics.collect():
            self._sink.put(request)

    def _account(self, signal: Signal, balance: Balance, records: Records) -> Account:
        if signal not in _PER_ATTEMPT:
            return Account(records.accepted, records.recovered, records.exported, records.queued, _by_reason(records))
        waiting = balance.in_progress + balance.in_ring + balance.waiting + balance.shown - self._encoded
        reasons = {**balance.lost, **_by_reason(records)}
        reasons[Reason.ENCODE_ERROR] = self._encode_errors
        reasons[Reason.SAMPLED] = self._collapsed
        if signal is Signal.TRACES:
            reasons[Reason.SAMPLED] = self._encoded - self._encode_errors - records.accepted
        dropped = {reason: count for reason, count in reasons.items() if count}
        return Account(balance.seen, records.recovered, records.exported, waiting + records.queued, dropped)


def make_telemetry(configuration: Configuration, sink: Sink) -> Telemetry:
    """Make what encodes for a sink: as the configuration, the standard variables and this host have it."""
    resource = agent_resource(
        os.uname(),
        instance_id=str(uuid.uuid4()),
        machine_id=machine_id(),
        node_name=os.environ.get(NODE_NAME_VARIABLE),
    )
    return Telemetry(configuration, resource, sink)


def _spool(state: SpoolState) -> Spool:
    return Spool(state.size_bytes, state.limit_bytes, round(state.oldest_age_s or 0.0, 3), state.degraded or "")


def _by_reason(records: Records) -> dict[str, int]:
    return {str(reason): count for reason, count in records.dropped.items()}


def _ledger_line(signal: Signal, account: Account) -> str:
    detail = ", ".join(f"{reason} {count}" for reason, count in sorted(account.dropped.items()))
    line = f"{signal}: {'seen' if signal in _PER_ATTEMPT else 'made'} {account.taken}"
    line += f" + recovered {account.recovered}" if account.recovered else ""
    line += f" = exported {account.exported} + queued {account.queued} + dropped {sum(account.dropped.values())}"
    line += f" ({detail})" if detail else ""
    return line + (f"; {account.difference:+} unaccounted for, please report this" if account.difference else "")
