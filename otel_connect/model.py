"""The values that flow through the agent: ConnectEvent → Attempt → Signals.

All of them are immutable tuples: one is made for every attempt of the host, and a named tuple is the
cheapest frozen value Python has.
"""

from collections.abc import Mapping
from enum import IntEnum, IntFlag, StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple


class Withheld(IntEnum):
    """Why an attempt has no record of its own; mirrors ``enum otc_withheld`` of ``probes/connect.h``."""

    NOT_WITHHELD = 0
    PROCESS_RATE = 1
    """Its process had used up its tokens."""
    CGROUP_RATE = 2
    """Its cgroup had, and its process had not been quiet."""
    RING_PRESSURE = 3
    """The ring was more than half full, and its process had not been quiet."""
    RING_FULL = 4
    """There was no room left in the ring."""
    FILTERED = 5
    """The operator does not want one."""


class Detail(IntEnum):
    """What the attempts of a tally have in common; mirrors ``enum otc_detail`` of ``probes/connect.h``."""

    WHOLE = 0
    """Process, peer and outcome."""
    WITHOUT_PEER = 1
    """Process and outcome."""
    WITHOUT_PROCESS = 2
    """The outcome, and the kernel's name for the program unless there are too many of those."""


class Ending(IntEnum):
    """Which observation ended the attempt; mirrors ``enum otc_ending`` of ``probes/connect.h``."""

    PENDING = 0
    """Still in SYN_SENT or SYN_RECV: the agent stopped first."""
    ESTABLISHED = 1
    """The state hook saw SYN_SENT or SYN_RECV → ESTABLISHED."""
    CLOSED = 2
    """The state hook saw SYN_SENT or SYN_RECV → CLOSE."""
    RETURNED = 3
    """connect() returned a final error that ends an attempt: without SYN, closed inside the call, or its end missed.

    Of these only the second has ``Hook.END``, and only the last two have ``Hook.SYN_SENT``.
    """
    REPLACED = 4
    """A new attempt began on the same socket while this one had no end: the end was missed."""
    EXPIRED = 5
    """No end was seen for so long that it must have been missed."""


class Hook(IntFlag):
    """Which hooks saw the attempt; mirrors ``OTC_HOOK_*`` of ``probes/connect.h``."""

    ENTER = 1
    SYN_SENT = 2
    END = 4
    EXIT = 8
    RESET = 16
    """A RST came for it."""


class EventFlag(IntFlag):
    """Facts about the attempt; mirrors ``OTC_FLAG_*`` of ``probes/connect.h``."""

    NONBLOCKING = 1
    BLOCKING_KNOWN = 2
    MPTCP = 4
    REQUESTED = 8
    """The address that the caller passed to connect() could be read."""
    CLOSED_IN_CALL = 16
    """The socket closed inside its own connect() call, before the call returned."""
    LOCKED = 32
    """A task held the lock of the socket when it closed: a call of a program ended it, not the network or a timer."""
    KERNEL = 64
    """Made by a thread of the kernel."""
    DEFERRED = 128
    """connect() returned without having sent a SYN: the first write sends it (TCP_FASTOPEN_CONNECT)."""


class Drops(NamedTuple):
    """Packets of an attempt without an answer that this host dropped for a reason: the last ones in one direction."""

    reason: str
    """The kernel's name for why the last was dropped, such as ``netfilter_drop``; or its number."""
    packets: int
    """How many since the direction last changed; 255 also stands for more."""
    received: bool
    """They were answers that this host had received; else they were SYNs on their way out."""


