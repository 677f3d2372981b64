"""Which name an attempt is given, of those that were seen."""

from collections.abc import Sequence

import pytest

from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.names import Names, askers_by_tcp
from otel_connect.model import Asker, ConnectEvent, ServerName
from tests.support.enriching import make_enricher
from tests.support.events import make_event
from tests.support.lookups import BEGAN, CLIENT, NETNS, SERVER, answer, answered, asked, question

SECOND = 1_000_000_000
ME, OTHER = (10, 1_000), (11, 2_000)


class HostsTable:
    """An /etc/hosts of each process."""

    def __init__(self, names: dict[tuple[int, str], str] | None = None) -> None:
        self.names = names or {}

    def name(self, pid: int, _start_boot_ns: int, address: str) -> str | None:
        return self.names.get((pid, address))


def asker(process: tuple[int, int] = ME, *, at: int = BEGAN, port: int = CLIENT[1]) -> Asker:
    return Asker(*process, NETNS, at, CLIENT[0], port, SERVER[0])


def lookup(names: Names, name: str, *, at: int = BEGAN, port: int = CLIENT[1], ttl: int = 30) -> None:
    ask, client = question(name), (CLIENT[0], port)
    names.see([asked(ask, at=at, client=client)])
    names.see([answered(answer(ask, (name, ttl, "A", "10.9.9.9")), at=at, client=client)])


def attempt(process: tuple[int, int] = ME, *, at: int = BEGAN + 1, **changes: object) -> ConnectEvent:
    whose = {"pid": process[0], "process_start_boot_ns": process[1], "start_unix_ns": at, "netns": NETNS}
    where = {"peer_address": "10.9.9.9", "requested_address": "10.9.9.9"}
    return make_event(**(whose | where | changes))


def named(name: str, matched_by: str = "process", source: str = "dns") -> ServerName:
    return ServerName(name, source, matched_by)


@pytest.mark.parametrize("early", [True, False])
def test_a_process_has_the_name_it_asked_for_whenever_it_is_told_of(early: bool) -> None:
    names = Names(HostsTable())
    if early:
        names.ask([asker()])
    lookup(names, "web.test")
    if not early:
        names.ask([asker()])
    assert names.of(attempt()) == named("web.test")
    assert names.of(attempt(OTHER)) == named("web.test", "namespace")
    assert names.of(attempt(netns=NETNS + 1)) == named("web.test"), "its own question, wherever it goes"
    assert names.of(attempt(OTHER, netns=NETNS + 1)) is None


def test_of_two_names_each_process_has_its_own_and_others_have_the_latest() -> None:
    names = Names(HostsTable())
    for process, name, port in ((ME, "one.test", 1), (OTHER, "two.test", 2)):
        names.ask([asker(process, port=port)])
        lookup(names, name, port=port)
    later = BEGAN + SECOND
    assert names.of(attempt(ME, at=later)) == named("one.test")
    assert names.of(attempt(OTHER, at=later)) == named("two.test")
    assert names.of(attempt((12, 3_000), at=later)) == named("two.test", "namespace")


def test_a_name_that_was_asked_for_later_is_not_meant() -> None:
    names = Names(HostsTable())
    lookup(names, "late.test", at=BEGAN + SECOND)
    assert names.of(attempt()) is None
    lookup(names, "later.test", at=BEGAN + 3 * SECOND)
    assert names.of(attempt(at=BEGAN + 2 * SECOND)) == named("late.test", "namespace")


@pytest.mark.parametrize(("ttl", "valid_s"), [(0, 60), (300, 360), (7 * 86_400, 86_400)])
def test_a_name_is_valid_for_its_time_to_live_and_a_little_longer(ttl: int, valid_s: int) -> None:
    names = Names(HostsTable())
    lookup(names, "web.test", ttl=ttl)
    assert names.of(attempt(at=BEGAN + valid_s * SECOND)) == named("web.test", "namespace")
    assert names.of(attempt(at=BEGAN + valid_s * SECOND + 1)) is None


