"""Bytes of the maps of tallies → tallies."""

import struct
from socket import AF_INET, AF_INET6, htons, inet_aton, inet_pton
from typing import Any

import pytest

from otel_connect.capture.layout import ClockOffsets
from otel_connect.capture.limits import bucket_numbers
from otel_connect.capture.outcome import decide
from otel_connect.capture.tallies import TALLY, TALLY_KEY, TALLY_KEY_FIELDS, decode_tallies
from otel_connect.config import CaptureConfig
from otel_connect.model import Detail, Ending, EventFlag, Hook, Outcome, Tally, Verdict, Withheld

CLOCK = ClockOffsets(monotonic_ns=1_000_000, boot_ns=2_000_000)
DEFAULTS: dict[str, Any] = {
    name: b"" if code.endswith("s") else 0 for name, code in TALLY_KEY_FIELDS if not code.endswith("x")
}


def decode(attempts: int = 3, duration_ns: int = 600, **fields: Any) -> Tally:
    values = TALLY.pack(attempts, duration_ns, 10, 20)
    (tally,) = decode_tallies(TALLY_KEY.pack(*(DEFAULTS | fields).values()), values, CLOCK)
    return tally


def test_a_tally_of_refused_attempts_is_decoded_whole() -> None:
    tally = decode(
        process_start_ns=40, cgroup_id=9, pid=7, uid=1000, netns=4026531840, sk_err=111, family=AF_INET,
        address_family=AF_INET, port=htons(443), ending=Ending.CLOSED, hooks=Hook.SYN_SENT,
        withheld=Withheld.CGROUP_RATE, ended=1, address=inet_aton("10.0.0.2"), comm=b"curl",
    )  # fmt: skip
    event = tally.event
    assert (tally.withheld, tally.detail) == (Withheld.CGROUP_RATE, Detail.WHOLE)
    assert (tally.attempts, tally.duration_ns) == (3, 600)
    assert (tally.first_unix_ns, tally.last_unix_ns) == (1_000_010, 1_000_020)
    assert (event.pid, event.uid, event.cgroup_id, event.netns, event.comm) == (7, 1000, 9, 4026531840, "curl")
    assert (event.process_start_boot_ns, event.process_start_unix_ns) == (40, 2_000_040)
    assert event.target == ("10.0.0.2", 443)
    assert event.duration_ns is None
    assert decide(event) == Verdict(Outcome.REFUSED, 111)


def test_without_a_syn_the_address_is_the_one_that_was_asked_for() -> None:
    tally = decode(
        returned=-101, family=AF_INET6, address_family=AF_INET6, port=htons(80), ending=Ending.RETURNED,
        flags=EventFlag.REQUESTED, address=inet_pton(AF_INET6, "::ffff:192.0.2.7"),
    )  # fmt: skip
    assert (tally.event.peer_address, tally.event.target, tally.event.family) == (None, ("192.0.2.7", 80), AF_INET)
    assert decide(tally.event) == Verdict(Outcome.LOCAL_ERROR, 101)
    assert tally.duration_ns is None


@pytest.mark.parametrize(("flags", "outcome"), [(0, Outcome.UNKNOWN), (EventFlag.LOCKED, Outcome.ABANDONED)])
@pytest.mark.parametrize("detail", Detail)
def test_who_ended_it_is_known_whatever_the_detail(detail: Detail, flags: int, outcome: Outcome) -> None:
    tally = decode(ending=Ending.CLOSED, hooks=Hook.SYN_SENT, flags=flags, socket_state=2, detail=detail)
    assert decide(tally.event).outcome is outcome


@pytest.mark.parametrize(("seen", "outcome"), [(0, Outcome.UNREACHABLE), (Hook.END, Outcome.LOCAL_ERROR)])
def test_what_connect_returned_counts_with_and_without_an_end(seen: int, outcome: Outcome) -> None:
    tally = decode(returned=-113, ending=Ending.RETURNED, hooks=Hook.SYN_SENT | seen)
    assert decide(tally.event) == Verdict(outcome, 113)


@pytest.mark.parametrize(
    ("socket_family", "address_family", "shown"),
    [(AF_INET6, AF_INET6, AF_INET6), (AF_INET6, AF_INET, AF_INET), (AF_INET6, 99, AF_INET6), (AF_INET, 0, AF_INET)],
)
def test_without_its_peer_a_tally_still_has_a_family(socket_family: int, address_family: int, shown: int) -> None:
    tally = decode(family=socket_family, address_family=address_family, hooks=Hook.SYN_SENT, detail=Detail.WITHOUT_PEER)
    assert tally.event.target == (None, None)
    assert tally.event.family == shown


def test_an_unknown_number_is_refused() -> None:
    with pytest.raises(LookupError):
        decode(ending=99)
    with pytest.raises(struct.error):
        decode_tallies(bytes(TALLY_KEY.size - 1), bytes(TALLY.size), CLOCK)


def test_limits_become_costs_and_bursts_in_nanoseconds() -> None:
    numbers = bucket_numbers(CaptureConfig(process_rate=1000, process_burst=50, cgroup_rate=0))
    assert numbers["OTC_PROCESS_COST_NS"] == 1_000_000
    assert numbers["OTC_PROCESS_BURST_NS"] == 50_000_000
    assert numbers["OTC_CGROUP_COST_NS"] == 0
