"""What the operator calls peers: against a search through all of them, and as the configuration reads it."""

import sys
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.config import build, file_layer
from otel_connect.config.networks import KnownPeer
from otel_connect.enrich.peers import KnownPeers
from otel_connect.errors import ConfigError


def peer(cidr: str, name: str, port: int | None = None) -> KnownPeer:
    return KnownPeer.model_validate({"cidr": cidr, "name": name, "port": port})


PEERS = KnownPeers(
    [
        peer("10.0.0.0/8", "data-centre"),
        peer("10.0.0.0/8", "orders-db", 5432),
        peer("10.1.0.0/16", "shop"),
        peer("10.1.2.3", "cache", 6379),
        peer("::ffff:192.0.2.0/120", "mapped"),
        peer("fd00::/8", "inside"),
        peer("0.0.0.0/0", "outside"),
    ]
)


@pytest.mark.parametrize(
    ("address", "port", "name"),
    [
        ("10.9.9.9", 80, "data-centre"),
        ("10.9.9.9", 5432, "orders-db"),
        ("10.1.9.9", 5432, "shop"),  # a longer prefix wins over a port
        ("10.1.2.3", 6379, "cache"),
        ("10.1.2.3", 80, "shop"),
        ("192.0.2.7", 80, "mapped"),
        ("198.51.100.1", None, "outside"),
        ("fd12::1", 443, "inside"),
        ("2001:db8::1", 443, None),
        (None, None, None),
    ],
)
def test_the_longest_prefix_counts_and_first_one_with_the_port(
    address: str | None, port: int | None, name: str | None
) -> None:
    assert PEERS.find(address, port) == PEERS.find(address, port) == name


def _oracle(peers: list[KnownPeer], address: str, port: int | None) -> str | None:
    matching = [
        (one.cidr.prefixlen, one.port is not None, one.name)
        for one in peers
        if ip_address(address) in one.cidr and one.port in (None, port)
    ]
    return max(matching)[2] if matching else None


# Few different bits, so that networks hold each other and the addresses.
_addresses = st.one_of(
    st.integers(0, 7).map(lambda bits: str(ip_address((10 << 24) + (bits << 22) + bits))),
    st.integers(0, 7).map(lambda bits: str(ip_address((0xFD << 120) + (bits << 100)))),
)
_ports = st.one_of(st.none(), st.sampled_from([80, 443]))


def _within(address: str, bits: int) -> IPv4Network | IPv6Network:
    return ip_network((address, min(bits, ip_address(address).max_prefixlen)), strict=False)


_networks = st.builds(_within, _addresses, st.integers(0, 32))


@given(
    st.dictionaries(st.tuples(_networks, _ports), st.text("abc", min_size=1, max_size=3), max_size=30),
    st.lists(st.tuples(_addresses, _ports), max_size=20),
)
def test_it_finds_what_a_search_through_all_finds(
    entries: dict[tuple[IPv4Network | IPv6Network, int | None], str], asked: list[tuple[str, int | None]]
) -> None:
    peers = [peer(str(cidr), name, port) for (cidr, port), name in entries.items()]
    known = KnownPeers(peers)
    for address, port in asked:
        assert known.find(address, port) == _oracle(peers, address, port)


def test_thousands_of_networks_take_no_more_steps_than_one() -> None:
    def steps(peers: list[KnownPeer]) -> int:
        known = KnownPeers(peers)
        taken = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal taken
            taken += event in {"call", "c_call"}

        sys.setprofile(count)
        try:
            known.find("10.0.0.1", 80)
        finally:
            sys.setprofile(None)
        return taken

    many = [peer(str(ip_address((10 << 24) + number)), f"peer-{number}", 80) for number in range(5000)]
    assert steps(many) == steps(many[1:2]) > 0


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        build([file_layer(file)])
    return tuple(line.removeprefix(f"{file}: ") for line in caught.value.problems)


def test_tables_of_a_file_become_known_peers(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[enrich]\nknown_peers = [{ cidr = "10.0.0.0/8", port = 5432, name = "orders-db" }]\n', encoding="utf-8"
    )
    assert build([file_layer(file)]).enrich.known_peers == (peer("10.0.0.0/8", "orders-db", 5432),)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('cidr = "10.0.0.1/8", name = "a"', "(entry 1): cidr: must have no bits beyond its prefix, as 10.0.0.0/8"),
        ('cidr = "somewhere", name = "a"', "(entry 1): cidr: must be a network such as"),
        ('cidr = 10, name = "a"', "(entry 1): cidr: must be a network in quotes"),
        ('cidr = "::/0", name = " "', "(entry 1): name:"),
        ('cidr = "::/0", name = "a", port = 0', "(entry 1): port:"),
        ('cidr = "::/0"', "(entry 1): name: must be set"),
        ('cidr = "::/0", name = "a", nets = 1', "(entry 1): nets: no such key"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(entry: str, said: str, tmp_path: Path) -> None:
    (line,) = problems(tmp_path, f"[enrich]\nknown_peers = [{{ {entry} }}]\n")
    assert line.startswith(f"enrich.known_peers {said}")


def test_two_names_for_one_network_are_refused(tmp_path: Path) -> None:
    entries = '{ cidr = "10.0.0.0/8", name = "a" }, { cidr = "::ffff:10.0.0.0/104", name = "b" }'
    (line,) = problems(tmp_path, f"[enrich]\nknown_peers = [{entries}]\n")
    assert line == "enrich.known_peers: has 10.0.0.0/8 twice, as 'a' and as 'b'; keep one"
