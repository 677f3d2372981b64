"""What goes into a cell of the page of conformance, and which cases are made again."""

from collections import Counter
from typing import Any

import pytest

from otel_connect.capture.hooks import ProbeSet, Sight
from tests.support.bench import Bench, Family, Run, Target
from tests.support.case import Case, Expected, Lost, Way
from tests.support.conformance import status
from tests.support.entries import Entry
from tests.support.measure import _run_all
from tests.support.runtimes import Report

TARGET = Target("192.0.2.2", "192.0.2.2", 20_001)
TYPED = Sight(ProbeSet.TYPED, rings=True, drops=True)
LITE = Sight(ProbeSet.LITE, rings=False, drops=False)
REFUSED = Expected("refused", "ECONNREFUSED", syn_sent=True)
NO_ROUTE = Expected("local_error", "ENETUNREACH", syn_sent=False)
RECORD = {
    "otel_connect.outcome": "refused",
    "otel_connect.errno.name": "ECONNREFUSED",
    "otel_connect.errno.code": 111,
    "otel_connect.blocking": True,
    "otel_connect.duration": 0.02,
    "otel_connect.syn.retransmits": 0,
    "network.peer.address": TARGET.address,
    "network.peer.port": TARGET.port,
    "network.local.port": 40_000,
    "network.type": "ipv4",
}
REPORT = Report(7, "c", TARGET.host, TARGET.port, True, "error", 111, "ECONNREFUSED", 40_000, 0.021)
RUN = Run(7, TARGET, (REPORT,), 0, 1, None)


def case(*expected: Expected, entry: Entry = Entry.CONNECT, **more: Any) -> Case:
    return Case("what", Way(Family.IPV4, True, entry), lambda _: RUN, expected or (REFUSED,), "", **more)


def test_what_is_right_passes() -> None:
    assert status(case(), RUN, [RECORD], TYPED) == "pass"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"otel_connect.outcome": "reset"}, "it says [('reset', 'ECONNREFUSED')], not [('refused', 'ECONNREFUSED')]"),
        ({"otel_connect.blocking": False}, "otel_connect.blocking is False, not True"),
        ({"network.peer.address": "192.0.2.3"}, "network.peer.address is 192.0.2.3, not 192.0.2.2"),
        ({"network.peer.port": 9}, "network.peer.port is 9, not 20001"),
        ({"network.type": "ipv6"}, "network.type is ipv6, not ipv4"),
        ({"otel_connect.duration": -1.0}, "it ends before it begins"),
        ({"otel_connect.duration": 0.03}, "it took 0.03 s, for the client 0.021 s"),
        ({"otel_connect.errno.code": 104}, "the client has the errno ECONNREFUSED"),
        ({"network.local.port": 1}, "the client has port 40000, not 1"),
        ({"otel_connect.syn.retransmits": 1}, "otel_connect.syn.retransmits is 1, not 0"),
    ],
)
def test_what_is_wrong_is_told(changed: dict[str, object], told: str) -> None:
    assert status(case(), RUN, [RECORD | changed], TYPED) == f"wrong: {told}"


@pytest.mark.parametrize("records", [[], [RECORD, RECORD]])
def test_as_many_records_as_attempts(records: list[dict[str, object]]) -> None:
    assert status(case(), RUN, records, TYPED).startswith("wrong: it says ")
    assert status(case(per_syn=True), RUN._replace(syns=len(records), reports=()), records, TYPED) == "pass"
    assert status(case(per_syn=True), RUN._replace(syns=9, reports=()), records, TYPED).startswith("wrong: 9 SYNs came")


def test_what_a_set_does_not_see_has_to_be_as_declared() -> None:
    unseen = case(NO_ROUTE, lost=Lost((), "it fails before its SYN"))
    failed = RUN._replace(syns=None, reports=(REPORT._replace(errno=101, errno_name="ENETUNREACH", local_port=None),))
    assert status(unseen, failed, [], LITE) == "not visible: it fails before its SYN; this set has no hook for calls"
    assert status(unseen, failed, [], TYPED).startswith("wrong: ")
    assert status(unseen, failed, [RECORD], LITE).startswith("wrong: ")
    seen = RECORD | {"otel_connect.outcome": "local_error", "otel_connect.errno.name": "ENETUNREACH"}
    assert status(unseen, failed, [seen | {"otel_connect.errno.code": 101}], LITE) == "pass"


@pytest.mark.parametrize(
    ("entry", "sight", "why"),
    [
        (Entry.SENDTO, TYPED, "this set has no hook for sendto()"),
        (Entry.COMPAT, TYPED, "tracepoints of system calls leave 32-bit callers out"),
        (Entry.RING, TYPED._replace(rings=False), "before Linux 6.10 the tracepoints of io_uring do not say enough"),
        (Entry.RING, TYPED, ""),
        (Entry.CONNECT, TYPED, ""),
        (Entry.COMPAT, TYPED._replace(probes=ProbeSet.FEXIT), ""),
    ],
)
def test_which_calls_are_not_seen(entry: Entry, sight: Sight, why: str) -> None:
    lost = case(NO_ROUTE, entry=entry, lost=Lost((), "nothing")).unseen(sight)
    assert (lost.why if lost else "") == (f"nothing; {why}" if why else "")
    everywhere = case(NO_ROUTE, entry=entry, lost=Lost((), "nothing", frozenset(ProbeSet))).unseen(sight)
    assert everywhere is not None


def test_an_outcome_that_may_be_unknown() -> None:
    unknown = RECORD | {"otel_connect.outcome": "unknown", "otel_connect.errno.name": None}
    assert status(case(REFUSED._replace(or_unknown=True)), RUN, [unknown], TYPED) == "pass"
    assert status(case(), RUN, [unknown], TYPED).startswith("wrong: ")


def test_what_a_machine_has_not_is_not_applicable() -> None:
    assert status(case(), RUN._replace(absent="no nft here"), [], TYPED) == "n/a: no nft here"


@pytest.mark.parametrize(("hidden_rounds", "made"), [(0, 1), (1, 2), (9, 3)])
@pytest.mark.parametrize("late", [False, True])
def test_cases_to_a_peer_that_was_late_or_whose_end_was_hidden_are_made_again(
    hidden_rounds: int, made: int, late: bool
) -> None:
    runs: Counter[str] = Counter()

    def make(name: str, target: Target) -> Case:
        def run(_: Bench) -> Run:
            runs[name] += 1
            was_late = late and name == "met" and runs[name] <= hidden_rounds
            return RUN._replace(target=target, syns=2 if was_late else 1)

        return case()._replace(what=name, make=run)

    def hidden() -> dict[tuple[str, int], int]:
        return {} if late else {TARGET[1:]: min(runs["met"], hidden_rounds)}

    cases = [make("met", TARGET), make("other", TARGET._replace(port=9))]
    found = _run_all(Bench(), cases, hidden, 1)
    assert found.keys() == {one.name for one in cases}
    assert runs == {"met": made, "other": 1}


def test_a_peer_is_late_by_what_was_to_come_to_it() -> None:
    assert not case().was_late(RUN)
    assert case().was_late(RUN._replace(syns=2))
    assert case(REFUSED._replace(elsewhere=True), REFUSED).was_late(RUN._replace(syns=2))
    assert not case(REFUSED._replace(syn_retransmits=None)).was_late(RUN._replace(syns=2))
    assert not case().was_late(RUN._replace(syns=None))
