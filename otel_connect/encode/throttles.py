"""Throttle events as events of the agent: they are about no single attempt, and no account counts them."""

from otel_connect.encode.attributes import PROCESS_EXECUTABLE_NAME, PROCESS_PID
from otel_connect.encode.events import AgentEvent
from otel_connect.model import ThrottleEvent, Withheld

THROTTLE_STARTED = "otel_connect.agent.throttle.started"
THROTTLE_STOPPED = "otel_connect.agent.throttle.stopped"

LIMIT = "otel_connect.throttle.limit"
ATTEMPTS = "otel_connect.throttle.attempts"
CGROUP_ID = "otel_connect.cgroup.id"

_REASONS = {
    Withheld.PROCESS_RATE: "makes more attempts than capture.process_rate",
    Withheld.CGROUP_RATE: "is of a cgroup that makes more attempts than capture.cgroup_rate",
    Withheld.RING_PRESSURE: "makes attempts faster than the agent reads them",
}


def throttle_line(event: ThrottleEvent) -> str:
    """Say in one line what happened; names in it are as the process chose them."""
    who = "a program" if event.executable_name is None else f"{event.executable_name}[{event.pid}]"
    if event.started:
        return f"{who} {_REASONS[event.limit]}: from now on the metrics have all of them, records not"
    return f"{event.limit.name.lower()} throttle over: {event.attempts} attempts were counted only, most of {who}"


def throttle_event(event: ThrottleEvent) -> AgentEvent:
    """Make an event of the agent; what is not known is left out."""
    pairs: tuple[tuple[str, str | int | None], ...] = (
        (LIMIT, event.limit.name.lower()),
        (ATTEMPTS, event.attempts),
        (CGROUP_ID, event.cgroup_id),
        (PROCESS_PID, event.pid),
        (PROCESS_EXECUTABLE_NAME, event.executable_name),
    )
    return AgentEvent(
        name=THROTTLE_STARTED if event.started else THROTTLE_STOPPED,
        body=throttle_line(event),
        attributes=tuple((key, value) for key, value in pairs if value is not None),
        warning=event.started,
    )
