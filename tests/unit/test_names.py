"""Which name an attempt is given, of those that were seen."""

from collections.abc import Callable, Sequence

import dns.flags
import dns.message
import dns.rcode
import pytest

from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.names import Names
from otel_connect.model import ConnectEvent, Segment, ServerName
from tests.support.enriching import make_enricher
from tests.support.events import make_event
from tests.support.lookups import BEGAN, CLIENT, NETNS, answer, answered, asked, question

SECOND = 1_000_000_000
ME, OTHER = (10, 1_000), (11, 2_000)


class HostsTable:
    """An /etc/hosts of each process."""

    def __init__(self, names: dict[tuple[int, str], str] | None = None) -> None:
        self.names = names or {}

    def name(self, pid: int, _start_boot_ns: int, address: str) -> str | None:
        return self.names.get((pid, address))


def lookup(
    names: Names,
    name: str,
    *,
    at: int = BEGAN,
    port: int = CLIENT[1],
    ttl: int = 30,
    process: tuple[int, int] | None = None,
) -> None:
    ask, client = question(name), (CLIENT[0], port)
    names.see([asked(ask, at=at, client=client, process=process)])
    names.see([answered(answer(ask, (name, ttl, "A", "10.9.9.9")), at=at, client=client)])


def attempt(process: tuple[int, int] = ME, *, at: int = BEGAN + 1, **changes: object) -> ConnectEvent:
    whose = {"pid": process[0], "process_start_boot_ns": process[1], "start_unix_ns": at, "netns": NETNS}
    where = {"peer_address": "10.9.9.9", "requested_address": "10.9.9.9"}
    return make_event(**(whose | where | changes))


def named(name: str, matched_by: str = "process", source: str = "dns") -> ServerName:
    return ServerName(name, source, matched_by)


def test_a_process_has_the_name_it_asked_for() -> None:
    names = Names(HostsTable())
    lookup(names, "web.test", process=ME)
    assert names.of(attempt()) == named("web.test")
    assert names.of(attempt(OTHER)) == named("web.test", "namespace")
    assert names.of(attempt(netns=NETNS + 1)) == named("web.test"), "its own question, wherever it goes"
    assert names.of(attempt(OTHER, netns=NETNS + 1)) is None


def test_of_two_names_each_process_has_its_own_and_others_have_the_latest() -> None:
    names = Names(HostsTable())
    for process, name, port in ((ME, "one.test", 1), (OTHER, "two.test", 2)):
        lookup(names, name, port=port, process=process)
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


def test_the_hosts_file_comes_between_the_own_question_and_those_of_others() -> None:
    names = Names(HostsTable({(ME[0], "10.9.9.9"): "hosts.test"}))
    lookup(names, "web.test")
    assert names.of(attempt()) == named("hosts.test", "process", "hosts")
    assert names.of(attempt(OTHER)) == named("web.test", "namespace")
    lookup(names, "web.test", port=9, process=ME)
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


def test_what_is_remembered_is_bounded() -> None:
    names = Names(HostsTable(), remembered=4)
    for number in range(20):
        ask = question(f"n{number}.test")
        reply = answer(ask, (f"n{number}.test", 30, "A", f"10.9.9.{number}"))
        names.see([asked(ask, process=(number, 1)), answered(reply)])
    found: Sequence[ServerName | None] = [
        names.of(attempt((number, 1), requested_address=f"10.9.9.{number}", peer_address=None)) for number in range(20)
    ]
    assert [one is not None for one in found] == [False] * 16 + [True] * 4
    assert names.state(0).learned == 20


def test_another_enricher_takes_the_names_over() -> None:
    def enricher() -> Enricher:
        return make_enricher(lambda *_: None, lambda _: None, names=Names(HostsTable()))

    former, latter = enricher(), enricher()
    ask = question()
    former.overhear([asked(ask, process=ME), answered(answer(ask, ("web.test", 30, "A", "10.9.9.9")))])
    latter.inherit(former)
    assert latter.name(attempt()).server == named("web.test")


MANY = [("big.test", 1, "A", f"10.8.{n // 250}.{n % 250}") for n in range(257)]
NAMES = [(f"n{n}.test", 1, "A", f"10.8.{n // 250}.{n % 250}") for n in range(300)]
BIG = question("big.test")


def changed(change: Callable[[dns.message.Message], object]) -> Segment:
    message = answer(BIG, ("big.test", 1, "A", "10.8.0.1"))
    change(message)
    return answered(message)


UNREADABLE: dict[str, list[Segment]] = {
    "too many addresses": [answered(answer(BIG, *MANY))],
    "too many names": [answered(answer(BIG, *NAMES))],
    "too long": [answered(answer(BIG, ("big.test", 1, "A", "10.8.0.1")), padding=20_000)],
    "cut by the name server": [changed(lambda message: setattr(message, "flags", message.flags | dns.flags.TC))],
    "a fragment": [changed(lambda _: None)._replace(whole=False)],
    "cut off in its header": [changed(lambda _: None)._replace(whole=False, payload=b"?" * 8)],
    "malformed": [changed(lambda _: None)._replace(payload=changed(lambda _: None).payload[:-1])],
    "lost": [],
    "of a connection with a gap": [
        changed(lambda _: None)._replace(tcp=True, syn=True, sequence=1, payload=b""),
        changed(lambda _: None)._replace(tcp=True, sequence=9),
    ],
}
"""What comes back to who asked for big.test, and says nothing."""


