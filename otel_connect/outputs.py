"""Where attempts go: the console, JSON lines, or OTLP. Joins encode with export and serve."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO

from otel_connect.config import Configuration
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.json_lines import json_line
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.resource import Resource, resource_message
from otel_connect.encode.self_metrics import SelfSnapshot
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.model import Attempt, Balance, Request, Signal
from otel_connect.serve.console import ConsoleOutput
from otel_connect.serve.summary import Summary, render

_log = logging.getLogger(__name__)

_FLUSH_ON_CLOSE_S = 5.0
_BATCH_RECORDS = 4096
_PER_ATTEMPT = (Signal.LOGS, Signal.TRACES)  # metrics are sums: their records are data points

BalanceNow = Callable[[], Balance]


class ConsoleView:
    """One line for each attempt as it ends, and a summary."""

    def __init__(self, console: ConsoleOutput, stream: TextIO) -> None:
        self._console = console
        self._stream = stream
        self._summary = Summary()
        console.write([])  # the header: something to see while nothing happens

    def write(self, attempts: Sequence[Attempt]) -> None:
        """Show the attempts now."""
        self._summary.add(attempts)
        self._console.write(attempts)

    def tick(self, balance: BalanceNow) -> None:
        """Nothing waits here."""

    def close(self, balance: Balance) -> None:
        """Show the summary."""
        self._stream.write("\n".join(["", *render(self._summary, balance)]) + "\n")
        self._stream.flush()


class Sink(Protocol):
    """Takes serialized requests, and knows what became of their records."""

    def put(self, request: Request) -> None:
        """Take a request; never waits for anyone."""

    def accounts(self) -> Mapping[Signal, Account]:
        """Say where the records of each signal are."""

    def close(self, timeout_s: float) -> None:
        """Send what waits until the time is up."""


class JsonLines:
    """A sink that writes each request as one line of OTLP JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._ledger = Ledger()

    def put(self, request: Request) -> None:
        """Write the request now."""
        self._ledger.accept(request.signal, request.records)
        self._stream.write(json_line(request) + "\n")
        self._stream.flush()
        self._ledger.export(request.signal, request.records)

    def accounts(self) -> Mapping[Signal, Account]:
        """Count what was written as exported."""
        return self._ledger.snapshot()

    def close(self, timeout_s: float) -> None:
        """Nothing waits here."""


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
        self._flush_interval = configuration.export.flush_interval_ms / 1000
        self._metric_interval = configuration.export.metric_interval_ms / 1000
        self._balance = Balance(0, 0, 0, 0, {}, 0)
        self._encoded = 0
        self._encode_errors = 0
        self._metrics = AttemptMetrics(resource, in_progress=lambda: self._balance.in_progress, snapshot=self._snapshot)
        message = resource_message(resource)
        self._encoder = Encoder(configuration.encode, message, self._metrics)
        self._encoder_for_one = Encoder(configuration.encode, message)
        self._batch: list[Attempt] = []
        self._next_flush = 0.0
        self._next_metrics = clock() + self._metric_interval

    def write(self, attempts: Sequence[Attempt]) -> None:
        """Add the attempts to the batch; a large batch does not wait for its time."""
        if not self._batch:
            self._next_flush = self._clock() + self._flush_interval
        self._batch += attempts
        if len(self._batch) >= _BATCH_RECORDS:
            self._flush()

    def tick(self, balance: BalanceNow) -> None:
        """Send the batch and the metrics when they are due."""
        now = self._clock()
        if self._batch and now >= self._next_flush:
            self._flush()
        if now >= self._next_metrics:
            self._next_metrics = now + self._metric_interval
            self._collect(balance())

    def close(self, balance: Balance) -> None:
        """Send everything, and say where it went."""
        self._flush()
        self._collect(balance)
        self._sink.close(_FLUSH_ON_CLOSE_S)
        snapshot, accounts = self._snapshot(), self._sink.accounts()
        for signal in _PER_ATTEMPT:
            _log.info("%s", _ledger_line(snapshot, signal, accounts[signal].recovered))
        if snapshot.probe_missed:
            _log.info("probes skipped by the kernel at most %d times: see docs/operations.md", snapshot.probe_missed)

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        try:
            requests = self._encoder.encode(batch).requests
        except Exception as error:  # noqa: BLE001 - a fault of ours; said, and contained below
            _log.warning("a batch could not be encoded (%r); its attempts are tried one by one", error)
            requests = self._one_by_one(batch)
        self._encoded += len(batch)
        for request in requests:
            self._sink.put(request)

    def _one_by_one(self, batch: Sequence[Attempt]) -> tuple[Request, ...]:
        """Encode each attempt alone, so that one that cannot be encoded costs no neighbour."""
        requests: list[Request] = []
        for attempt in batch:
            try:
                requests += self._encoder_for_one.encode([attempt]).requests
            except Exception:  # noqa: BLE001 - whatever it was, it is counted
                self._encode_errors += 1
        return tuple(requests)

    def _collect(self, balance: Balance) -> None:
        self._balance = balance
        for request in self._metrics.collect():
            self._sink.put(request)

    def _snapshot(self) -> SelfSnapshot:
        """Say where the record of every attempt is, for each signal that has one record an attempt."""
        balance, accounts = self._balance, self._sink.accounts()
        waiting = balance.in_progress + balance.in_ring + balance.shown - self._encoded
        dropped: dict[tuple[Signal, str], int] = {}
        for signal in _PER_ATTEMPT:
            reasons: dict[str, int] = {**balance.lost}
            reasons.update(accounts[signal].dropped.items())
            reasons[Reason.ENCODE_ERROR] = self._encode_errors
            if signal is Signal.TRACES:
                reasons[Reason.SAMPLED] = self._encoded - self._encode_errors - accounts[signal].accepted
            dropped |= {(signal, reason): count for reason, count in reasons.items() if count}
        return SelfSnapshot(
            seen=balance.seen,
            exported={signal: accounts[signal].exported for signal in _PER_ATTEMPT},
            queued={signal: waiting + accounts[signal].queued for signal in _PER_ATTEMPT},
            dropped=dropped,
            probe_missed=balance.probe_missed,
        )


def _ledger_line(snapshot: SelfSnapshot, signal: Signal, recovered: int) -> str:
    reasons = {reason: count for (of, reason), count in snapshot.dropped.items() if of is signal}
    detail = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    known = snapshot.exported[signal] + snapshot.queued[signal] + sum(reasons.values())
    difference = snapshot.seen + recovered - known
    line = (
        f"{signal}: seen {snapshot.seen}{f' + recovered {recovered}' if recovered else ''}"
        f" = exported {snapshot.exported[signal]}"
        f" + queued {snapshot.queued[signal]} + dropped {sum(reasons.values())}"
    )
    line += f" ({detail})" if detail else ""
    return line + (f"; {difference:+} unaccounted for, please report this" if difference else "")
