"""Rules of the operator: what they hold of, what the probes are told of them, how they are written."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.capture.filters import network_key, port_words
from otel_connect.config import build, file_layer
from otel_connect.config.filters import FilterConfig
from otel_connect.enrich.filters import NO_FILTERS, Filters
from otel_connect.errors import ConfigError
from otel_connect.model import Process, Surroundings
from tests.support.events import make_event

CURL = Process("curl", "/usr/bin/curl", "alice")


def home(_event: object) -> Surroundings:
    return Surroundings("/kubepods.slice/pod7/app", "/docker/0123")


def filters(**rules: list[dict[str, Any]]) -> Filters:
    return Filters(FilterConfig.model_validate(rules))


def denied(rule: dict[str, Any], process: Process = CURL, **changes: Any) -> bool:
    made = filters(deny=[rule])
    event = make_event(**changes)
    assert made.leave_out(event, process, home) == made.leave_out(event, process, home)
    return made.leave_out(event, process, home)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"executable": "/usr/bin/curl"}, True),
        ({"executable": "*/curl"}, True),
        ({"executable": "/usr/*"}, True),
        ({"executable": "/usr/bin/cur"}, False),
        ({"executable": "*/curl\n"}, False),
        ({"cgroup": "/kubepods.slice/*"}, True),
        ({"cgroup": "/docker/*"}, True),
        ({"cgroup": "/kubepods.slice"}, False),
        ({"cgroup": "*pod7*", "uid": 0}, False),
        ({"uid": 1001}, True),
        ({"uid": 0}, False),
        ({"port": 443}, True),
        ({"port": "400-443"}, True),
        ({"port": "444-500"}, False),
        ({"cidr": "10.1.0.0/16"}, True),
        ({"cidr": "10.1.2.80"}, True),
        ({"cidr": "10.2.0.0/16"}, False),
        ({"cidr": "::/0"}, False),
        ({"cidr": "::ffff:10.1.2.0/120"}, True),
        ({"uid": 1001, "port": 443, "cidr": "10.0.0.0/8", "executable": "*"}, True),
        ({"uid": 1001, "port": 444}, False),
    ],
)
def test_a_rule_holds_when_all_that_it_says_is_so(rule: dict[str, Any], holds: bool) -> None:
    assert denied(rule) is holds


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ({"cidr": "0.0.0.0/0"}, {"peer_address": None, "requested_address": None}),
        ({"port": "1-65535"}, {"peer_address": None, "requested_address": None, "requested_port": None}),
    ],
)
def test_no_rule_holds_of_what_is_not_known(rule: dict[str, Any], changes: dict[str, Any]) -> None:
    assert not denied(rule, **changes)
    assert not denied({"executable": "*"}, Process("curl", None, None))


def test_surroundings_are_asked_for_once_and_again_while_they_are_not_known() -> None:
    answers = [Surroundings(), Surroundings("/app"), Surroundings("/other")]
    made = filters(deny=[{"cgroup": "/app"}])
    assert [made.leave_out(make_event(), CURL, lambda _event: answers.pop(0)) for _ in range(3)] == [False, True, True]
    assert not filters(deny=[{"uid": 0}]).leave_out(make_event(), CURL, lambda _event: answers.pop(9))


def test_before_there_was_a_peer_it_is_what_was_asked_for() -> None:
    assert denied(
        {"cidr": "192.0.2.0/24", "port": 80}, peer_address=None, requested_address="192.0.2.1", requested_port=80
    )


def test_what_is_not_allowed_is_left_out_and_deny_wins() -> None:
    made = filters(deny=[{"port": 25}], allow=[{"cidr": "10.0.0.0/8"}, {"uid": 0}])
    assert not made.leave_out(make_event(), CURL, home)
    assert not made.leave_out(make_event(peer_address="192.0.2.1", uid=0), CURL, home)
    assert made.leave_out(make_event(peer_address="192.0.2.1"), CURL, home)
    assert made.leave_out(make_event(peer_port=25), CURL, home)
    assert not NO_FILTERS
    assert not NO_FILTERS.leave_out(make_event(), CURL, home)


def test_the_probes_are_told_the_rules_of_deny_with_one_condition() -> None:
    made = filters(
        deny=[
            {"uid": 0}, {"uid": 7}, {"port": 25}, {"port": "80-90"}, {"cidr": "fd00::/8"}, {"cidr": "10.0.0.0/8"},
            {"uid": 1, "port": 1}, {"executable": "/bin/x"}, {"uid": 2, "executable": "/bin/x"},
        ],
        allow=[{"uid": 3}],
    )  # fmt: skip
    assert made.in_kernel.uids == {0, 7}
    assert made.in_kernel.ports == {(25, 25), (80, 90)}
    assert made.in_kernel.networks == {ip_network("fd00::/8"), ip_network("10.0.0.0/8")}


_ports = st.integers(1, 65535)
_ranges = st.lists(st.tuples(_ports, _ports).map(lambda pair: (min(pair), max(pair))), max_size=5)


@given(_ranges, st.lists(_ports, max_size=20))
def test_a_port_has_its_bit_when_it_is_in_a_range(ranges: list[tuple[int, int]], asked: list[int]) -> None:
    words = port_words(ranges)
    assert len(words) == 1024
    for port in {*asked, *(end for one in ranges for end in one)}:
        assert words[port // 64] >> port % 64 & 1 == any(low <= port <= high for low, high in ranges)


def test_an_ipv4_network_is_that_of_its_mapped_addresses() -> None:
    mapped = ip_network("::ffff:10.1.0.0/112")
    assert network_key(ip_network("10.1.0.0/16")) == network_key(mapped)
    assert network_key(mapped)[4:] == mapped.network_address.packed


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "must say what it is about"),
        ('executable = "curl"', "must be a whole path"),
        ('port = "9-1"', "must be a port from 1 to 65535"),
        ('port = "1-2-3"', "must be a port from 1 to 65535"),
        ("port = 65536", "must be a port from 1 to 65535"),
        ("port = true", "must be a port from 1 to 65535"),
        ("port = 0", "must be a port from 1 to 65535"),
        ("uid = -1", "must be 0 or more"),
        ('cidr = "10.0.0.1/8"', "must have no bits beyond its prefix"),
        ("user = 1", "no such key"),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(rule: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[[filter.deny]]\nuid = 1\n[[filter.deny]]\n{rule}\n")
    with pytest.raises(ConfigError) as caught:
        build([file_layer(file)])
    (line,) = caught.value.problems
    assert line.startswith(f"{file}: filter.deny (entry 2)")
    assert said in line
