"""What the status server knows: one immutable report that the loop publishes, and what is read from it.

Pure: nothing here asks the kernel, the loop or a clock, so that no request can disturb the agent.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from otel_connect import __version__
from otel_connect.figures import Account, Figures, SelfMetric
from otel_connect.model import Signal, ThrottleEvent
from otel_connect.serve.text import safe

STUCK_AFTER_S = 10.0
"""A loop that has not gone round for so long is not alive."""


class Phase(StrEnum):
    """What the agent is doing."""

    CAPTURING = "capturing"
    STOPPING = "stopping"


class Reload(NamedTuple):
    """The last time the configuration was read again."""

    at_unix_ns: int
    problems: tuple[str, ...]
    """Why it was refused; empty when it is in force."""
    needs_restart: tuple[str, ...]
    """What has changed and can not be changed while running."""


class Report(NamedTuple):
    """What the loop says of the agent, about once a second."""

    pid: int
    """The agent's, in its own PID namespace."""
    phase: Phase
    started_unix_ns: int
    started_monotonic_s: float
    at_monotonic_s: float
    """When the loop said so."""
    output: str
    """Where attempts go."""
    figures: Figures
    metrics: tuple[SelfMetric, ...]
    last_reload: Reload | None


def stuck_for_s(report: Report, now_monotonic_s: float) -> float | None:
    """Say for how long the loop has not gone round, ``None`` if that is nothing to worry about."""
    silent = now_monotonic_s - report.at_monotonic_s
    return silent if silent > STUCK_AFTER_S else None


def not_ready(report: Report) -> str | None:
    """Say why the agent does not capture, ``None`` if it does."""
    if report.phase is not Phase.CAPTURING:
        return report.phase
    return None if report.figures.state.hooks else "no hook is attached"


def status_document(report: Report, now_monotonic_s: float) -> dict[str, Any]:
    """Lay the report out for JSON; ``docs/operations.md`` describes it."""
    state, outlet = report.figures
    balance = state.balance
    return {
        "version": __version__,
        "pid": report.pid,
        "phase": report.phase,
        "started": _time(report.started_unix_ns),
        "uptime_s": round(now_monotonic_s - report.started_monotonic_s, 3),
        "report_age_s": round(now_monotonic_s - report.at_monotonic_s, 3),
        "output": report.output,
        "probes": state.probes,
        "hooks": list(state.hooks),
        "balance": balance._asdict() | {"lost": dict(balance.lost), "difference": balance.difference},
        "in_progress_limit": state.in_progress_limit,
        "ring": {"bytes": state.ring_bytes, "limit_bytes": state.ring_limit_bytes},
        "throttles": list(map(_throttle, state.throttles)),
        "enrichment": {
            "unnamed_processes": state.unnamed,
            "silent_processes": state.silent,
            "unread_processes": state.unread,
            "names": None if state.names is None else state.names._asdict() | {"ignored": dict(state.names.ignored)},
        },
        "ledger": {signal.value: _ledger(signal, account) for signal, account in outlet.accounts.items()},
        "delivery": {signal.value: delivery._asdict() for signal, delivery in outlet.delivery.items()},
        "spool": None if outlet.spool is None else outlet.spool._asdict(),
        "events": dict(outlet.events),
        "last_reload": None if report.last_reload is None else _reload(report.last_reload),
    }


def status_line(figures: Figures) -> str:
    """Say in one line how it is going, for the service manager."""
    balance = figures.state.balance
    parts = [f"{balance.seen} attempts seen, {sum(balance.lost.values())} lost"]
    parts += [
        f"{signal}: {delivery.state} ({delivery.message})"
        for signal, delivery in figures.outlet.delivery.items()
        if delivery.state != "delivering"
    ]
    if figures.outlet.spool is not None and figures.outlet.spool.degraded:
        parts.append(f"spool: {figures.outlet.spool.degraded}")
    return "; ".join(parts)


def _ledger(signal: Signal, account: Account) -> dict[str, Any]:
    return {
        "made" if signal is Signal.METRICS else "seen": account.taken,
        "recovered": account.recovered,
        "exported": account.exported,
        "queued": account.queued,
        "dropped": {str(reason): count for reason, count in account.dropped.items()},
        "difference": account.difference,
    }


def _throttle(throttle: ThrottleEvent) -> dict[str, Any]:
    name = throttle.executable_name
    return {
        "limit": throttle.limit.name.lower(),
        "cgroup_id": throttle.cgroup_id,
        "pid": throttle.pid,
        "executable_name": None if name is None else safe(name),
        "withheld": throttle.attempts,
        "since": _time(throttle.at_unix_ns),
    }


def _reload(reload: Reload) -> dict[str, Any]:
    return {
        "at": _time(reload.at_unix_ns),
        "ok": not reload.problems,
        "problems": list(reload.problems),
        "needs_restart": list(reload.needs_restart),
    }


def _time(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).isoformat()
