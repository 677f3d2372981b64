"""Attempt → attributes and severity: the only home of attribute names.

Names of the semantic conventions are taken from ``opentelemetry.semconv``; our own begin with
``otel_connect.``. The attributes of an attempt come in four groups: the first three repeat from attempt to
attempt (same peer, same outcome, same process), so that ``wire`` can encode each of them once; only the
fourth is new every time. A group is a function of hashable values for that reason.
"""

import errno as errnos
from datetime import UTC, datetime, timedelta
from socket import AF_INET, AF_INET6
from typing import NamedTuple, TypeAlias

from opentelemetry.semconv._incubating.attributes import process_attributes, service_attributes
from opentelemetry.semconv._incubating.attributes.network_attributes import NetworkIoDirectionValues
from opentelemetry.semconv.attributes import error_attributes, network_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas

from otel_connect.errnos import errno_name
from otel_connect.model import (
    Attempt,
    ConnectEvent,
    Ending,
    EventFlag,
    Hook,
    Outcome,
    Process,
    ServerName,
    Verdict,
)

SCOPE = "otel_connect"
SCHEMA_URL = Schemas.V1_44_0.value
EVENT_NAME = "otel_connect.attempt"

ERROR_TYPE = error_attributes.ERROR_TYPE
NETWORK_LOCAL_ADDRESS = network_attributes.NETWORK_LOCAL_ADDRESS
NETWORK_LOCAL_PORT = network_attributes.NETWORK_LOCAL_PORT
NETWORK_PEER_ADDRESS = network_attributes.NETWORK_PEER_ADDRESS
NETWORK_PEER_PORT = network_attributes.NETWORK_PEER_PORT
NETWORK_TRANSPORT = network_attributes.NETWORK_TRANSPORT
NETWORK_TYPE = network_attributes.NETWORK_TYPE
PROCESS_COMMAND = process_attributes.PROCESS_COMMAND
PROCESS_COMMAND_ARGS = process_attributes.PROCESS_COMMAND_ARGS
PROCESS_CREATION_TIME = process_attributes.PROCESS_CREATION_TIME
PROCESS_EXECUTABLE_NAME = process_attributes.PROCESS_EXECUTABLE_NAME
PROCESS_EXECUTABLE_PATH = process_attributes.PROCESS_EXECUTABLE_PATH
PROCESS_LINUX_CGROUP = process_attributes.PROCESS_LINUX_CGROUP
PROCESS_OWNER = process_attributes.PROCESS_OWNER
PROCESS_PARENT_PID = process_attributes.PROCESS_PARENT_PID
PROCESS_PID = process_attributes.PROCESS_PID
PROCESS_USER_ID = process_attributes.PROCESS_USER_ID
PROCESS_VPID = process_attributes.PROCESS_VPID
SERVER_ADDRESS = server_attributes.SERVER_ADDRESS
SERVER_PORT = server_attributes.SERVER_PORT
SERVICE_PEER_NAME = service_attributes.SERVICE_PEER_NAME

BLOCKING = "otel_connect.blocking"
COMM = "otel_connect.process.comm"
DROP_COUNT = "otel_connect.drop.count"
DROP_DIRECTION = "otel_connect.drop.direction"
DROP_REASON = "otel_connect.drop.reason"
DURATION = "otel_connect.duration"
ERRNO_CODE = "otel_connect.errno.code"
ERRNO_NAME = "otel_connect.errno.name"
EVENT_ID = "otel_connect.event.id"
OUTCOME = "otel_connect.outcome"
REPEAT_COUNT = "otel_connect.repeat.count"
REQUESTED_ADDRESS = "otel_connect.requested.address"
REQUESTED_PORT = "otel_connect.requested.port"
RST_RECEIVED = "otel_connect.rst.received"
RETRANSMITS = "otel_connect.syn.retransmits"
RTT = "otel_connect.rtt"
SERVER_ADDRESS_MATCHED_BY = "otel_connect.server.address.matched_by"
SERVER_ADDRESS_SOURCE = "otel_connect.server.address.source"
SUPERSEDED = "otel_connect.superseded"
TRANSLATED_ADDRESS = "otel_connect.translated.address"
TRANSLATED_PORT = "otel_connect.translated.port"

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
Attributes: TypeAlias = tuple[tuple[str, Value], ...]

Identity: TypeAlias = tuple[Process, int, int, int, int, str]
"""A process, its pid, when it began (Unix time, ns), its parent's pid, its user's id, its comm."""

# Plain integers: an operation on an IntFlag takes ten times as long.
_SYN_SENT, _RESET = int(Hook.SYN_SENT), int(Hook.RESET)
_MEASURED_ENDINGS = (Ending.ESTABLISHED, Ending.CLOSED)
_GAVE_UP_ITSELF = Verdict(Outcome.LOCAL_ERROR, None)
_BLOCKING_KNOWN = int(EventFlag.BLOCKING_KNOWN)
_NONBLOCKING = int(EventFlag.NONBLOCKING)

