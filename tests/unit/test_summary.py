"""The summary: exact totals in bounded memory, and few lines that say where to look."""

from collections import Counter
from errno import EADDRNOTAVAIL, ENOTRECOVERABLE, EPROTONOSUPPORT, ESOCKTNOSUPPORT, ETIMEDOUT, EXFULL
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.model import Attempt, Balance, Outcome, ServerName, Verdict
from otel_connect.serve.summary import OTHER_PEERS, Summary, render
from tests.support.events import make_attempt

ATTEMPTS = st.lists(
    st.builds(
        make_attempt,
        outcome=st.sampled_from(Outcome),
        errno=st.none() | st.integers(1, 133),
        superseded=st.booleans(),
        peer_address=st.none() | st.integers(0, 9).map("10.0.0.{}".format),
        peer_port=st.none() | st.integers(1, 3),
        duration_ns=st.none() | st.integers(0, 10**12),
        server=st.none() | st.builds(ServerName, st.sampled_from(["a", "b" * 90]), st.just("dns"), st.just("process")),
    ),
    max_size=40,
)


LOST = {"kernel_ring_full": 2, "kernel_map_full": 3, "kernel_throttled": 0}


def established(**changes: Any) -> Attempt:
    return make_attempt(**({"outcome": Outcome.ESTABLISHED, "errno": None} | changes))


def balanced(shown: int) -> Balance:
    return Balance(seen=shown, shown=shown, in_progress=0, in_ring=0, lost={}, probe_missed=0)


def summed(*attempts: Attempt, max_peers: int = 4096) -> Summary:
    summary = Summary(max_peers=max_peers)
    summary.add(attempts)
    return summary


def section(lines: list[str], title: str) -> list[str]:
    """Return the indented lines under a title."""
    behind = lines[lines.index(title) + 1 :]
    end = next((index for index, line in enumerate(behind) if not line.startswith("  ")), len(behind))
    return behind[:end]


@given(ATTEMPTS, st.integers(0, 5))
def test_totals_are_exact_and_memory_is_bounded(attempts: list[Attempt], max_peers: int) -> None:
    summary = summed(*attempts, max_peers=max_peers)
    tallies = [tally for _, tally in summary.named_tallies()]
    assert len(summary.peers) <= max_peers
    assert summary.attempts == len(attempts) == sum(tally.attempts for tally in tallies)
    assert summary.outcomes == Counter(attempt.verdict.outcome for attempt in attempts)
    unfailed = {Outcome.ESTABLISHED, Outcome.PENDING, Outcome.UNKNOWN}
    assert sum((tally.failures for tally in tallies), Counter[Verdict]()) == Counter(
        attempt.verdict for attempt in attempts if attempt.verdict.outcome not in unfailed and not attempt.superseded
    )


@given(ATTEMPTS, st.integers(0, 5))
def test_any_summary_is_short_and_complete(attempts: list[Attempt], max_peers: int) -> None:
    lines = render(summed(*attempts, max_peers=max_peers), balanced(len(attempts)))
    assert len(lines) <= 28
    assert max(map(len, lines)) < 160
    assert lines[-1] == f"seen {len(attempts)} = shown {len(attempts)} + in progress 0 + lost 0"


def test_the_longest_names_of_failures_leave_a_line_short() -> None:
    failures = {ENOTRECOVERABLE: Outcome.UNREACHABLE, EPROTONOSUPPORT: Outcome.LOCAL_ERROR, EXFULL: Outcome.TIMED_OUT}
    server = ServerName("b" * 90, "dns", "process")
    attempts = [
        make_attempt(outcome=outcome, errno=number, server=server, peer_address=f"10.0.0.{last}")
        for number, outcome in failures.items()
        for last in range(10, 12)
    ]
    [line] = section(render(summed(*attempts), balanced(6)), "most failures")
    assert len(line) < 160
    assert line.endswith("2 unreachable ENOTRECOVERABLE, 2 local_error EPROTONOSUPPORT, 2 timed_out EXFULL")
    crowded = [*attempts, *(make_attempt(outcome=Outcome.UNREACHABLE, errno=ESOCKTNOSUPPORT, server=server),) * 3]
    [line] = section(render(summed(*crowded), balanced(9)), "most failures")
    assert line.endswith("3 unreachable ESOCKTNOSUPPORT, 2 unreachable ENOTRECOVERABLE, 4 others")


