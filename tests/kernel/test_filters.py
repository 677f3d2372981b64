"""What the operator does not want recorded: left out in the kernel or in the agent, and counted in either case."""

import errno
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.outcome import decide
from otel_connect.config import CaptureConfig
from otel_connect.model import Detail, KernelFilters, Outcome, Tally, Withheld
from tests.kernel.test_rates import COUNTED_EVERY, seen_in_balance, sifted
from tests.support.agent import RunningAgent
from tests.support.flood import Floods, other_cgroup
from tests.support.ledger import exit_ledgers
from tests.support.network import NetworkNamespace, closed_port

pytestmark = pytest.mark.captures

NOBODY = 0  # no process has this pid: nothing is left out
NOTHING = KernelFilters(frozenset(), frozenset(), frozenset())
UNUSED_UID = 4_123_456
PLACE = "127.77.3.4"  # an address of loopback that no other program goes to


@pytest.fixture(scope="module")
def floods() -> Iterator[Floods]:
    with Floods() as made:
        yield made


@pytest.fixture(scope="module")
def capture() -> Iterator[KernelCapture]:
    with KernelCapture(CaptureConfig(), NOBODY) as made:
        yield made


def attempt(address: str, port: int, family: socket.AddressFamily = socket.AF_INET) -> None:
    with socket.socket(family) as client, suppress(OSError):
        client.connect((address, port))


def attempt_as(uid: int, address: str, port: int, ids: str = "reuid") -> int:
    """Make an attempt in a child of another user, by its real and effective id or one of them; returns its pid."""
    code = (
        "import socket\n"
        f"with socket.socket() as client: client.connect_ex(({address!r}, {port}))\n"
    )  # fmt: skip
    pid = os.posix_spawn(
        "/usr/bin/setpriv",
        ["setpriv", f"--{ids}={uid}", "--clear-groups", "/usr/bin/python3", "-Sc", code],
        {},
    )
    assert os.waitpid(pid, 0)[1] == 0
    return pid


def taken(capture: KernelCapture, *pids: int) -> tuple[int, list[Tally]]:
    """Return how many records these processes have, and their tallies."""
    records, more = 0, True
    while more:
        drained = capture.drain()
        assert drained.undecodable == 0
        records += sum(event.pid in pids for event in drained.events)
        more = drained.more
    return records, [tally for tally in capture.take_tallies() if tally.event.pid in pids]


@pytest.mark.parametrize(
    "filters",
    [
        NOTHING._replace(networks=frozenset({ip_network("127.77.0.0/16")})),
        NOTHING._replace(networks=frozenset({ip_network("127.77.3.4/32"), ip_network("10.0.0.0/8")})),
        NOTHING._replace(ports=frozenset({(1, 1023), (7, 7)})),
        NOTHING._replace(ports=frozenset({(64, 128)})),
        NOTHING._replace(ports=frozenset({(100, 100)}), networks=frozenset({ip_network("fd00::/8")})),
    ],
    ids=["network", "address", "overlapping ports", "ports", "port and network"],
)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_attempt_that_a_filter_holds_of_is_only_tallied(
    capture: KernelCapture, filters: KernelFilters, family: socket.AddressFamily
) -> None:
    address = PLACE if family == socket.AF_INET else f"::ffff:{PLACE}"
    taken(capture)
    capture.filter(filters)
    before = capture.counters().filtered
    for _ in range(5):
        attempt(address, 100, family)
    records, tallies = taken(capture, os.getpid())
    assert records == 0
    assert [(one.withheld, one.detail, one.attempts, one.event.target) for one in tallies] == [
        (Withheld.FILTERED, Detail.WHOLE, 5, (PLACE, 100))
    ]
    assert decide(tallies[0].event).outcome is Outcome.REFUSED
    assert capture.counters().filtered >= before + 5
    capture.filter(NOTHING)
    attempt(address, 100, family)
    assert taken(capture, os.getpid()) == (1, [])


@pytest.mark.parametrize(
    "filters",
    [
        NOTHING._replace(networks=frozenset({ip_network("127.77.3.5/32"), ip_network("::/0")})),
        NOTHING._replace(ports=frozenset({(1, 99), (101, 65535)})),
        NOTHING._replace(uids=frozenset({UNUSED_UID})),
    ],
    ids=["network", "ports", "uid"],
)
def test_an_attempt_that_no_filter_holds_of_has_its_record(capture: KernelCapture, filters: KernelFilters) -> None:
    taken(capture)
    capture.filter(filters)
    attempt(PLACE, 100)
    assert taken(capture, os.getpid()) == (1, [])


def test_a_failure_before_the_syn_is_known_by_what_was_asked_for(capture: KernelCapture) -> None:
    taken(capture)
    capture.filter(NOTHING._replace(networks=frozenset({ip_network("255.255.255.255/32")})))
    attempt("255.255.255.255", 100)
    records, tallies = taken(capture, os.getpid())
    assert (records, [(one.attempts, one.event.target) for one in tallies]) == (0, [(1, ("255.255.255.255", 100))])
    assert decide(tallies[0].event).outcome is Outcome.LOCAL_ERROR


def test_ipv6_has_networks_of_its_own(capture: KernelCapture) -> None:
    taken(capture)
    capture.filter(NOTHING._replace(networks=frozenset({ip_network("::1/128")})))
    attempt("::1", 100, socket.AF_INET6)
    attempt(PLACE, 100)
    records, tallies = taken(capture, os.getpid())
    assert (records, [one.event.target for one in tallies]) == (1, [("::1", 100)])


