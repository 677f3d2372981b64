"""The names that programs resolved: which of them an attempt meant, as far as it was seen.

A name is one that was asked for before the attempt began, and whose answer held the address that was dialled;
nothing is ever looked up. Whose question it was is known where it was sent by the process that asked; else a name
counts for all processes of its network namespace.

No process gets the name that another one asked for where its own look-up contradicts that: where it was told the
address under a name that is too old by now, or was told something that could not be read
(docs/decisions/0056-names-that-are-contradicted.md).
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from otel_connect.enrich.dns import AAAA, UNREAD, A, Reply
from otel_connect.enrich.lookups import Lookup, Lookups
from otel_connect.enrich.unread import Unread
from otel_connect.figures import NamesState
from otel_connect.model import ConnectEvent, Segment, ServerName

_SECOND_NS = 1_000_000_000
_GRACE_S = 60  # programs connect a while after they asked, and some keep what they were told for half a minute
_AT_MOST_S = 86_400
_TOLERANCE_NS = 2_000_000  # wall time is slewed between two packets
_NAMES = 8  # of one address: who has more gets the latest

_Process = tuple[int, int]


class HostNames(Protocol):
    """What /etc/hosts says: hosts.Hosts."""

    def name(self, pid: int, start_boot_ns: int, address: str) -> str | None:
        """Return the name of an address for a process."""


class _Known(NamedTuple):
    name: str
    since: int
    until: int
    asked: int
    """When it was last asked for."""


class Names:
    """Learns names from packets, and gives them to attempts; remembers a bounded number of addresses."""

    def __init__(self, hosts: HostNames, remembered: int = 16_384) -> None:
        self._hosts = hosts
        self._lookups = Lookups()
        self._by_process: LRUCache[tuple[_Process, str], tuple[_Known, ...]] = LRUCache(remembered)
        self._by_namespace: LRUCache[tuple[int, str], tuple[_Known, ...]] = LRUCache(remembered)
        self._unread = Unread()
        self._learned = 0

    def see(self, segments: Iterable[Segment]) -> None:
        """Take packets in the order they passed."""
        for segment in segments:
            for lookup in self._lookups.see(segment):
                self._learn(lookup)

    def of(self, event: ConnectEvent) -> ServerName | None:
        """Return the name that an attempt meant to reach, ``None`` where none was seen."""
        process = event.pid, event.process_start_boot_ns
        at = event.start_unix_ns
        # What the program asked for: between it and the peer may be a load balancer of sockets.
        asked, reached = (event.requested_address, event.requested_port), (event.peer_address, event.peer_port)
        for address, port in dict.fromkeys((asked, reached)):
            if address is not None and (found := self._name(process, event.netns, address, at)) is not None:
                return found if port == event.target[1] else found._replace(port=port)
        return None

    def state(self, lost: int) -> NamesState:
        """Say what has been learned, with so many packets lost."""
        ignored = {reason.value: count for reason, count in self._lookups.ignored.items()}
        return NamesState(self._learned, self._lookups.unanswered, ignored, lost)

    def _name(self, process: _Process, netns: int, address: str, at: int) -> ServerName | None:
        own = self._by_process.get((process, address), ())
        if known := _latest(own, at):
            return ServerName(known.name, "dns", "process")
        if name := self._hosts.name(*process, address):
            return ServerName(name, "hosts", "process")
        kind, soon = AAAA if ":" in address else A, at + _TOLERANCE_NS
        if any(one.since <= soon for one in own) or self._unread.latest(process, kind, soon) is not None:
            return None
        known = _latest(self._by_namespace.get((netns, address), ()), at)
        if known is None or (self._unread.latest(netns, kind, soon) or 0) > known.asked:
            return None
        return ServerName(known.name, "dns", "namespace")

    def _learn(self, lookup: Lookup) -> None:
        if isinstance(lookup.reply, Reply):
            self._learned += 1
            for address in lookup.reply.addresses:
                place = lookup.netns, address
                self._by_namespace[place] = _with(self._by_namespace.get(place, ()), lookup, lookup.reply)
            self._unread.close(lookup.netns, lookup.question)
        elif lookup.reply in UNREAD and lookup.process is None:
            self._unread.open(lookup.netns, lookup.question, lookup.at_unix_ns)
        if lookup.process is not None:
            self._learn_of(lookup.process, lookup)

    def _learn_of(self, process: _Process, lookup: Lookup) -> None:
        if lookup.reply is None or lookup.reply in UNREAD:
            self._unread.open(process, lookup.question, lookup.at_unix_ns)
            return
        self._unread.close(process, lookup.question)
        if isinstance(lookup.reply, Reply):
            for address in lookup.reply.addresses:
                known = self._by_process.get((process, address), ())
                self._by_process[process, address] = _with(known, lookup, lookup.reply)


def _with(known: tuple[_Known, ...], lookup: Lookup, reply: Reply) -> tuple[_Known, ...]:
    """Put a name first among those of an address; if it is there already, it is valid for longer."""
    since = lookup.at_unix_ns
    until = since + min(reply.ttl_s + _GRACE_S, _AT_MOST_S) * _SECOND_NS
    if known and known[0].name == reply.name and known[0].since <= since <= known[0].until:
        return (known[0]._replace(until=max(until, known[0].until), asked=since), *known[1:])
    return (_Known(reply.name, since, until, since), *known[: _NAMES - 1])


def _latest(known: tuple[_Known, ...], at: int) -> _Known | None:
    """Return the name that was asked for last before a time."""
    for one in known:
        if one.since - _TOLERANCE_NS <= at <= one.until:
            return one
    return None
