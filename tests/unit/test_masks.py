"""Addresses as they leave the agent: what is dropped, what is kept, and that nothing of the rest is in any output."""

import hashlib
import hmac
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from otel_connect.config import EncodeConfig, EnrichConfig, Layer, build
from otel_connect.encode.encoder import Encoder
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.resource import WorkloadResources
from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.mask_key import masks
from otel_connect.enrich.masks import Masks, hash_mask, prefix_mask
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import Lookups, Processes
from otel_connect.enrich.workloads import Workloads
from otel_connect.errors import ConfigError
from otel_connect.figures import NO_FIGURES
from tests.support.events import attempts, make_attempt, make_event
from tests.support.otlp import RESOURCES

KEY = b"sixteen bytes ok"


@pytest.mark.parametrize(
    ("bits", "address", "shown"),
    [
        ((24, 64), "10.1.2.80", "10.1.2.0"),
        ((16, 64), "10.1.2.80", "10.1.0.0"),
        ((0, 0), "10.1.2.80", "0.0.0.0"),
        ((32, 128), "10.1.2.80", "10.1.2.80"),
        ((24, 48), "2001:db8:1:2::7", "2001:db8:1::"),
        ((0, 128), "2001:db8:1:2::7", "2001:db8:1:2::7"),
        ((24, 64), "127.3.2.1", "127.3.2.1"),
        ((24, 64), "::1", "::1"),
        ((24, 64), "0.0.0.0", "0.0.0.0"),
        ((24, 64), "::", "::"),
    ],
)
def test_host_bits_are_dropped_but_not_of_loopback(bits: tuple[int, int], address: str, shown: str) -> None:
    assert Masks(prefix_mask(*bits)).address(address) == shown


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_prefix_is_the_address_of_its_network(address: Any, bits: int) -> None:
    masked = ip_address(prefix_mask(bits, 0)(str(address)))
    assert masked == ip_network(f"{masked}/{bits}").network_address
    assert address in ip_network(f"{masked}/{bits}")


@given(st.ip_addresses())
def test_a_hash_is_hmac_of_the_address(address: Any) -> None:
    digest = hmac.new(KEY, str(address).encode(), hashlib.sha256).hexdigest()
    assert hash_mask(KEY)(str(address)) == f"h-{digest[:16]}"
    assert hash_mask(KEY[::-1])(str(address)) != hash_mask(KEY)(str(address))


def test_every_address_of_an_event_is_replaced_and_nothing_else() -> None:
    event = make_event(requested_address="10.96.0.10")
    masked = Masks(hash_mask(KEY)).event(event)
    assert (masked.local_address, masked.peer_address, masked.requested_address) == tuple(
        hash_mask(KEY)(address) for address in ("10.1.2.3", "10.1.2.80", "10.96.0.10")
    )
    kept = masked._replace(local_address=event.local_address, peer_address=event.peer_address)
    assert kept._replace(requested_address="10.96.0.10") == event
    assert Masks(hash_mask(KEY)).event(make_event(local_address=None)).local_address is None


def test_names_are_found_by_whole_addresses() -> None:
    peers = KnownPeers(EnrichConfig.model_validate({"known_peers": [{"cidr": "10.1.2.80", "name": "db"}]}).known_peers)
    processes = Processes(Lookups(), lambda _uid: None, 16)
    enricher = Enricher(processes, Workloads(lambda _pid, _start: None, 16), peers, masks=Masks(hash_mask(KEY)))
    assert enricher.name(make_event()).service_peer_name == "db"
    assert str(enricher.conceal(make_event()).peer_address).startswith("h-")


def test_a_secret_in_the_name_of_a_thread_leaves_nowhere() -> None:
    processes = Processes(Lookups(), lambda _owner: None, 16)
    enricher = Enricher(processes, Workloads(lambda _pid, _start: None, 16), KnownPeers(()))
    harmless, secret = make_event(comm="kworker/0:2"), make_event(comm="x -t --token ab")
    assert enricher.name(harmless).process.executable_name == "kworker/0:2"
    before = enricher.conceals
    assert enricher.conceal(harmless) is harmless
    assert enricher.name(secret).process.executable_name == "x -t --token ***"
    assert (before, enricher.conceals) == (False, True)
    assert enricher.conceal(secret) == secret._replace(comm="x -t --token ***")


def _everything(attempt: Any) -> bytes:
    metrics = AttemptMetrics(WorkloadResources(Resource({})), figures=lambda: NO_FIGURES, environ={})
    encoder = Encoder(EncodeConfig(span_name="peer"), RESOURCES, metrics)
    return b"".join(request.body for request in (*encoder.encode([attempt]).requests, *metrics.collect()))


@given(attempts)
def test_no_output_holds_an_address_that_is_masked(attempt: Any) -> None:
    event = attempt.event
    # Other than any text that is drawn, and of a length that no number has by chance.
    addresses = [f"203.113.{part}.{200 + part}" for part in range(3)]
    whole = [
        None if had is None else new
        for had, new in zip((event.local_address, event.peer_address, event.requested_address), addresses, strict=True)
    ]
    event = event._replace(local_address=whole[0], peer_address=whole[1], requested_address=whole[2])
    for mask in (hash_mask(KEY), prefix_mask(24, 64)):
        output = _everything(attempt._replace(event=Masks(mask).event(event)))
        assert not [address for address in addresses if address.encode() in output]
    if whole[1] is not None:
        assert addresses[1].encode() in _everything(attempt._replace(event=event))


def configured(**values: Any) -> EnrichConfig:
    dotted = {f"enrich.{key}": value for key, value in values.items()}
    return build([Layer(dotted, {key: f"the file: {key}" for key in dotted})]).enrich


def test_a_key_is_what_its_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    made = masks(configured(mask_addresses="hash", mask_key_file=str(file)))
    assert made is not None
    assert made.address("10.1.2.80") == hash_mask(KEY)("10.1.2.80")
    assert masks(configured()) is None
    prefixes = masks(configured(mask_addresses="prefix", mask_ipv4_prefix=8))
    assert prefixes is not None
    assert prefixes.address("10.1.2.80") == "10.0.0.0"


@pytest.mark.parametrize("content", [None, b"", KEY[:15] + b"\n"])
def test_a_key_file_that_cannot_be_used_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        masks(configured(mask_addresses="hash", mask_key_file=str(file)))
    (line,) = caught.value.problems
    assert re.match(rf"enrich.mask_key_file: {re.escape(str(file))} (cannot be read|holds \d+ bytes)", line)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_no_key_file(device: str) -> None:
    with pytest.raises(ConfigError, match="is a device, not a regular file"):
        masks(configured(mask_addresses="hash", mask_key_file=device))


def test_a_hash_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        masks(configured(mask_addresses="hash"))
    assert caught.value.problems == ('enrich.mask_addresses: "hash" needs a key; set enrich.mask_key_file',)


def test_masked_addresses_are_still_ipv4_and_the_line_reads() -> None:
    masked = make_attempt(peer_address="h-0123456789abcdef")
    assert b"curl[4242] \xe2\x86\x92 h-0123456789abcdef:443 refused" in _everything(masked)
