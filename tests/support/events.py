"""Builders of the values that flow: one refused attempt of curl, and whatever a test changes in it.

``attempts`` is the strategy for property tests: attempts with anything in them that the types allow.
"""

from socket import AF_INET, AF_INET6
from typing import Any

from hypothesis import strategies as st

from otel_connect.model import (
    Attempt,
    ConnectEvent,
    Drops,
    Ending,
    EventFlag,
    Hook,
    Named,
    Outcome,
    Process,
    ServerName,
    Verdict,
    Workload,
)

EVENT = ConnectEvent(
    cpu=1,
    sequence=7,
    start_unix_ns=1_700_000_000_123_456_789,
    duration_ns=400_000,
    ending=Ending.CLOSED,
    hooks=int(Hook.ENTER | Hook.SYN_SENT | Hook.END | Hook.EXIT),
    flags=int(EventFlag.BLOCKING_KNOWN | EventFlag.REQUESTED),
    pid=4242,
    tid=4243,
    parent_pid=1000,
    uid=1001,
    gid=1001,
    process_start_boot_ns=5_000_000_000,
    process_start_unix_ns=1_699_999_999_000_001_000,
    exec_id=3,
    cgroup_id=77,
    netns=4_026_531_840,
    comm="curl",
    family=int(AF_INET),
    local_address="10.1.2.3",
    local_port=45678,
    peer_address="10.1.2.80",
    peer_port=443,
    requested_address="10.1.2.80",
    requested_port=443,
    sk_err=111,
    sk_err_soft=0,
    returned=-111,
    socket_state=1,
    shutdown=0,
    syn_retransmits=0,
    srtt_us=0,
)

PROCESS = Process(executable_name="curl", executable_path="/usr/bin/curl", owner="alice")
WORKLOAD = Workload("shop")

ATTEMPT = Attempt(
    event=EVENT,
    verdict=Verdict(Outcome.REFUSED, 111),
    superseded=False,
    named=Named(PROCESS, WORKLOAD),
    observed_unix_ns=1_700_000_000_150_000_000,
    event_id="1f2e3d4c-1-7",
)


def make_event(**changes: Any) -> ConnectEvent:
    """Build a connect to 10.1.2.80:443 that was refused after 0.4 ms, with the changes."""
    return EVENT._replace(**changes)


def make_attempt(**changes: Any) -> Attempt:
    """Build a refused attempt of curl; a change may name a field of the attempt, its event, names, process or workload.

    ``outcome`` and ``errno`` stand for its verdict: ``make_attempt(outcome=Outcome.UNKNOWN, errno=None)``.
    """
    verdict = Verdict(changes.pop("outcome", ATTEMPT.verdict.outcome), changes.pop("errno", ATTEMPT.verdict.errno))
    own = {name: changes.pop(name) for name in Attempt._fields if name in changes}
    process = {name: changes.pop(name) for name in Process._fields if name in changes}
    workload = {name: changes.pop(name) for name in Workload._fields if name in changes}
    names = {name: changes.pop(name) for name in Named._fields if name in changes}
    named = Named(PROCESS._replace(**process), WORKLOAD._replace(**workload))._replace(**names)
    attempt = ATTEMPT._replace(event=EVENT._replace(**changes), named=named, verdict=verdict)
    return attempt._replace(**own)


hostile_text = st.text(st.characters(exclude_categories=()), max_size=40)
"""Any text, also with control characters and lone surrogates."""

_addresses = st.one_of(st.none(), st.ip_addresses().map(str))
_ports = st.one_of(st.none(), st.integers(0, 65535))
_unix_ns = st.integers(1, 1 << 62)
_maybe_text = st.one_of(st.none(), hostile_text)

workloads = st.builds(
    Workload,
    st.one_of(st.sampled_from(["shop", "cart"]), hostile_text),
    _maybe_text,
    _maybe_text,
    _maybe_text,
    _maybe_text,
    st.lists(st.tuples(hostile_text, hostile_text), max_size=3).map(tuple),
    st.lists(hostile_text, max_size=3).map(tuple),
)
"""Any workload."""

attempts = st.builds(
    make_attempt,
    outcome=st.sampled_from(Outcome),
    errno=st.one_of(st.none(), st.integers(1, 600)),
    superseded=st.booleans(),
    executable_name=hostile_text,
    executable_path=_maybe_text,
    owner=_maybe_text,
    command=_maybe_text,
    command_args=st.one_of(st.none(), st.lists(hostile_text, max_size=5).map(tuple)),
    vpid=st.one_of(st.none(), st.integers(0, (1 << 32) - 1)),
    cgroup=_maybe_text,
    workload=st.one_of(st.sampled_from([WORKLOAD, Workload("cart")]), workloads),
    server=st.one_of(
        st.none(), st.builds(ServerName, hostile_text, st.sampled_from(["dns", "hosts"]), hostile_text, _ports)
    ),
    service_peer_name=_maybe_text,
    backend=st.one_of(st.none(), st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))),
    observed_unix_ns=_unix_ns,
    event_id=hostile_text,
    start_unix_ns=_unix_ns,
    duration_ns=st.one_of(st.none(), st.integers(0, 1 << 62)),
    hooks=st.integers(0, 31),
    flags=st.integers(0, 31),
    pid=st.integers(0, (1 << 32) - 1),
    parent_pid=st.integers(0, (1 << 32) - 1),
    uid=st.integers(0, (1 << 32) - 1),
    process_start_unix_ns=st.integers(-(1 << 62), 1 << 63),
    comm=hostile_text,
    family=st.sampled_from([int(AF_INET), int(AF_INET6), 0]),
    local_address=_addresses,
    local_port=_ports,
    peer_address=_addresses,
    peer_port=_ports,
    requested_address=_addresses,
    requested_port=_ports,
    syn_retransmits=st.integers(0, 255),
    srtt_us=st.integers(0, (1 << 32) - 1),
    drops=st.one_of(st.none(), st.builds(Drops, hostile_text, st.integers(1, 255), st.booleans())),
)
"""Any attempt."""