def test_a_long_name_without_a_port_is_shortened_too() -> None:
    attempt = make_attempt(server=ServerName("b" * 90, "dns", "process"), peer_port=None, requested_port=None)
    [line] = section(render(summed(attempt), balanced(1)), "most failures")
    assert line.startswith(f"  {'b' * 39}… (")


def test_golden_summary() -> None:
    attempts = [
        *[established(duration_ns=83_000, peer_address="::1", peer_port=5432, executable_name="psql")] * 7,
        established(duration_ns=1_200_000_000, executable_name="java", pid=77),
        *[make_attempt()] * 3,
        make_attempt(outcome=Outcome.TIMED_OUT, errno=ETIMEDOUT, duration_ns=31_000_000_000),
        make_attempt(outcome=Outcome.LOCAL_ERROR, errno=EADDRNOTAVAIL, peer_address="192.0.2.7"),
        make_attempt(outcome=Outcome.ABANDONED, errno=None, superseded=True),
    ]
    assert render(summed(*attempts), Balance(20, 14, 1, 0, LOST, 0)) == [
        "14 attempts to 3 peers",
        "  established  8  57.1 %",
        "  refused      3  21.4 %",
        "  abandoned    1   7.1 %  1 of them superseded (another address answered first)",
        "  local_error  1   7.1 %",
        "  timed_out    1   7.1 %",
        "",
        "slowest to be established",
        "  10.1.2.80:443  1.2 s  by java[77]",
        "  [::1]:5432     83 µs  by psql[4242]",
        "",
        "most failures",
        "  10.1.2.80:443  4 of 6  3 refused ECONNREFUSED, 1 timed_out ETIMEDOUT",
        "  192.0.2.7:443  1 of 1  local_error EADDRNOTAVAIL",
        "",
        "seen 20 = shown 14 + in progress 1 + lost 5",
        "lost, by reason",
        "  kernel_map_full   3",
        "  kernel_ring_full  2",
    ]


def test_without_attempts_it_says_how_to_make_some() -> None:
    assert render(Summary(), balanced(0)) == [
        "no attempts seen: no program on this host opened a TCP connection meanwhile",
        "to see some, run `make demo` in another terminal",
        "seen 0 = shown 0 + in progress 0 + lost 0",
    ]


def test_attempts_that_were_all_lost_are_not_called_none() -> None:
    assert render(Summary(), Balance(2, 0, 0, 0, {"kernel_ring_full": 2}, 0)) == [
        "seen 2 = shown 0 + in progress 0 + lost 2",
        "lost, by reason",
        "  kernel_ring_full  2",
    ]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (5, "seen 5 ≠ shown 3 + in progress 0 + lost 0: +2 unaccounted for, please report this"),
        (1, "seen 1 ≠ shown 3 + in progress 0 + lost 0: -2 unaccounted for, please report this"),
    ],
)
def test_a_balance_that_is_off_is_never_hidden(seen: int, said: str) -> None:
    assert render(summed(*[make_attempt()] * 3), Balance(seen, 3, 0, 0, {}, 0))[-1] == said


def test_peers_beyond_the_bound_share_one_tally() -> None:
    attempts = [make_attempt(peer_port=port) for port in range(10)]
    lines = render(summed(*attempts, max_peers=2), balanced(10))
    assert lines[0] == "10 attempts to 2 or more peers"
    assert section(lines, "most failures")[0] == f"  {OTHER_PEERS}  8 of 8  refused ECONNREFUSED"


def test_five_slowest_peers_the_slowest_first() -> None:
    attempts = [established(peer_port=port, duration_ns=port * 1_000_000_000) for port in range(1, 9)]
    rows = section(render(summed(*attempts), balanced(8)), "slowest to be established")
    assert [row.split()[0] for row in rows] == [f"10.1.2.80:{port}" for port in (8, 7, 6, 5, 4)]


