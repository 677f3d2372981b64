"""The metrics of the agent about itself: the ledger of attempts, and which agent this is."""

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel_connect import __version__
from otel_connect.model import Signal

SEEN = "otel_connect.agent.attempts.seen"
EXPORTED = "otel_connect.agent.attempts.exported"
QUEUED = "otel_connect.agent.attempts.queued"
DROPPED = "otel_connect.agent.attempts.dropped"
PROBE_MISSED = "otel_connect.agent.probe.missed"
BUILD_INFO = "otel_connect.agent.build.info"

SIGNAL = "otel_connect.signal"
REASON = "otel_connect.reason"
VERSION = "otel_connect.agent.version"
PYTHON_VERSION = "otel_connect.agent.python.version"


_Callback: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]


class SelfSnapshot(NamedTuple):
    """The agent's figures at one moment, all of them totals since its start but for ``queued``.

    For each signal ``seen == exported + queued + Σ dropped``.
    """

    seen: int
    """Attempts counted in the kernel before any output."""
    exported: Mapping[Signal, int]
    """Records that the backend has accepted."""
    queued: Mapping[Signal, int]
    """Records that wait: for their batch, or for the backend."""
    dropped: Mapping[tuple[Signal, str], int]
    """Records given up, by signal and reason."""
    probe_missed: int
    """What the probes noticed but could not follow; not a part of the ledger."""


def observe_agent(meter: Meter, latest: Callable[[], SelfSnapshot]) -> None:
    """Register the instruments; each reads the latest snapshot when the meter's reader collects."""

    def figure(observe: Callable[[SelfSnapshot], Iterable[Observation]]) -> list[_Callback]:
        return [lambda _options: observe(latest())]

    meter.create_observable_counter(
        SEEN,
        figure(lambda snapshot: [Observation(snapshot.seen)]),
        "{attempt}",
        "Attempts that the kernel side has seen.",
    )
    meter.create_observable_counter(
        EXPORTED,
        figure(lambda snapshot: _by_signal(snapshot.exported)),
        "{attempt}",
        "Attempts whose record the backend has accepted.",
    )
    meter.create_observable_up_down_counter(
        QUEUED,
        figure(lambda snapshot: _by_signal(snapshot.queued)),
        "{attempt}",
        "Attempts whose record waits to be sent.",
    )
    meter.create_observable_counter(
        DROPPED,
        figure(lambda snapshot: _by_reason(snapshot.dropped)),
        "{attempt}",
        "Attempts whose record was given up.",
    )
    meter.create_observable_counter(
        PROBE_MISSED,
        figure(lambda snapshot: [Observation(snapshot.probe_missed)]),
        "{event}",
        "Events that the probes noticed but could not follow.",
    )
    build = {VERSION: __version__, PYTHON_VERSION: platform.python_version()}
    meter.create_observable_gauge(
        BUILD_INFO,
        [lambda _options: [Observation(1, build)]],
        # No unit: Prometheus would call the dimensionless one "ratio".
        description="Which agent this is; always 1.",
    )


def _by_signal(totals: Mapping[Signal, int]) -> list[Observation]:
    return [Observation(total, {SIGNAL: signal.value}) for signal, total in totals.items()]


def _by_reason(totals: Mapping[tuple[Signal, str], int]) -> list[Observation]:
    return [Observation(total, {SIGNAL: signal.value, REASON: reason}) for (signal, reason), total in totals.items()]
