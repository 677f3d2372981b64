"""What the operator calls a peer, by address and port. Pure."""

from collections.abc import Iterable
from ipaddress import ip_address

from cachetools import LRUCache

from otel_connect.config.networks import KnownPeer

_REMEMBERED = 8192


class KnownPeers:
    """Finds the name of a peer among many networks: the longest prefix, and at one length first one with the port.

    For each length of a prefix there is a table, so that thousands of networks cost no more than a few.
    """

    def __init__(self, peers: Iterable[KnownPeer]) -> None:
        # By address family (4 or 6) and bits that are cut off, fewest first, then by what is left and the port.
        tables: dict[tuple[int, int], dict[tuple[int, int | None], str]] = {}
        for peer in peers:
            cut = peer.cidr.max_prefixlen - peer.cidr.prefixlen
            table = tables.setdefault((peer.cidr.version, cut), {})
            table[int(peer.cidr.network_address) >> cut, peer.port] = peer.name
        self._tables = sorted(tables.items(), key=lambda item: item[0])
        self._found: LRUCache[tuple[str, int | None], str | None] = LRUCache(_REMEMBERED)

    def find(self, address: str | None, port: int | None) -> str | None:
        """Return the name of a peer, ``None`` when it has none."""
        if address is None or not self._tables:
            return None
        key = address, port
        try:
            return self._found[key]
        except KeyError:
            name = self._found[key] = self._find(address, port)
            return name

    def _find(self, address: str, port: int | None) -> str | None:
        parsed = ip_address(address)
        number = int(parsed)
        for (version, cut), table in self._tables:
            if version == parsed.version:
                prefix = number >> cut
                name = table.get((prefix, port)) or table.get((prefix, None))
                if name is not None:
                    return name
        return None
