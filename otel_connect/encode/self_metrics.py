"""The metrics of the agent about itself, in one table: OTLP and the metrics page both show what it makes."""

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from otel_connect import __version__
from otel_connect.figures import Figures, Kind, NamesState, Point, SelfMetric, Spool
from otel_connect.model import Signal

SIGNAL = "otel_connect.signal"
REASON = "otel_connect.reason"
HOOK = "otel_connect.hook"
MAP = "otel_connect.map"
LOOKUP = "otel_connect.lookup"
EVENT = "otel_connect.event.name"
VERSION = "otel_connect.agent.version"
PYTHON_VERSION = "otel_connect.agent.python.version"

_PER_ATTEMPT = (Signal.LOGS, Signal.TRACES)  # a record is an attempt; of metrics it is a data point

_Observe = Callable[[Figures], Iterable[Point]]


class _Row(NamedTuple):
    name: str
    kind: Kind
    unit: str
    description: str
    observe: _Observe


def self_metrics(figures: Figures) -> tuple[SelfMetric, ...]:
    """Give every metric with its values; one that has no source at the moment has none."""
    return tuple(SelfMetric(f"otel_connect.agent.{row.name}", *row[1:4], tuple(row.observe(figures))) for row in _TABLE)


def _one(value: Callable[[Figures], float]) -> _Observe:
    return lambda figures: (Point(value(figures), {}),)


def _of_attempts(column: Callable[[Figures, Signal], float]) -> _Observe:
    """Give one point for each signal that has one record an attempt."""
    return lambda figures: (
        Point(column(figures, signal), {SIGNAL: signal.value})
        for signal in _PER_ATTEMPT
        if signal in figures.outlet.accounts
    )


def _of_data_points(column: Callable[[Figures, Signal], float]) -> _Observe:
    return lambda figures: (
        (Point(column(figures, Signal.METRICS), {}),) if Signal.METRICS in figures.outlet.accounts else ()
    )


def _dropped(figures: Figures) -> Iterable[Point]:
    for signal in _PER_ATTEMPT:
        if signal in figures.outlet.accounts:
            for reason, count in figures.outlet.accounts[signal].dropped.items():
                yield Point(count, {SIGNAL: signal.value, REASON: str(reason)})


def _data_points_dropped(figures: Figures) -> Iterable[Point]:
    if Signal.METRICS in figures.outlet.accounts:
        for reason, count in figures.outlet.accounts[Signal.METRICS].dropped.items():
            yield Point(count, {REASON: str(reason)})


def _spool(value: Callable[[Spool], float]) -> _Observe:
    return lambda figures: () if figures.outlet.spool is None else (Point(value(figures.outlet.spool), {}),)


def _names(value: Callable[[NamesState], float]) -> _Observe:
    return lambda figures: () if figures.state.names is None else (Point(value(figures.state.names), {}),)


def _each(values: Callable[[Figures], Mapping[str, float]], attribute: str) -> _Observe:
    return lambda figures: (Point(value, {attribute: str(key)}) for key, value in values(figures).items())


_BUILD = {VERSION: __version__, PYTHON_VERSION: platform.python_version()}

