"""The one loop: capture → enrich → output. Only this module and outputs.py join the rooms."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from otel_connect.capture.kernel import Drained
from otel_connect.capture.outcome import decide
from otel_connect.capture.superseded import Overtakes
from otel_connect.enrich.processes import Processes
from otel_connect.model import Attempt, Balance, ConnectEvent, KernelCounters

_log = logging.getLogger(__name__)

_CLOCK_EVERY_S = 10.0
_STALE_EVERY_S = 60.0


class Source(Protocol):
    """Where events come from: capture.kernel.KernelCapture, or what a test puts in its place."""

    @property
    def hooks(self) -> Sequence[str]:
        """Name the hooks in use."""

    def drain(self) -> Drained:
        """Take what has ended."""

    def counters(self) -> KernelCounters:
        """Read what the probes have counted."""

    def in_progress(self) -> int:
        """Count the attempts that have no end yet."""

    def missed(self) -> int:
        """Count the runs of a probe that the kernel skipped."""

    def refresh_clock(self) -> None:
        """Sample the clocks again."""

    def take_stale(self, now_monotonic_ns: int) -> list[ConnectEvent]:
        """Take the attempts whose end must have been missed."""

    def take_in_progress(self) -> list[ConnectEvent]:
        """Take the attempts that have no end."""

    def detach(self) -> None:
        """Stop capturing."""


class Output(Protocol):
    """Where attempts go: the console, JSON lines or OTLP."""

    def write(self, attempts: Sequence[Attempt]) -> None:
        """Take a batch of attempts, in the order they ended."""

    def tick(self, balance: Callable[[], Balance]) -> None:
        """Do what time asks for; called many times a second."""

    def close(self, balance: Balance) -> None:
        """Finish: everything that was written is out, or accounted for."""


class StopSignal(Protocol):
    """Tells the agent to stop; a threading.Event does, too."""

    def wait(self, timeout: float) -> bool:
        """Wait for so many seconds at the most; True when it is time to stop."""


class Agent:
    """Moves attempts from a source to an output until it is told to stop."""

    def __init__(self, source: Source, processes: Processes, output: Output, drain_interval_s: float) -> None:
        self._source = source
        self._processes = processes
        self._output = output
        self._interval = drain_interval_s
        self._overtakes = Overtakes()
        self._run = os.urandom(6).hex()
        self._read = 0
        self._shown = 0
        self._undecodable = 0
        self._next_clock = self._next_stale = 0.0

    def run(self, stop: StopSignal, duration_s: float | None = None) -> Balance:
        """Run until ``stop`` says so or the time is over; returns the final balance."""
        began = time.monotonic()
        self._next_clock, self._next_stale = began + _CLOCK_EVERY_S, began + _STALE_EVERY_S
        behind = False
        while not stop.wait(0 if behind else self._interval):
            now = time.monotonic()
            if duration_s is not None and now - began >= duration_s:
                break
            behind = self._step(now)
        return self._finish()

    def balance(self) -> Balance:
        """Say where every attempt is, now."""
        counters = self._source.counters()
        return Balance(
            seen=counters.seen,
            shown=self._shown,
            in_progress=self._source.in_progress(),
            in_ring=counters.emitted - self._read - self._undecodable,
            lost={
                "kernel_ring_full": counters.ring_full,
                "kernel_map_full": counters.pending_full,
                "undecodable": self._undecodable,
            },
            probe_missed=self._source.missed() + counters.call_full,
        )

    def _step(self, now: float) -> bool:
        """Do one round; True when the ring holds more."""
        if now >= self._next_clock:
            self._next_clock = now + _CLOCK_EVERY_S
            self._source.refresh_clock()
        behind = self._drain()
        if now >= self._next_stale:
            self._next_stale = now + _STALE_EVERY_S
            self._hand_over(self._source.take_stale(time.monotonic_ns()))
        self._output.tick(self.balance)
        return behind

    def _finish(self) -> Balance:
        self._source.detach()
        while self._drain():
            pass
        self._hand_over(self._source.take_in_progress())
        balance = self.balance()
        self._output.close(balance)
        return balance

    def _drain(self) -> bool:
        drained = self._source.drain()
        self._read += len(drained.events)
        if drained.undecodable:
            self._undecodable += drained.undecodable
            _log.warning("%d records of the kernel could not be decoded", drained.undecodable)
        self._hand_over(drained.events)
        return drained.more

    def _hand_over(self, events: Sequence[ConnectEvent]) -> None:
        if not events:
            return
        now = time.time_ns()
        self._output.write([self._attempt(event, now) for event in events])
        self._shown += len(events)

    def _attempt(self, event: ConnectEvent, observed_unix_ns: int) -> Attempt:
        verdict = decide(event)
        return Attempt(
            event=event,
            verdict=verdict,
            superseded=self._overtakes.superseded(event, verdict),
            process=self._processes.name(event),
            observed_unix_ns=observed_unix_ns,
            event_id=f"{self._run}-{event.cpu}-{event.sequence}",
        )
