"""The one loop: capture → enrich → output.

What has ended is taken from the kernel side, decided and named, and handed to an output, which encodes and exports it.
What has no record of its own goes by ``unrecorded``. Where every attempt is, is said here.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from otel_connect.capture.kernel import Drained, Fill
from otel_connect.capture.outcome import decide
from otel_connect.enrich.asking import NotYetError
from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.filters import Filters
from otel_connect.enrich.superseded import Races
from otel_connect.figures import AgentState, NamesState
from otel_connect.model import Attempt, Balance, ConnectEvent, KernelFilters, Segment
from otel_connect.unrecorded import Counting, Tallies, Unrecorded

_log = logging.getLogger(__name__)

_STALE_EVERY_S = 60.0
_COUNTED_UP_TO = 1000  # attempts in progress: to count them is to copy them
_TALLIES_EVERY_S = 1.0
_EARLY_SHARE = 0.1  # of the time, for taking tallies before the second is over: the loop waits for the kernel meanwhile
_SEGMENTS = 512  # in a round: a flood of DNS must not stop the loop
_UNREAD = 1000
_UNREAD_NS = 5_000_000_000  # a worker that keeps silent is given up before, and another one answers
_ENRICHER_ENDS_S = 1.0  # a kubelet is on this host: it answers in milliseconds, or not at all


class Source(Tallies, Protocol):
    """Where events come from: capture.kernel.KernelCapture, or what a test puts in its place."""

    @property
    def hooks(self) -> Sequence[str]:
        """Name the hooks in use."""

    @property
    def probes(self) -> str:
        """Name the set of probes that they are."""

    def drain(self) -> Drained:
        """Take what has ended."""

    def filter(self, filters: KernelFilters) -> None:
        """Only tally what these hold of."""

    def in_progress(self) -> int:
        """Count the attempts that have no end yet."""

    def fill(self) -> Fill:
        """Say how full the stores of the kernel side are."""

    def missed(self) -> int:
        """Count the runs of a probe that the kernel skipped."""

    def take_stale(self, now_monotonic_ns: int) -> list[ConnectEvent]:
        """Take the attempts whose end must have been missed."""

    def take_in_progress(self) -> list[ConnectEvent]:
        """Take the attempts that have no end."""

    def detach(self) -> None:
        """Stop capturing."""


class Listening(Protocol):
    """Where packets of name servers come from: capture.packets.Packets."""

    def drain(self, limit: int) -> Sequence[Segment]:
        """Take what has passed, about so many at the most."""


class Output(Counting, Protocol):
    """Where attempts go: the console, JSON lines or OTLP."""

    def write(self, attempts: Sequence[Attempt]) -> int:
        """Take a batch of attempts, in the order they ended but for those that waited to be found superseded.

        Return how many it could not even take.
        """

    def tick(self, state: Callable[[], AgentState]) -> None:
        """Do what time asks for; called many times a second."""

    def close(self, state: AgentState) -> None:
        """Finish: everything that was written is out, or accounted for."""


class StopSignal(Protocol):
    """Tells the agent to stop; a threading.Event does, too."""

    def wait(self, timeout: float) -> bool:
        """Wait for so many seconds at the most; True when it is time to stop."""


class Companion(Protocol):
    """Who is told how far the agent is: life.Life."""

    def round(self) -> None:
        """Note that the loop has gone round."""

    def stopping(self) -> None:
        """Note that the end has begun."""


class Agent:
    """Moves attempts from a source to an output until it is told to stop.

    ``wall_ns`` gives Unix time and ``monotonic_ns`` CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        source: Source,
        enricher: Enricher,
        output: Output,
        drain_interval_s: float,
        *,
        listening: Listening | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._source = source
        self._enricher = enricher
        self._output = output
        self._listening = listening
        self.interval_s = drain_interval_s
        """How often the ring is read."""
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._races = Races()
        self._unrecorded = Unrecorded(source, output)
        self._unread: list[tuple[ConnectEvent, int]] = []
        self._run = os.urandom(6).hex()
        self._read = 0
        self._shown = self._unwritten = 0
        self._undecodable = 0
        self._unnamed = 0
        self._next_stale = self._next_tallies = self._earliest_tallies = 0.0

    def run(self, stop: StopSignal, duration_s: float | None = None, companion: Companion | None = None) -> Balance:
        """Run until ``stop`` says so or the time is over; returns the final balance."""
        try:
            self._loop(stop, duration_s, companion)
            if companion is not None:
                companion.stopping()
            return self._finish()
        finally:
            self._enricher.close(_ENRICHER_ENDS_S)

    def rename(self, enricher: Enricher) -> None:
        """Name what is found out about attempts in another way from now on."""
        self._unnamed += self._enricher.misses
        enricher.inherit(self._enricher)
        self._enricher.close()
        self._enricher = enricher

    def filter(self, filters: Filters) -> None:
        """Leave out what these rules say from now on."""
        if self._unrecorded.filters:  # what was left out by the former ones is counted as these wanted it
            self._drain()
            self._count()
        self._unrecorded.filters = filters
        self._source.filter(filters.in_kernel)

    def state(self) -> AgentState:
        """Say how it is going, now."""
        return AgentState(
            balance=self.balance(),
            probes=self._source.probes,
            hooks=tuple(self._source.hooks),
            **self._source.fill()._asdict(),
            unnamed=self._unnamed + self._enricher.misses,
            silent=self._enricher.silent,
            unread=self._enricher.unread,
            at_unix_ns=self._wall_ns(),
            throttles=self._unrecorded.at_work(),
            names=self._names_state(),
        )

    def balance(self) -> Balance:
        """Say where every attempt is, now.

        What is in progress is counted in the kernel's table, and so is a proof, if nothing moves meanwhile and there
        is not too much of it; else it is what remains.
        """
        before = self._source.counters()
        balance = Balance(
            seen=before.seen,
            shown=self._shown,
            in_progress=0,
            in_ring=before.emitted - self._read - self._undecodable,
            lost={
                "kernel_ring_full": before.ring_full,
                "kernel_map_full": before.pending_full,
                "kernel_throttled": before.throttled,
                "filtered": before.filtered + self._unrecorded.filtered,
                "no_syn": before.unsent,
                "undecodable": self._undecodable,
                "output_io": self._unwritten,
            },
            probe_missed=self._source.missed() + before.call_full,
            waiting=self._races.waiting + len(self._unread),
        )
        if balance.difference <= _COUNTED_UP_TO:
            counted = self._source.in_progress()
            if self._source.counters() == before:
                return balance._replace(in_progress=counted)
        # Beginnings are read after ends, so that no attempt has only ended.
        balance = balance._replace(seen=self._source.counters().seen)
        return balance._replace(in_progress=balance.difference)

    def _loop(self, stop: StopSignal, duration_s: float | None, companion: Companion | None) -> None:
        began = self._monotonic_ns() / 1e9
        self._next_stale, self._next_tallies = began + _STALE_EVERY_S, began + _TALLIES_EVERY_S
        behind = False
        while not stop.wait(0 if behind else self.interval_s):
            now = self._monotonic_ns() / 1e9
            if duration_s is not None and now - began >= duration_s:
                return
            behind = self._step(now)
            if companion is not None:
                companion.round()

    def _step(self, now: float) -> bool:
        """Do one round; True when the ring holds more."""
        behind = self._drain()
        if now >= self._next_tallies or (now >= self._earliest_tallies and self._enricher.crowded):
            self._next_tallies = now + _TALLIES_EVERY_S
            self._count()
            self._earliest_tallies = now + (self._monotonic_ns() / 1e9 - now) / _EARLY_SHARE
        if now >= self._next_stale:
            self._next_stale = now + _STALE_EVERY_S
            self._hand_over(self._source.take_stale(self._monotonic_ns()))
        self._output.tick(self.state)
        return behind

    def _drain(self) -> bool:
        drained = self._source.drain()
        self._read += len(drained.events)
        self._enricher.learn(drained.told)
        self._listen()
        if drained.undecodable:
            self._undecodable += drained.undecodable
            _log.warning("%d records of the kernel could not be decoded", drained.undecodable)
        self._hand_over(drained.events)
        return drained.more

    def _listen(self) -> None:
        """Read what name servers said: after the ring, so that no attempt is named before its answer is read."""
        if self._listening is not None:
            self._enricher.overhear(self._listening.drain(_SEGMENTS))

    def _hand_over(self, events: Sequence[ConnectEvent], *, patient: bool = True) -> None:
        if not (events or self._unread or self._races.waiting):
            return
        now, observed = self._monotonic_ns(), self._wall_ns()
        attempts = []
        waiting, self._unread = [*self._unread, *((event, now) for event in events)], []
        for event, since in waiting:
            may_wait = patient and now - since < _UNREAD_NS and len(self._unread) < _UNREAD
            try:
                attempts.append(self._attempt(event, observed, patient=may_wait))
            except NotYetError:
                self._unread.append((event, since))
        self._show(self._races.judge(attempts, now))

    def _show(self, decided: list[Attempt]) -> None:
        if not decided:
            return
        attempts = self._unrecorded.sift(decided, self._enricher)
        if self._enricher.conceals:
            attempts = [one._replace(event=self._enricher.conceal(one.event)) for one in attempts]
        unwritten = self._output.write(attempts)
        self._unwritten += unwritten
        self._shown += len(attempts) - unwritten

    def _attempt(self, event: ConnectEvent, observed_unix_ns: int, *, patient: bool) -> Attempt:
        return Attempt(
            event=event,
            verdict=decide(event),
            superseded=False,  # until it is found to be
            named=self._enricher.name(event, patient=patient),
            observed_unix_ns=observed_unix_ns,
            event_id=f"{self._run}-{event.cpu}-{event.sequence}",
        )

    def _count(self) -> None:
        """Count what has no record, once the ring is read: it holds what the kernel said of those processes before."""
        tallies = self._source.take_tallies()
        self._enricher.turn()
        if tallies:
            self._drain()
        self._unrecorded.count(tallies, self._enricher, self._monotonic_ns() / 1e9)

    def _finish(self) -> Balance:
        self._source.detach()
        while self._drain():
            pass
        self._count()
        self._unrecorded.end()
        self._hand_over(self._source.take_in_progress(), patient=False)
        self._show(self._races.end())
        state = self.state()
        self._output.close(state)
        return state.balance

    def _names_state(self) -> NamesState | None:
        return self._enricher.names_state(self._source.counters().packets_lost) if self._listening else None