_TABLE = (
    _Row(
        "attempts.seen",
        Kind.COUNTER,
        "{attempt}",
        "Attempts that the kernel side has seen.",
        _one(lambda of: of.state.balance.seen),
    ),
    _Row(
        "attempts.recovered",
        Kind.COUNTER,
        "{attempt}",
        "Attempts whose record an earlier run had left on disk.",
        _of_attempts(lambda of, signal: of.outlet.accounts[signal].recovered),
    ),
    _Row(
        "attempts.exported",
        Kind.COUNTER,
        "{attempt}",
        "Attempts whose record the backend has accepted.",
        _of_attempts(lambda of, signal: of.outlet.accounts[signal].exported),
    ),
    _Row(
        "attempts.queued",
        Kind.UP_DOWN_COUNTER,
        "{attempt}",
        "Attempts whose record waits to be sent.",
        _of_attempts(lambda of, signal: of.outlet.accounts[signal].queued),
    ),
    _Row(
        "attempts.dropped",
        Kind.COUNTER,
        "{attempt}",
        "Attempts whose record was given up.",
        _dropped,
    ),
    _Row(
        "data_points.made",
        Kind.COUNTER,
        "{data_point}",
        "Metric data points that were made to be sent.",
        _of_data_points(lambda of, signal: of.outlet.accounts[signal].taken),
    ),
    _Row(
        "data_points.recovered",
        Kind.COUNTER,
        "{data_point}",
        "Data points that an earlier run had left on disk.",
        _of_data_points(lambda of, signal: of.outlet.accounts[signal].recovered),
    ),
    _Row(
        "data_points.exported",
        Kind.COUNTER,
        "{data_point}",
        "Data points that the backend has accepted.",
        _of_data_points(lambda of, signal: of.outlet.accounts[signal].exported),
    ),
    _Row(
        "data_points.queued",
        Kind.UP_DOWN_COUNTER,
        "{data_point}",
        "Data points that wait to be sent.",
        _of_data_points(lambda of, signal: of.outlet.accounts[signal].queued),
    ),
    _Row(
        "data_points.dropped",
        Kind.COUNTER,
        "{data_point}",
        "Data points that were given up.",
        _data_points_dropped,
    ),
    _Row(
        "probe.attached",
        Kind.GAUGE,
        "",
        "Whether the hook is in use: 1.",
        lambda of: (Point(1, {HOOK: hook}) for hook in of.state.hooks),
    ),
    _Row(
        "probe.missed",
        Kind.COUNTER,
        "{event}",
        "Events that the probes noticed but could not follow.",
        _one(lambda of: of.state.balance.probe_missed),
    ),
    _Row(
        "map.entries",
        Kind.UP_DOWN_COUNTER,
        "{entry}",
        "Entries of a table of the kernel side.",
        _each(lambda of: {"in_progress": of.state.balance.in_progress}, MAP),
    ),
    _Row(
        "map.limit",
        Kind.UP_DOWN_COUNTER,
        "{entry}",
        "Entries that a table of the kernel side has room for.",
        _each(lambda of: {"in_progress": of.state.in_progress_limit}, MAP),
    ),
    _Row(
        "ring.usage",
        Kind.UP_DOWN_COUNTER,
        "By",
        "Bytes that wait in the ring between kernel and agent.",
        _one(lambda of: of.state.ring_bytes),
    ),
    _Row(
        "ring.limit",
        Kind.UP_DOWN_COUNTER,
        "By",
        "Bytes that the ring has room for.",
        _one(lambda of: of.state.ring_limit_bytes),
    ),
    _Row(
        "enrichment.misses",
        Kind.COUNTER,
        "{process}",
        "Processes of which something was not to be found out.",
        _each(
            lambda of: {"executable": of.state.unnamed, "silent": of.state.silent, "unread": of.state.unread}, LOOKUP
        ),
    ),
    _Row(
        "names.learned",
        Kind.COUNTER,
        "{lookup}",
        "Lookups of a name whose question and answer were both seen.",
        _names(lambda names: names.learned),
    ),
    _Row(
        "names.unanswered",
        Kind.COUNTER,
        "{lookup}",
        "Questions to name servers that got no answer within ten seconds.",
        _names(lambda names: names.unanswered),
    ),
    _Row(
        "names.ignored",
        Kind.COUNTER,
        "{message}",
        "Messages of name servers that named nothing.",
        _each(lambda of: of.state.names.ignored if of.state.names else {}, REASON),
    ),
    _Row(
        "names.lost",
        Kind.COUNTER,
        "{message}",
        "Packets to or from name servers that found no room on the way to the agent.",
        _names(lambda names: names.lost),
    ),
    _Row(
        "metrics.overflowed",
        Kind.COUNTER,
        "{attempt}",
        "Attempts counted with _other in place of an attribute.",
        _one(lambda of: of.outlet.overflowed),
    ),
    _Row(
        "export.healthy",
        Kind.GAUGE,
        "",
        "Whether the backend takes requests: 1, else 0.",
        _each(
            lambda of: {signal: int(each.state == "delivering") for signal, each in of.outlet.delivery.items()},
            SIGNAL,
        ),
    ),
    _Row(
        "export.delay",
        Kind.HISTOGRAM,
        "s",
        "Time from handing a request over to its acceptance by the backend.",
        lambda of: (Point(delay, {SIGNAL: signal.value}) for signal, delay in of.outlet.delays.items()),
    ),
    _Row(
        "spool.usage",
        Kind.UP_DOWN_COUNTER,
        "By",
        "Bytes that wait in the spool.",
        _spool(lambda spool: spool.bytes),
    ),
    _Row(
        "spool.limit",
        Kind.UP_DOWN_COUNTER,
        "By",
        "Bytes that the spool has room for.",
        _spool(lambda spool: spool.limit_bytes),
    ),
    _Row(
        "spool.oldest.age",
        Kind.GAUGE,
        "s",
        "Age of the oldest record that waits in the spool.",
        _spool(lambda spool: spool.oldest_s),
    ),
    _Row(
        "spool.degraded",
        Kind.GAUGE,
        "",
        "Whether the disk cannot be used and memory stands in: 1, else 0.",
        _spool(lambda spool: int(bool(spool.degraded))),
    ),
    _Row(
        "events",
        Kind.COUNTER,
        "{event}",
        "Log records that the agent sent about itself; no attempts.",
        _each(lambda of: of.outlet.events, EVENT),
    ),
    _Row(
        "heartbeat",
        Kind.GAUGE,
        "s",
        "Unix time at which the agent's loop last went round.",
        _one(lambda of: of.state.at_unix_ns / 1e9),
    ),
    _Row(
        # No unit, here and wherever it says whether: Prometheus would call the dimensionless one "ratio".
        "build.info",
        Kind.GAUGE,
        "",
        "Which agent this is; always 1.",
        lambda _of: (Point(1, _BUILD),),
    ),
)