class ConnectEvent(NamedTuple):
    """The kernel's evidence about one attempt, decoded; it says what was seen, not what it means.

    Addresses are textual (a v4-mapped v6 address in its dotted form), ports in host order, ``None``
    where nothing was recorded. Times are nanoseconds since the Unix epoch but for
    ``process_start_boot_ns`` (since boot) and ``duration_ns`` (of the attempt, ``None`` without an end).
    """

    cpu: int
    sequence: int
    start_unix_ns: int
    duration_ns: int | None
    ending: Ending
    hooks: int
    flags: int
    pid: int
    tid: int
    parent_pid: int
    uid: int
    """The effective one, like gid."""
    gid: int
    process_start_boot_ns: int
    process_start_unix_ns: int
    exec_id: int
    """Which of the files that the process has run, one after another: see ``Told``."""
    cgroup_id: int
    netns: int
    comm: str
    family: int
    """AF_INET or AF_INET6 of the addresses below: 4-mapped peers count as AF_INET."""
    local_address: str | None
    local_port: int | None
    peer_address: str | None
    peer_port: int | None
    requested_address: str | None
    requested_port: int | None
    sk_err: int
    """The error that ended it."""
    sk_err_soft: int
    """An error that the network reported of it, and that did not end it by itself."""
    returned: int
    """What connect() returned: 0, or a negative errno; 0 when the exit was not seen (see ``hooks``)."""
    socket_state: int
    """enum socket_state at the end: 1 SS_UNCONNECTED (inside connect()), 2 SS_CONNECTING, 0 unknown."""
    shutdown: int
    """sk_shutdown at the end: 3 means that the application closed the socket."""
    syn_retransmits: int
    srtt_us: int
    drops: Drops | None = None
    """``None``: none was seen."""

    @property
    def target(self) -> tuple[str | None, int | None]:
        """Where the attempt went: the peer, or what the caller asked for when it never had one."""
        if self.peer_address is None:
            return self.requested_address, self.requested_port
        return self.peer_address, self.peer_port


class About(IntEnum):
    """What the kernel tells about a process; mirrors ``enum otc_about`` of ``probes/connect.h``."""

    EXECUTABLE = 1
    """The names of the path of what it runs, that of the file first, from the root directory that it has."""
    CGROUP = 2
    """The names of its path in the cgroup v2 tree, in the same order; the last, of the root, is empty."""
    CGROUP_V1 = 3
    """The same in the v1 hierarchy of the pids controller; none where the controller has no such hierarchy."""
    ENVIRONMENT = 4
    """Those variables of its environment that name a service, as ``NAME=value``."""
    ARGUMENTS = 5
    """Its arguments as they are, secrets included, or only the first of them."""


class Told(NamedTuple):
    """What the kernel says about a process, one thing of it, as it was when an attempt began."""

    pid: int
    process_start_boot_ns: int
    exec_id: int
    """Together with the former: an exec leaves pid and start time as they are."""
    about: About
    texts: tuple[str, ...]
    whole: bool
    """There are no more texts than these."""
    vpid: int | None
    """The pid of the process in its own namespace; ``None``: the kernel did not say."""
    root_mount: int | None = None
    """The id of the mount whose top is its root directory, as in mountinfo; ``None``: it is no top, or not known."""


class Segment(NamedTuple):
    """A packet to or from a name server; addresses and ports as in ``ConnectEvent``."""

    netns: int
    """Of the socket that asks; of an answer, the one that it is received in."""
    at_unix_ns: int
    outgoing: bool
    """A question of a socket of this host; else it was received, be it for this namespace or on its way through."""
    tcp: bool
    """Else it is UDP."""
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes
    sequence: int = 0
    """Of TCP: the number of the first byte of the payload, or of the SYN."""
    syn: bool = False
    over: bool = False
    """FIN or RST: no more comes after this."""
    whole: bool = True
    """All of the packet was read; a fragment is not whole."""
    process: tuple[int, int] | None = None
    """Who asks, by pid and ``process_start_boot_ns``, where it is known."""
    dialled: str | None = None
    """Which address was asked, on port 53, where the packet may have been given another destination since."""


class Tally(NamedTuple):
    """Attempts without records of their own that were alike, counted together in the kernel."""

    withheld: Withheld
    detail: Detail
    event: ConnectEvent
    """What they had in common, and 0 or ``None`` in all other fields; see ``detail`` for the rest."""
    attempts: int
    duration_ns: int | None
    """Of all of them together; ``None`` when their ends were not seen."""
    first_unix_ns: int
    """When the first was counted: it had just ended."""
    last_unix_ns: int