def unreadable(names: Names, kind: str, *, at: int = BEGAN + 2, process: tuple[int, int] | None = ME) -> None:
    names.see([asked(BIG, at=at, process=process)])
    names.see([one._replace(at_unix_ns=at + 1) for one in UNREADABLE[kind]])


@pytest.fixture
def names() -> Names:
    """Return those of a network namespace in which somebody else has asked for web.test."""
    made = Names(HostsTable({(12, "10.9.9.9"): "hosts.test"}))
    lookup(made, "web.test", port=9, process=OTHER)
    return made


LATER = BEGAN + SECOND


@pytest.mark.parametrize("kind", UNREADABLE)
def test_who_was_told_what_nobody_can_read_does_not_get_the_name_of_another(kind: str, names: Names) -> None:
    unreadable(names, kind)
    assert names.of(attempt(at=LATER)) is None
    assert names.of(attempt(at=BEGAN - 3_000_000)) is None, "before any of that"
    assert names.of(attempt(OTHER, at=LATER)) == named("web.test")


@pytest.mark.parametrize("kind", UNREADABLE)
def test_once_it_is_told_again_and_can_be_read_the_names_of_others_count(kind: str, names: Names) -> None:
    unreadable(names, kind)
    again = BEGAN + 5 * SECOND
    names.see([asked(question("BIG.test", identifier=9), at=again, process=ME)])
    names.see([answered(answer(question("big.test", identifier=9), ("big.test", 1, "A", "10.8.0.1")), at=again)])
    assert names.of(attempt(at=again + 1)) == named("web.test", "namespace")
    assert names.of(attempt(at=again + 1, requested_address="10.8.0.1")) == named("big.test")


@pytest.mark.parametrize("code", ["NXDOMAIN", "SERVFAIL", "NOERROR"])
def test_who_was_told_nothing_at_all_may_have_the_name_of_another(code: str, names: Names) -> None:
    nothing = answer(BIG)
    nothing.set_rcode(dns.rcode.from_text(code))
    names.see([asked(BIG, process=ME), answered(nothing)])
    assert names.of(attempt(at=LATER)) == named("web.test", "namespace")


def test_the_own_name_and_that_of_the_hosts_file_stay(names: Names) -> None:
    for process, port in ((ME, CLIENT[1]), ((12, 3_000), 12)):
        names.see([asked(BIG, client=(CLIENT[0], port), process=process)])
    lookup(names, "own.test", process=ME)
    assert names.of(attempt(at=LATER)) == named("own.test")
    assert names.of(attempt((12, 3_000), at=LATER)) == named("hosts.test", "process", "hosts")


def test_what_was_told_of_the_other_version_says_nothing_of_this_one(names: Names) -> None:
    names.see([asked(question("big.test", "AAAA"), process=ME)])
    assert names.of(attempt(at=LATER)) == named("web.test", "namespace")
    names.see([asked(question("big.test", "A"), process=ME)])
    assert names.of(attempt(at=LATER)) is None


def test_an_own_name_that_is_too_old_is_not_replaced_by_that_of_another(names: Names) -> None:
    lookup(names, "own.test", ttl=1, process=ME)
    later = BEGAN + 62 * SECOND
    lookup(names, "web.test", port=9, at=later)
    assert names.of(attempt(at=later + 1)) is None
    assert names.of(attempt((13, 4_000), at=later + 1)) == named("web.test", "namespace")


def test_after_a_day_what_could_not_be_read_counts_no_more(names: Names) -> None:
    unreadable(names, "malformed")
    later = BEGAN + 86_400 * SECOND + 10 * SECOND
    lookup(names, "web.test", port=9, at=later)
    assert names.of(attempt(at=later - 11 * SECOND)) is None
    assert names.of(attempt(at=later + 1)) == named("web.test", "namespace")


@pytest.mark.parametrize(
    "kind", ["too many addresses", "too many names", "too long", "cut by the name server", "malformed"]
)
def test_where_nobody_knows_who_was_told_it_an_earlier_name_does_not_count_for_anybody(kind: str, names: Names) -> None:
    unreadable(names, kind, process=None)
    assert names.of(attempt(at=LATER)) is None
    assert names.of(attempt(OTHER, at=LATER)) == named("web.test"), "its own"
    again = BEGAN + 11 * SECOND
    lookup(names, "web.test", port=9, at=again)
    assert names.of(attempt(at=again + 1)) == named("web.test", "namespace"), "a later name counts"


def test_a_question_of_nobody_knows_whom_takes_no_name_away_before_its_answer(names: Names) -> None:
    names.see([asked(BIG)])  # as resolvers ask all the time
    assert names.of(attempt(at=LATER)) == named("web.test", "namespace")


def test_of_many_open_questions_none_is_forgotten_for_being_old(names: Names) -> None:
    for number in range(40):
        names.see([asked(question(f"n{number}.test", identifier=number), at=BEGAN + number, process=ME)])
    for number in range(20, 40):
        told = answer(question(f"n{number}.test", identifier=number))
        names.see([answered(told, at=BEGAN + 100 + number)])
    assert names.of(attempt(at=LATER)) is None