def test_a_peer_is_as_slow_as_its_slowest_attempt() -> None:
    attempts = [established(duration_ns=ns, pid=ns) for ns in (100_000, 300_000, 200_000)]
    rows = section(render(summed(*attempts), balanced(3)), "slowest to be established")
    assert rows == ["  10.1.2.80:443  0.3 ms  by curl[300000]"]


def test_three_kinds_of_failure_are_named_for_a_peer() -> None:
    attempts = [make_attempt(outcome=Outcome.LOCAL_ERROR, errno=errno) for errno in (1, 1, 1, 2, 2, 2, 3, 3, 4, 5)]
    (row,) = section(render(summed(*attempts), balanced(10)), "most failures")
    assert row.endswith("3 local_error EPERM, 3 local_error ENOENT, 2 local_error ESRCH, 2 others")


def test_superseded_attempts_are_no_failures() -> None:
    lost_race = make_attempt(outcome=Outcome.ABANDONED, errno=None, superseded=True)
    assert "most failures" not in render(summed(lost_race), balanced(1))


def test_shares_are_never_rounded_to_nothing_or_to_all() -> None:
    lines = render(summed(*[established()] * 9999, make_attempt()), balanced(10_000))
    assert lines[1:3] == ["  established  9999  >99.9 %", "  refused         1   <0.1 %"]


def test_hostile_names_are_escaped() -> None:
    lines = render(summed(established(executable_name="\x1b[2J\n[/]")), balanced(1))
    assert any(line.endswith(r"by \x1b[2J\x0a[/][4242]") for line in lines)


def test_skipped_probes_are_said_beside_the_balance() -> None:
    lines = render(summed(make_attempt()), Balance(1, 1, 0, 0, {}, probe_missed=3))
    assert lines[-2:] == [
        "seen 1 = shown 1 + in progress 0 + lost 0",
        "probes skipped by the kernel at most 3 times: see docs/troubleshooting.md",
    ]


def test_a_peer_is_shown_with_its_name_and_the_address_behind_it() -> None:
    named = make_attempt(server=ServerName("shop.example\x1b", "dns", "process"))
    lines = render(summed(named, named), balanced(2))
    assert section(lines, "most failures") == ["  shop.example\\x1b:443 (10.1.2.80)  2 of 2  refused ECONNREFUSED"]


def test_names_that_share_an_address_are_told_apart() -> None:
    names = [ServerName(name, "dns", "process") for name in ("a.example", "b.example")]
    attempts = [make_attempt(server=names[0])] * 3 + [make_attempt(server=names[1])] * 2 + [make_attempt()]
    lines = render(summed(*attempts), balanced(6))
    assert lines[0] == "6 attempts to 3 peers"
    assert [row.split("  ")[1:3] for row in section(lines, "most failures")] == [
        ["a.example:443 (10.1.2.80)", "3 of 3"],
        ["b.example:443 (10.1.2.80)", "2 of 2"],
        ["10.1.2.80:443", ""],
    ]


def test_the_addresses_behind_one_name_count_together() -> None:
    db = ServerName("db.example", "dns", "process", 5432)
    attempts = [make_attempt(server=db, peer_address=f"10.0.0.{last}", peer_port=6000 + last) for last in (1, 2, 3)]
    lines = render(summed(*attempts), balanced(3))
    assert lines[0] == "3 attempts to 1 peer"
    assert section(lines, "most failures") == ["  db.example:5432 (10.0.0.1, …)  3 of 3  refused ECONNREFUSED"]


def test_a_name_that_looks_like_an_address_is_not_taken_for_one() -> None:
    attempts = [make_attempt(server=ServerName("10.1.2.80", "hosts", "process")), make_attempt()]
    assert render(summed(*attempts), balanced(2))[0] == "2 attempts to 2 peers"


def test_a_long_name_keeps_its_port() -> None:
    attempts = [make_attempt(server=ServerName("a" * 200 + ".example", "dns", "process"))]
    (row,) = section(render(summed(*attempts), balanced(1)), "most failures")
    assert row.startswith(f"  {'a' * 35}…:443 (10.1.2.80)  1 of 1")