class Outcome(StrEnum):
    """What became of an attempt; each value but ``UNKNOWN`` and ``PENDING`` has positive evidence."""

    ESTABLISHED = "established"
    REFUSED = "refused"
    RESET = "reset"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    LOCAL_ERROR = "local_error"
    ABANDONED = "abandoned"
    PENDING = "pending"
    UNKNOWN = "unknown"


class Verdict(NamedTuple):
    """An outcome and the errno that proves it; ``errno`` is ``None`` where there is none."""

    outcome: Outcome
    errno: int | None


class Process(NamedTuple):
    """Who made the attempt, as far as it was still to be found out; ``None`` means unknown."""

    executable_name: str
    executable_path: str | None
    owner: str | None
    command: str | None = None
    """The first of its arguments, without secrets."""
    command_args: tuple[str, ...] | None = None
    """All of its arguments, without secrets; ``None`` also where they were not asked for, like the next two."""
    vpid: int | None = None
    """Its pid in its own namespace."""
    cgroup: str | None = None
    """Its cgroup in the manner of ``/proc/<pid>/cgroup``: ``0::PATH``, or ``pids:PATH`` in a v1 hierarchy."""


class Surroundings(NamedTuple):
    """What a process lives in, as found when the first of its attempts began; its workload is derived from it."""

    cgroup: str | None = None
    """The path from the root of the cgroup v2 tree, ``None`` when it is unknown."""
    cgroup_v1: str | None = None
    """The path in the v1 hierarchy of the pids controller; ``None`` where that is not mounted, or unknown."""
    environment: tuple[tuple[str, str], ...] = ()
    """Of its environment, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, as they were when it was executed."""


class Workload(NamedTuple):
    """Whose telemetry an attempt is: it becomes an OTLP resource, one for all attempts of a workload on this host."""

    service_name: str
    service_namespace: str | None = None
    service_instance_id: str | None = None
    """As published; ``None``: the encoder derives one from the host and the other fields."""
    container_id: str | None = None
    pod_uid: str | None = None
    published: tuple[tuple[str, str], ...] = ()
    """Further resource attributes, as the process or its orchestrator published them, without what is ours to say."""
    within: tuple[str, ...] = ()
    """The machines, containers and services that it is in, from the outermost inward: they tell workloads apart that
    are alike in all else, and are no attributes."""


class ServerName(NamedTuple):
    """The name that an attempt meant to reach, as far as it was observed."""

    name: str
    source: str
    """Where it comes from: ``dns`` or ``hosts``."""
    matched_by: str
    """Whose lookup it was: of the asking ``process``, or of another one in its network ``namespace``."""
    port: int | None = None
    """The port that was asked for with it, where a socket load balancer made another of that; ``None``: the peer's."""

    def port_beside(self, peer_port: int | None) -> int | None:
        """Return the port that was asked for with the name of a peer that has this one."""
        return peer_port if self.port is None else self.port


class Named(NamedTuple):
    """All that is found out about an attempt beside what became of it."""

    process: Process
    workload: Workload
    server: ServerName | None = None
    """``None``: no name was observed for its peer."""
    service_peer_name: str | None = None
    """What the operator calls the peer."""
    backend: tuple[str, int] | None = None
    """Address and port that the peer was translated to (DNAT), where that was asked for and seen."""


class Attempt(NamedTuple):
    """One attempt, decided and named: what every output shows."""

    event: ConnectEvent
    verdict: Verdict
    superseded: bool
    """For an abandoned attempt: its process reached another address of the same server instead."""
    named: Named
    observed_unix_ns: int
    """When the agent read the event."""
    event_id: str
    """``<run of the agent, 12 hex digits>-<cpu>-<sequence>``: unique, and the same on every resend."""
    repeat_count: int = 1
    """How many attempts its record stands for, when those that are alike are collapsed."""

    @property
    def process(self) -> Process:
        """Who made it."""
        return self.named.process