def test_a_port_that_was_asked_from_long_ago_may_be_anothers_now() -> None:
    names = Names(HostsTable())
    names.ask([asker()])
    lookup(names, "web.test", at=BEGAN + 31 * SECOND)
    assert names.of(attempt(at=BEGAN + 32 * SECOND)) == named("web.test", "namespace")


def test_the_hosts_file_comes_between_the_own_question_and_those_of_others() -> None:
    names = Names(HostsTable({(ME[0], "10.9.9.9"): "hosts.test"}))
    lookup(names, "web.test")
    assert names.of(attempt()) == named("hosts.test", "process", "hosts")
    assert names.of(attempt(OTHER)) == named("web.test", "namespace")
    names.ask([asker()])
    assert names.of(attempt()) == named("web.test")


def test_what_was_dialled_counts_before_what_was_reached() -> None:
    names = Names(HostsTable())
    lookup(names, "web.test")
    assert names.of(attempt(peer_address="10.0.0.1")) == named("web.test", "namespace")
    assert names.of(attempt(requested_address=None)) == named("web.test", "namespace")
    assert names.of(attempt(peer_address=None, requested_address=None)) is None


@pytest.mark.parametrize(
    ("requested", "peer", "port"),
    [
        (("10.9.9.9", 443), ("10.9.9.9", 443), None),
        (("10.9.9.9", 443), ("10.0.3.7", 8443), 443),
        (("10.9.9.9", 443), ("10.9.9.9", 8443), 443),
        (("10.9.9.9", 443), ("10.0.3.7", 443), None),
        (("10.96.0.10", 443), ("10.9.9.9", 8443), None),
        (("10.9.9.9", 443), (None, None), None),
        ((None, None), ("10.9.9.9", 8443), None),
    ],
)
def test_a_name_goes_with_the_port_that_was_asked_for_where_the_peers_is_another(
    requested: tuple[str | None, int | None], peer: tuple[str | None, int | None], port: int | None
) -> None:
    names = Names(HostsTable())
    lookup(names, "web.test")
    where = dict(
        zip(("requested_address", "requested_port", "peer_address", "peer_port"), requested + peer, strict=True)
    )
    assert names.of(make_event(start_unix_ns=BEGAN + 1, netns=NETNS, **where)) == ServerName(
        "web.test", "dns", "namespace", port
    )


def test_who_connects_to_a_name_server_asks_by_that_connection() -> None:
    to_it = attempt(local_address=CLIENT[0], local_port=CLIENT[1], peer_address=SERVER[0], peer_port=53)
    to_another_port = to_it._replace(pid=OTHER[0], process_start_boot_ns=OTHER[1], peer_port=54)
    names = Names(HostsTable())
    names.ask(askers_by_tcp([to_it, to_another_port, to_it._replace(local_port=None)]))
    lookup(names, "web.test")
    assert names.of(attempt()) == named("web.test")
    assert names.of(attempt(OTHER)) == named("web.test", "namespace")


def test_what_is_remembered_is_bounded() -> None:
    names = Names(HostsTable(), remembered=4)
    for number in range(20):
        ask = question(f"n{number}.test")
        names.ask([asker((number, 1), port=number)])
        reply = answer(ask, (f"n{number}.test", 30, "A", f"10.9.9.{number}"))
        names.see([asked(ask, client=(CLIENT[0], number)), answered(reply, client=(CLIENT[0], number))])
    found: Sequence[ServerName | None] = [
        names.of(attempt((number, 1), requested_address=f"10.9.9.{number}", peer_address=None)) for number in range(20)
    ]
    assert [one is not None for one in found] == [False] * 16 + [True] * 4
    assert names.state(1, 0, 0).learned == 20


def test_another_enricher_takes_the_names_over() -> None:
    def enricher() -> Enricher:
        return make_enricher(lambda *_: None, lambda _: None, names=Names(HostsTable()))

    former, latter = enricher(), enricher()
    ask = question()
    former.overhear([], [asker()], [asked(ask), answered(answer(ask, ("web.test", 30, "A", "10.9.9.9")))])
    latter.inherit(former)
    assert latter.name(attempt()).server == named("web.test")
