"""Networks and ports as the configuration writes them, and what the operator says of them."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, NamedTuple, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints

from otel_connect.config.section import Section, Whole

_MAPPED = IPv6Network("::ffff:0:0/96")
_MAPPED_BITS = 96
_LAST_PORT = 65535
_PORTS = re.compile(r"([0-9]{1,5})(?: ?- ?([0-9]{1,5}))?")
_NO_HOST = re.compile(r"""[\s"<>\\^`{|}/?#@]""")


def is_host(name: str) -> bool:
    """Whether this is an address, without brackets, or a name that can be looked up."""
    if ":" in name:
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return bool(name) and name.isprintable() and not _NO_HOST.search(name)


def _network(value: object) -> IPv4Network | IPv6Network:
    """Read a network or an address; a v4-mapped one is the IPv4 one, as it is in everything the agent shows."""
    if not isinstance(value, str):
        raise ValueError("must be a network in quotes, such as 10.0.0.0/8")  # noqa: TRY004 - pydantic's way
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be a network such as 10.0.0.0/8 or fd00::/8, or an address") from None
    if "/" in value and ip_network(value.partition("/")[0]).network_address != network.network_address:
        raise ValueError(f"must have no bits beyond its prefix, as {network} has none")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - _MAPPED_BITS))
    return network


Network: TypeAlias = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
"""A network without host bits."""


class PortRange(NamedTuple):
    """Ports from one to another, both included."""

    low: int
    high: int


def _ports(value: object) -> PortRange:
    found = _PORTS.fullmatch(str(value)) if isinstance(value, int | str) else None
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high <= _LAST_PORT:
        raise ValueError('must be a port from 1 to 65535, or a range such as "8000-8999"')
    return PortRange(low, high)


Ports: TypeAlias = Annotated[PortRange, BeforeValidator(_ports)]
"""``5432`` or ``"8000-8999"``."""


class KnownPeer(Section):
    """What the operator calls those who are reached at an address of a network."""

    cidr: Network
    port: Annotated[Whole, Field(ge=1, le=_LAST_PORT)] | None = None
    """``None``: on any port."""
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]


def without_duplicates(peers: Iterable[KnownPeer]) -> tuple[KnownPeer, ...]:
    """Return the peers; raises ValueError when two say something of the same network and port."""
    found: dict[tuple[IPv4Network | IPv6Network, int | None], KnownPeer] = {}
    for peer in peers:
        if (former := found.setdefault((peer.cidr, peer.port), peer)) is not peer:
            port = "" if peer.port is None else f" with port {peer.port}"
            raise ValueError(f"has {peer.cidr}{port} twice, as {former.name!r} and as {peer.name!r}; keep one")
    return tuple(found.values())
