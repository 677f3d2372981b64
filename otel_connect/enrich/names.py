"""The names that programs resolved: which of them an attempt meant, as far as it was seen.

A name is one that was asked for before the attempt began, and whose answer held the address that was dialled;
nothing is ever looked up. Whose question it was is known where a process connected the socket that it asked
from; else a name counts for all processes of its network namespace.

No process gets the name that another one asked for where its own look-up contradicts that: where it was told the
address under a name that is too old by now, or was told something that could not be read
(docs/decisions/0056-names-that-are-contradicted.md).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from otel_connect.enrich.dns import AAAA, UNREAD, A, Reply
from otel_connect.enrich.lookups import Lookup, Lookups
from otel_connect.enrich.unread import Unread
from otel_connect.figures import NamesState
from otel_connect.model import Asker, ConnectEvent, Segment, ServerName

_DNS_PORT = 53
_SECOND_NS = 1_000_000_000
_GRACE_S = 60  # programs connect a while after they asked, and some keep what they were told for half a minute
_AT_MOST_S = 86_400
_TOLERANCE_NS = 2_000_000  # between the clock of packets and that of attempts
_ASKER_NS = 30 * _SECOND_NS  # then its port may long be another's
_UNCLAIMED = 8  # of a flow: two questions, each with a second try, and their answers
_NAMES = 8  # of one address: who has more gets the latest

_Process = tuple[int, int]
_Flow = tuple[int, tuple[str, int], str]


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


class _Asking(NamedTuple):
    process: _Process
    at: int


class Names:
    """Learns names from packets, and gives them to attempts; remembers a bounded number of addresses."""

    def __init__(self, hosts: HostNames, remembered: int = 16_384) -> None:
        self._hosts = hosts
        self._lookups = Lookups()
        self._askers: LRUCache[_Flow, _Asking] = LRUCache(4096)
        self._unclaimed: LRUCache[_Flow, tuple[Lookup, ...]] = LRUCache(1024)
        self._by_process: LRUCache[tuple[_Process, str], tuple[_Known, ...]] = LRUCache(remembered)
        self._by_namespace: LRUCache[tuple[int, str], tuple[_Known, ...]] = LRUCache(remembered)
        self._unread = Unread()
        self._learned = 0

    def ask(self, askers: Iterable[Asker]) -> None:
        """Take note of who asks from which port."""
        for asker in askers:
            flow = asker.netns, (asker.local_address, asker.local_port), asker.peer_address
            asking = _Asking((asker.pid, asker.process_start_boot_ns), asker.at_unix_ns)
            self._askers[flow] = asking
            for lookup in self._unclaimed.pop(flow, ()):
                if _fits(asking, lookup):
                    self._learn_of(asking.process, lookup)

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

    def state(self, namespaces: int, dropped: int, askers_lost: int) -> NamesState:
        """Say what has been learned, listening in so many namespaces, with so many packets and askers lost."""
        ignored = {reason.value: count for reason, count in self._lookups.ignored.items()}
        return NamesState(self._learned, self._lookups.unanswered, ignored, namespaces, dropped, askers_lost)

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
        flow = lookup.netns, lookup.client, lookup.server
        asking = self._askers.get(flow)
        claimed = asking is not None and _fits(asking, lookup)
        if isinstance(lookup.reply, Reply):
            self._learned += 1
            for address in lookup.reply.addresses:
                place = lookup.netns, address
                self._by_namespace[place] = _with(self._by_namespace.get(place, ()), lookup, lookup.reply)
            self._unread.close(lookup.netns, lookup.question)
        elif lookup.reply in UNREAD and not claimed:
            self._unread.open(lookup.netns, lookup.question, lookup.at_unix_ns)
        if asking is not None and claimed:
            self._learn_of(asking.process, lookup)
        else:
            self._unclaimed[flow] = (*self._unclaimed.get(flow, ())[1 - _UNCLAIMED :], lookup)

    def _learn_of(self, process: _Process, lookup: Lookup) -> None:
        if lookup.reply is None or lookup.reply in UNREAD:
            self._unread.open(process, lookup.question, lookup.at_unix_ns)
            return
        self._unread.close(process, lookup.question)
        if isinstance(lookup.reply, Reply):
            for address in lookup.reply.addresses:
                known = self._by_process.get((process, address), ())
                self._by_process[process, address] = _with(known, lookup, lookup.reply)


def askers_by_tcp(events: Iterable[ConnectEvent]) -> Iterator[Asker]:
    """Find who asks a name server by TCP: whoever connects to its port asks from where the attempt began."""
    for event in events:
        if event.peer_port == _DNS_PORT and event.local_port is not None:
            yield Asker(
                event.pid,
                event.process_start_boot_ns,
                event.netns,
                event.start_unix_ns,
                event.local_address or "",
                event.local_port,
                event.peer_address or "",
            )


def _fits(asking: _Asking, lookup: Lookup) -> bool:
    return -_TOLERANCE_NS <= lookup.at_unix_ns - asking.at <= _ASKER_NS


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
