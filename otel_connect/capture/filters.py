"""The operator's rules that the probes decide themselves: an attempt they hold of is only tallied.

The agent decides by all rules anyway. So what does not fit into the maps, or is decided while they change,
is left out all the same, only later.
"""

import logging
import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

from otel_connect.capture import bpf
from otel_connect.model import KernelFilters

_log = logging.getLogger(__name__)

MAX_FILTERS = 2048
"""Users, and networks, that the maps hold: the former ones and the new ones together, while they change."""
_AT_ONCE = MAX_FILTERS // 2

NETWORK_FIELDS = (("bits", "I"), ("address", "16s"))
NETWORK = struct.Struct("=" + "".join(code for _, code in NETWORK_FIELDS))
_UID = struct.Struct("=I")
_KINDS = struct.Struct("=I")
_WORD = struct.Struct("=Q")

BY_UID, BY_PORT, BY_NETWORK = 1, 2, 4
_PORTS, _WORD_BITS = 1 << 16, 64
_PRESENT = b"\1"
_MAPPED = IPv6Network("::ffff:0:0/96")


class FilterMaps:
    """The maps that the probes look into, by their descriptors."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._kinds, self._ports = maps["filters"], maps["filtered_ports"]
        self._uids = _KeySet(maps["filtered_uids"])
        self._networks = _KeySet(maps["filtered_networks"])
        self._words = port_words(())

    def apply(self, filters: KernelFilters) -> None:
        """Have the probes decide by these rules; none that is in both the former and these is without effect."""
        uids = [_UID.pack(uid) for uid in sorted(filters.uids)[:_AT_ONCE]]
        networks = sorted(map(network_key, filter(_can_be_told, filters.networks)))[:_AT_ONCE]
        words = port_words(filters.ports)
        self._uids.add(uids)
        self._networks.add(networks)
        for place, (former, word) in enumerate(zip(self._words, words, strict=True)):
            if word != former:
                bpf.put(self._ports, _WORD.pack(word), place)
        self._words = words
        kinds = (BY_UID if uids else 0) | (BY_PORT if any(words) else 0) | (BY_NETWORK if networks else 0)
        bpf.put(self._kinds, _KINDS.pack(kinds))
        self._uids.keep(uids)
        self._networks.keep(networks)


class _KeySet:
    """A map that is used as a set."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held: set[bytes] = set()

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys; what the kernel has no memory for is left to the agent."""
        for key in keys:
            if key in self._held:
                continue
            try:
                bpf.insert(self._descriptor, key, _PRESENT)
            except OSError as error:
                _log.warning("the kernel does not take all of the filters (%s); the agent decides", error.strerror)
                return
            self._held.add(key)

    def keep(self, keys: Iterable[bytes]) -> None:
        """Remove all but these."""
        for key in self._held - set(keys):
            bpf.remove(self._descriptor, key)
            self._held.remove(key)


def _can_be_told(network: IPv4Network | IPv6Network) -> bool:
    """Whether it holds only IPv4 or only IPv6: where all mapped addresses are in it, the trie would find IPv4 there."""
    return isinstance(network, IPv4Network) or not network.supernet_of(_MAPPED)


def network_key(network: IPv4Network | IPv6Network) -> bytes:
    """Write a network as ``struct otc_network``: an IPv4 one as that of the v4-mapped addresses."""
    if isinstance(network, IPv4Network):
        return NETWORK.pack(
            _MAPPED.prefixlen + network.prefixlen, _MAPPED.network_address.packed[:12] + network.network_address.packed
        )
    return NETWORK.pack(network.prefixlen, network.network_address.packed)


def port_words(ranges: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Return a bit for each port, 64 in a word: set for those in the ranges, both ends included."""
    bits = 0
    for low, high in ranges:
        bits |= (1 << high + 1) - (1 << low)
    return tuple(bits >> place & (1 << _WORD_BITS) - 1 for place in range(0, _PORTS, _WORD_BITS))
