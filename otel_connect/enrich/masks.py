"""Addresses as they leave the agent: whole, without their host bits, or as a keyed hash. Pure."""

import hashlib
import hmac
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from cachetools import LRUCache

from otel_connect.model import ConnectEvent

_REMEMBERED = 16384
_HASH_DIGITS = 16


class Masks:
    """Replaces addresses by what one function makes of them; loopback and unspecified ones stay as they are.

    Those are the same on every host and tell nothing of anyone. The same address always becomes the same text.
    """

    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask
        self._known: LRUCache[str, str] = LRUCache(_REMEMBERED)

    def address(self, address: str) -> str:
        """Return what is shown in place of an address."""
        shown = self._known.get(address)
        if shown is None:
            parsed = ip_address(address)
            stays = parsed.is_loopback or parsed.is_unspecified
            shown = self._known[address] = address if stays else self._mask(address)
        return shown

    def event(self, event: ConnectEvent) -> ConnectEvent:
        """Replace every address of an event; its family is still that of the real ones."""
        return event._replace(
            local_address=self._optional(event.local_address),
            peer_address=self._optional(event.peer_address),
            requested_address=self._optional(event.requested_address),
        )

    def _optional(self, address: str | None) -> str | None:
        return None if address is None else self.address(address)


def prefix_mask(ipv4_bits: int, ipv6_bits: int) -> Callable[[str], str]:
    """Keep so many bits of an address: ``10.1.2.80`` becomes ``10.1.2.0`` with 24."""

    def mask(address: str) -> str:
        return str(ip_network((address, ipv6_bits if ":" in address else ipv4_bits), strict=False).network_address)

    return mask


def hash_mask(key: bytes) -> Callable[[str], str]:
    """Write the beginning of HMAC-SHA-256: ``h-`` and 16 hex digits, which only the key's holder can search for."""

    def mask(address: str) -> str:
        return f"h-{hmac.new(key, address.encode('ascii'), hashlib.sha256).hexdigest()[:_HASH_DIGITS]}"

    return mask