def test_a_user_is_filtered(capture: KernelCapture) -> None:
    taken(capture)
    capture.filter(NOTHING._replace(uids=frozenset({UNUSED_UID})))
    pids = [attempt_as(uid, PLACE, 100) for uid in (UNUSED_UID, UNUSED_UID + 1)]
    records, tallies = taken(capture, *pids)
    assert (records, [(one.withheld, one.event.uid) for one in tallies]) == (1, [(Withheld.FILTERED, UNUSED_UID)])


def test_the_effective_user_counts(capture: KernelCapture) -> None:
    taken(capture)
    capture.filter(NOTHING._replace(uids=frozenset({UNUSED_UID})))
    pids = [attempt_as(UNUSED_UID, PLACE, 100, ids) for ids in ("ruid", "euid")]
    records, tallies = taken(capture, *pids)
    assert (records, [(one.event.pid, one.event.uid) for one in tallies]) == (1, [(pids[1], UNUSED_UID)])


def test_who_gave_up_what_is_left_out_is_still_known(capture: KernelCapture) -> None:
    taken(capture)
    capture.filter(NOTHING._replace(ports=frozenset({(9, 9)})))
    with NetworkNamespace() as namespace:
        namespace.silent_neighbourhood("quiet", ["198.51.100.1/24"])
        with namespace.inside(socket.socket) as client:
            client.setblocking(False)
            assert client.connect_ex(("198.51.100.2", 9)) == errno.EINPROGRESS
    _, tallies = taken(capture, os.getpid())
    assert [decide(one.event).outcome for one in tallies] == [Outcome.ABANDONED]


def test_more_rules_than_the_maps_hold_change_without_an_error(capture: KernelCapture) -> None:
    for first in (10, 11, 12):
        networks = frozenset(ip_network(((first << 24) + number, 32)) for number in range(3000))
        capture.filter(KernelFilters(frozenset(range(first * 10_000, first * 10_000 + 3000)), frozenset(), networks))
    capture.filter(NOTHING)
    taken(capture)
    attempt("10.0.0.1", 100)
    assert taken(capture, os.getpid())[0] + capture.in_progress() >= 1


RULES = """
[filter]
count = {count}
[[filter.deny]]
executable = "*/hidden-*"
[[filter.deny]]
port = {port}
"""


def test_a_cgroup_is_filtered(floods: Floods, tmp_path: Path) -> None:
    settings = tmp_path / "otel-connect.toml"
    with other_cgroup() as cgroup, sifted(b"inside-one[", b"beside-one[") as backend:
        assert cgroup is not None
        settings.write_text(f'[[filter.deny]]\ncgroup = "*/{cgroup.name}"\n', encoding="utf-8")
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint} | COUNTED_EVERY
        with RunningAgent("--config", str(settings), environment=environment) as agent:
            # Slow ones: what they live in is looked up while they live.
            inside = floods.start("refused", 30, name="inside-one", rate=30, cgroup=cgroup)
            assert floods.start("refused", 30, name="beside-one").report() == {Outcome.REFUSED: 30}
            assert inside.report() == {Outcome.REFUSED: 30}
        seen_in_balance(agent)
    assert exit_ledgers(agent.errors)["logs"].dropped["filtered"] == 30
    assert (backend.found[b"inside-one["], backend.found[b"beside-one["]) == (0, 30)
    assert backend.attempts_of("inside-one") == backend.attempts_of("beside-one") == {"refused": 30}


@pytest.mark.parametrize("counted", [True, False])
def test_what_is_filtered_is_counted_or_not_as_is_wanted_and_rules_come_and_go(
    floods: Floods, tmp_path: Path, counted: bool
) -> None:
    settings = tmp_path / "otel-connect.toml"
    names = b"hidden-one[", b"shown-one["
    with closed_port() as port, sifted(*names) as backend:
        settings.write_text(RULES.format(count=str(counted).lower(), port=port), encoding="utf-8")
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint} | COUNTED_EVERY
        with RunningAgent("--config", str(settings), environment=environment) as agent:
            for _ in range(2):
                for name in ("hidden-one", "shown-one"):
                    assert floods.start("mixed", 30, name=name).report()
                for _ in range(7):
                    attempt(PLACE, port)
                if "filter" in settings.read_text(encoding="utf-8"):
                    settings.write_text("", encoding="utf-8")
                    agent.process.send_signal(signal.SIGHUP)
                    agent.until(lambda: any("configuration reloaded" in line for line in agent.errors))
        seen = seen_in_balance(agent)
    ledgers = exit_ledgers(agent.errors)
    assert ledgers["logs"].dropped["filtered"] == ledgers["traces"].dropped["filtered"] == 37
    assert [backend.found[name] for name in names] == [30, 60]
    expected = Counter({"hidden-one": 60 if counted else 30, "shown-one": 60})
    assert {name: sum(backend.attempts_of(name).values()) for name in expected} == expected
    counts = backend.series("otel_connect.attempts")
    to_port = [count for attributes, count in counts if attributes.get("server.address") == PLACE]
    assert sum(to_port) == (14 if counted else 7)
    assert sum(count for _, count in counts) == seen - (0 if counted else 37)
