"""Bytes of the ring as a busy host fills it: few programs, some hundred peers, most attempts succeed."""

import errno
import random
import struct
from collections.abc import Iterator
from itertools import islice
from socket import AF_INET, AF_INET6, htons, inet_pton
from typing import Any, NamedTuple

from otel_connect.capture.layout import EVENT, EVENT_FIELDS
from otel_connect.model import Ending, EventFlag, Hook

READING = 1_000
"""Records that the agent finds at once: what 20,000 attempts/s leave between two readings."""

_FIELDS: dict[str, Any] = {
    name: b"" if code.endswith("s") else 0 for name, code in EVENT_FIELDS if not code.endswith("x")
}
_HEADER = struct.Struct("=II")
_BEGIN_NS = 3_600_000_000_000  # an hour after boot
_SS_CONNECTING = 2
_SHUT_BOTH = 3

# How attempts end, and how often: (of a hundred, fields, milliseconds).
_ENDS = (
    (78, {"ending": Ending.ESTABLISHED, "srtt_us": 900}, (0.05, 20)),
    (10, {"ending": Ending.CLOSED, "sk_err": errno.ECONNREFUSED, "returned": -errno.ECONNREFUSED}, (0.03, 5)),
    (5, {"ending": Ending.CLOSED, "sk_err": errno.ETIMEDOUT, "syn_retransmits": 6}, (127_000, 135_000)),
    (2, {"ending": Ending.CLOSED, "sk_err": errno.EHOSTUNREACH, "syn_retransmits": 1}, (3_000, 3_100)),
    (4, {"ending": Ending.CLOSED, "shutdown": _SHUT_BOTH, "socket_state": _SS_CONNECTING}, (250, 5_000)),
    (1, {"ending": Ending.RETURNED, "returned": -errno.EADDRNOTAVAIL}, (0.01, 0.1)),
)


class _Peer(NamedTuple):
    family: int
    address: bytes
    port: int


def readings(count: int) -> list[bytes]:
    """Return ``count`` records as the ring holds them, in portions of ``READING``; the same ones every time."""
    header, records = _HEADER.pack(EVENT.size, 0), _records()
    return [b"".join(header + record for record in islice(records, READING)) for _ in range(count // READING)]


def _records() -> Iterator[bytes]:
    chance = random.Random(1)
    programs = [_program(number, chance) for number in range(40)]
    peers = [_peer(number) for number in range(300)]
    popularity = [1 / rank for rank in range(1, len(peers) + 1)]
    shares = [share for share, _, _ in _ENDS]
    moment = _BEGIN_NS
    sequence = 0
    while True:
        moment += chance.randrange(100_000)
        sequence += 1
        (_, end, (least_ms, most_ms)) = chance.choices(_ENDS, shares)[0]
        duration = int(chance.uniform(least_ms, most_ms) * 1_000_000)
        peer = chance.choices(peers, popularity)[0]
        times = {"sequence": sequence, "start_ns": moment, "end_ns": moment + duration, "cpu": sequence & 1}
        fields = chance.choice(programs) | _route(peer, chance) | times | end
        yield EVENT.pack(*(_FIELDS | fields).values())


def _program(number: int, chance: random.Random) -> dict[str, Any]:
    pid = 1_000 + 37 * number
    name = chance.choice((b"nginx", b"postgres", b"curl", b"java", b"python3", b"node", b"envoy"))
    start = chance.randrange(_BEGIN_NS)
    user = chance.choice((0, 33, 1_000, 65_534))
    return {"pid": pid, "tid": pid, "parent_pid": 1, "uid": user, "gid": user, "comm": name, "process_start_ns": start}


def _peer(number: int) -> _Peer:
    port = (443, 5432, 6379, 9092, 53)[number % 5]
    if number % 6 == 0:
        return _Peer(AF_INET6, inet_pton(AF_INET6, f"2001:db8::{number:x}"), port)
    return _Peer(AF_INET, inet_pton(AF_INET, f"10.20.{number // 250}.{number % 250 + 1}"), port)


def _route(peer: _Peer, chance: random.Random) -> dict[str, Any]:
    family, address, port = peer
    own = inet_pton(AF_INET, "10.20.9.9") if family == AF_INET else inet_pton(AF_INET6, "2001:db8::9:9")
    return {
        "family": family,
        "netns": 4_026_531_840,
        "cgroup_id": 4_711,
        "hooks": Hook.ENTER | Hook.SYN_SENT | Hook.END | Hook.EXIT,
        "flags": EventFlag.BLOCKING_KNOWN | EventFlag.REQUESTED | EventFlag.NONBLOCKING,
        "local_address": own,
        "local_port": htons(chance.randrange(32_768, 61_000)),
        "peer_address": address,
        "peer_port": htons(port),
        "requested_family": family,
        "requested_address": address,
        "requested_port": htons(port),
    }