class Tallied(NamedTuple):
    """A tally, decided and named: attempts that only the metrics show."""

    event: ConnectEvent
    verdict: Verdict
    named: Named | None
    """``None`` where the tally does not tell processes apart; ``event.comm`` may still name the program."""
    detail: Detail
    attempts: int
    duration_ns: int | None
    """Of all of them together; ``None`` when their ends were not seen."""


class ThrottleEvent(NamedTuple):
    """Attempts began to be withheld for one limit, or none has been for some seconds."""

    started: bool
    limit: Withheld
    cgroup_id: int | None
    """Whose it is; ``None`` for the limit of the whole host."""
    pid: int | None
    """Whose it is, for the limit of a process; else of the process that had most attempts withheld."""
    executable_name: str | None
    attempts: int
    """How many have been withheld so far."""
    at_unix_ns: int
    """When the first was withheld, or the last."""


class Signal(StrEnum):
    """One of the three kinds of telemetry, spelled as in OTLP's paths."""

    LOGS = "logs"
    METRICS = "metrics"
    TRACES = "traces"


class Request(NamedTuple):
    """One serialized OTLP export request: protobuf bytes of Export{Logs,Metrics,Trace}ServiceRequest."""

    signal: Signal
    body: bytes
    records: int
    """Log records, metric data points or spans inside."""


class Signals(NamedTuple):
    """What one batch of attempts becomes."""

    requests: tuple[Request, ...]
    spans_left_out: int
    """Successful attempts beyond the span rate: they have a log record and count in the metrics."""


class KernelCounters(NamedTuple):
    """Totals since the probes were attached, summed over the CPUs; mirrors ``struct otc_counters``.

    ``seen == emitted + ring_full + pending_full + throttled + filtered + unsent + in progress`` at any time, and
    ``ring_full + throttled + filtered`` is what all tallies and ``untallied`` add up to.
    """

    seen: int
    emitted: int
    ring_full: int
    pending_full: int
    """Attempts whose SYN was seen but that found no room in the table of attempts in progress."""
    call_full: int
    """connect() calls that found no room in the table of calls; only their local failures are lost."""
    untracked: int
    """Ends of attempts that had begun before the probes were attached, or found no room."""
    own: int
    """Attempts of the agent itself, which are left out."""
    throttled: int = 0
    """Attempts that got no record because there were too many of them."""
    untallied: int = 0
    """Attempts without a record that found no room among the tallies either: no metric counts them."""
    filtered: int = 0
    """Attempts that the probes left out because the operator does not want records of them."""
    packets_lost: int = 0
    """Packets of name servers that found no room in their buffer."""
    unsent: int = 0
    """Taken for attempts until their sockets ended without having sent a SYN."""


class KernelFilters(NamedTuple):
    """Whose attempts, and which ones, the probes leave out: what any of these holds of."""

    uids: frozenset[int]
    ports: frozenset[tuple[int, int]]
    """From one to another, both included."""
    networks: frozenset[IPv4Network | IPv6Network]


class Balance(NamedTuple):
    """Where every attempt that the kernel saw is now; each figure is counted in its own place."""

    seen: int
    shown: int
    """Handed to the output, and taken by it."""
    in_progress: int
    """Without an end yet."""
    in_ring: int
    """Ended, and not read yet."""
    lost: Mapping[str, int]
    """Attempts that never reached the output, by reason."""
    probe_missed: int
    """Runs of a probe that the kernel skipped: unseen, so beside the account."""
    waiting: int = 0
    """Ended and read; whether they were superseded, or something of their process, is not known yet."""

    @property
    def difference(self) -> int:
        """Attempts that are not accounted for: 0 at the end, or the agent is wrong.

        While attempts are made it may be off by those that moved between two readings.
        """
        there = self.shown + self.in_progress + self.in_ring + self.waiting
        return self.seen - there - sum(self.lost.values())