_TCP = network_attributes.NetworkTransportValues.TCP.value
_RECEIVE, _TRANSMIT = NetworkIoDirectionValues.RECEIVE.value, NetworkIoDirectionValues.TRANSMIT.value
_NETWORK_TYPES = {
    int(AF_INET): network_attributes.NetworkTypeValues.IPV4.value,
    int(AF_INET6): network_attributes.NetworkTypeValues.IPV6.value,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER = error_attributes.ErrorTypeValues.OTHER.value

# The list of .NET's socket convention, but for the last three, which are ours.
_ERROR_TYPES = {
    errnos.ECONNREFUSED: "connection_refused",
    errnos.ETIMEDOUT: "timed_out",
    errnos.ENETUNREACH: "network_unreachable",
    errnos.EHOSTUNREACH: "host_unreachable",
    errnos.EADDRNOTAVAIL: "address_not_available",
    errnos.EADDRINUSE: "address_already_in_use",
    errnos.EACCES: "access_denied",
    errnos.EPERM: "access_denied",
    errnos.EAFNOSUPPORT: "address_family_not_supported",
    errnos.EINTR: "interrupted",
    errnos.EFAULT: "fault",
    errnos.EINVAL: "invalid_argument",
    errnos.ENOBUFS: "no_buffer_space_available",
    errnos.ENOMEM: "no_buffer_space_available",
    errnos.ENETDOWN: "network_down",
    errnos.EPROTOTYPE: "protocol_type",
    errnos.ECONNRESET: "connection_reset",
    errnos.ECONNABORTED: "connection_aborted",
    errnos.ECANCELED: "canceled",
}

# An outcome that is itself the class of the error; ``None`` means that there was no error.
_OUTCOME_ERROR_TYPES = {
    Outcome.ESTABLISHED: None,
    Outcome.PENDING: None,
    Outcome.REFUSED: "connection_refused",
    Outcome.RESET: "connection_reset",
    Outcome.TIMED_OUT: "timed_out",
    Outcome.DENIED: "access_denied",
    Outcome.ABANDONED: "canceled",
    Outcome.UNKNOWN: _OTHER,
}
_NO_FAILURES = frozenset((Outcome.ESTABLISHED, Outcome.PENDING))


class Severity(NamedTuple):
    """A severity of OpenTelemetry's log data model: its number and its short name."""

    number: int
    text: str


INFO = Severity(9, "INFO")
WARN = Severity(13, "WARN")


def is_failure(attempt: Attempt) -> bool:
    """Whether somebody may have to act: everything but success, still pending and superseded."""
    outcome = attempt.verdict.outcome
    return not attempt.superseded if outcome is Outcome.ABANDONED else outcome not in _NO_FAILURES


def severity(attempt: Attempt) -> Severity:
    """WARN for a failure, else INFO."""
    return WARN if is_failure(attempt) else INFO


def error_type(verdict: Verdict) -> str | None:
    """Return the ``error.type`` of a verdict, from a closed list; ``None`` when there was no error."""
    outcome, errno = verdict
    if outcome is Outcome.UNREACHABLE:
        # Also ICMPv6 "administratively prohibited", EACCES: its v4 counterpart arrives as EHOSTUNREACH.
        return _ERROR_TYPES[errnos.ENETUNREACH if errno == errnos.ENETUNREACH else errnos.EHOSTUNREACH]
    if outcome is Outcome.LOCAL_ERROR:
        return _OTHER if errno is None else _ERROR_TYPES.get(errno, _OTHER)
    return _OUTCOME_ERROR_TYPES[outcome]


def network_type(family: int) -> str | None:
    """Return the ``network.type`` of an address family, ``None`` if it is neither IPv4 nor IPv6."""
    return _NETWORK_TYPES.get(family)


def target_attributes(  # noqa: PLR0917 - one argument for each fact, as what remembers its result needs them
    family: int,
    address: str | None,
    port: int | None,
    server: ServerName | None = None,
    service_peer_name: str | None = None,
    backend: tuple[str, int] | None = None,
) -> Attributes:
    """Say to where: transport, peer and server, which is the peer where no name was observed.

    A name keeps the port that the program asked for with it, whatever the peer's has become.
    """
    translated_address, translated_port = backend or (None, None)
    return _known(
        (NETWORK_TRANSPORT, _TCP),
        (NETWORK_TYPE, network_type(family)),
        (NETWORK_PEER_ADDRESS, address),
        (NETWORK_PEER_PORT, port),
        (SERVER_ADDRESS, address if server is None else server.name),
        (SERVER_PORT, port if server is None else server.port_beside(port)),
        (SERVER_ADDRESS_SOURCE, "none" if server is None else server.source),
        (SERVER_ADDRESS_MATCHED_BY, None if server is None else server.matched_by),
        (SERVICE_PEER_NAME, service_peer_name),
        (TRANSLATED_ADDRESS, translated_address),
        (TRANSLATED_PORT, translated_port),
    )


def outcome_attributes(verdict: Verdict, superseded: bool) -> Attributes:  # noqa: FBT001 - a field, not a switch
    """Say what became of it."""
    return _known(
        (OUTCOME, verdict.outcome.value),
        (ERROR_TYPE, error_type(verdict)),
        (SUPERSEDED, superseded if verdict.outcome is Outcome.ABANDONED else None),
        (ERRNO_CODE, verdict.errno),
        (ERRNO_NAME, None if verdict.errno is None else errno_name(verdict.errno)),
    )


def identity(attempt: Attempt) -> Identity:
    """Return what ``identity_attributes`` needs of an attempt: the same for all attempts of a process."""
    event = attempt.event
    return (
        attempt.process,
        event.pid,
        event.process_start_unix_ns,
        event.parent_pid,
        event.uid,
        event.comm,
    )


def identity_attributes(who: Identity) -> Attributes:
    """Say whose it was."""
    process, pid, start_unix_ns, parent_pid, uid, comm = who
    return _known(
        (PROCESS_PID, pid),
        (PROCESS_CREATION_TIME, _iso_8601(start_unix_ns)),
        (PROCESS_PARENT_PID, parent_pid),
        (PROCESS_EXECUTABLE_NAME, process.executable_name),
        (PROCESS_EXECUTABLE_PATH, process.executable_path),
        (PROCESS_COMMAND, process.command),
        (PROCESS_COMMAND_ARGS, process.command_args),
        (PROCESS_VPID, process.vpid),
        (PROCESS_LINUX_CGROUP, process.cgroup),
        (PROCESS_USER_ID, uid),
        (PROCESS_OWNER, process.owner),
        (COMM, comm),
    )


def measured_attributes(attempt: Attempt) -> Attributes:
    """Say what is new with every attempt: its id, its own address, what was measured; times in seconds."""
    event = attempt.event
    outcome = attempt.verdict.outcome
    pairs: list[tuple[str, Value]] = [(EVENT_ID, attempt.event_id)]
    if attempt.repeat_count > 1:
        pairs.append((REPEAT_COUNT, attempt.repeat_count))
    if event.duration_ns is not None:
        pairs.append((DURATION, event.duration_ns / 1e9))
    if event.local_address is not None:
        pairs.append((NETWORK_LOCAL_ADDRESS, event.local_address))
    if event.local_port is not None:
        pairs.append((NETWORK_LOCAL_PORT, event.local_port))
    if event.hooks & _SYN_SENT:
        pairs += _syn_attributes(event, attempt.verdict)
    if outcome is Outcome.ESTABLISHED and event.srtt_us:
        pairs.append((RTT, event.srtt_us / 1e6))
    if event.flags & _BLOCKING_KNOWN:
        pairs.append((BLOCKING, not event.flags & _NONBLOCKING))
    if _redirected(event):
        pairs += _known((REQUESTED_ADDRESS, event.requested_address), (REQUESTED_PORT, event.requested_port))
    return tuple(pairs)


def attempt_attributes(attempt: Attempt) -> Attributes:
    """Return every attribute of an attempt, as its log record and its span have them."""
    named = attempt.named
    return (
        *target_attributes(
            attempt.event.family, *attempt.event.target, named.server, named.service_peer_name, named.backend
        ),
        *outcome_attributes(attempt.verdict, attempt.superseded),
        *identity_attributes(identity(attempt)),
        *measured_attributes(attempt),
    )


def valid_text(text: str) -> str:
    r"""Return what UTF-8 can hold of a text: a lone surrogate, which it cannot, is written ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode()


def _syn_attributes(event: ConnectEvent, verdict: Verdict) -> list[tuple[str, Value]]:
    """Say what is known of the SYN on its way, and of a RST."""
    pairs: list[tuple[str, Value]] = []
    # They are read when the state hook sees the end. Where connect() itself gave up, no SYN was sent.
    if event.ending in _MEASURED_ENDINGS and verdict != _GAVE_UP_ITSELF:
        pairs.append((RETRANSMITS, event.syn_retransmits))
    if event.hooks & _RESET:
        pairs.append((RST_RECEIVED, True))
    if event.drops is not None:
        reason, packets, received = event.drops
        direction = _RECEIVE if received else _TRANSMIT
        pairs += [(DROP_REASON, reason), (DROP_COUNT, packets), (DROP_DIRECTION, direction)]
    return pairs


def _redirected(event: ConnectEvent) -> bool:
    if event.requested_address is None or event.peer_address is None:
        return False
    return (event.requested_address, event.requested_port) != (event.peer_address, event.peer_port)


def _iso_8601(unix_ns: int) -> str:
    moment = _EPOCH + timedelta(microseconds=unix_ns // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _known(*pairs: tuple[str, Value | None]) -> Attributes:
    return tuple((key, value) for key, value in pairs if value is not None)
