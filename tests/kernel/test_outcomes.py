"""Every way a connect attempt can end, made with real sockets, against what the agent says of it.

Each case knows the outcome from how it was made; the client's own report and the SYNs that the other side
counted are the independent witnesses. What strace says of the same cases is in test_bench.py.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family, Run
from tests.support.cases import CASES, Case, run_all
from tests.support.outcome_cases import CASES as TABLE
from tests.support.outcome_cases import KERNEL
from tests.support.peer import PEER

pytestmark = pytest.mark.captures(shared=True)


class Capture(NamedTuple):
    """All cases made once, and what the agent said."""

    runs: dict[str, Run]
    records: dict[int, list[dict[str, Any]]]
    errors: list[str]


@pytest.fixture(scope="module")
def captured() -> Iterator[Capture]:
    expected = sum(len(case.expected) for case in CASES)
    with Bench() as bench, RunningAgent("--output", "json") as agent:
        runs = run_all(bench, CASES)
        pids = [run.pid for run in runs.values()]
        agent.until(lambda: len(agent.attempts(*pids)) >= expected)
        assert agent.stop() == 0
        found = agent.attempts(*pids)
        records = {pid: [r["attributes"] | r for r in found if r["attributes"]["process.pid"] == pid] for pid in pids}
        for of_process in records.values():
            of_process.sort(key=lambda record: record["timeUnixNano"])
        yield Capture(runs, records, agent.errors)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_agent_says_what_became_of_each_attempt(case: Case, captured: Capture) -> None:
    run = captured.runs[case.name]
    records = captured.records[run.pid]
    said = [(record["otel_connect.outcome"], record.get("otel_connect.errno.name")) for record in records]
    assert said == [
        (expected.outcome, None if expected.outcome == "abandoned" else expected.errno_name)
        for expected in case.expected
    ]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_facts_of_each_attempt(case: Case, captured: Capture) -> None:
    run = captured.runs[case.name]
    for record, expected in zip(captured.records[run.pid], case.expected, strict=True):
        assert record["otel_connect.blocking"] == expected.blocking
        assert record["otel_connect.duration"] >= 0
        if expected.syn_sent and expected.syn_retransmits is not None:
            assert record["otel_connect.syn.retransmits"] == expected.syn_retransmits
        if expected.errno_name not in {"EFAULT", "EAFNOSUPPORT"}:
            assert record["network.peer.address"] == run.target.address
            assert record["network.type"] == ("ipv6" if case.family is Family.IPV6 else "ipv4")
            if run.target.port:
                assert record["network.peer.port"] == run.target.port


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_client_itself_reports_the_same(case: Case, captured: Capture) -> None:
    run = captured.runs[case.name]
    records = captured.records[run.pid]
    if run.exit_code < 0:
        assert not run.reports  # killed before it could say anything
        return
    assert len(run.reports) == len(records)
    for report, record in zip(run.reports, records, strict=True):
        assert report.pid == record["process.pid"]
        if report.result == "error":
            assert report.errno == record["otel_connect.errno.code"]
        if report.local_port and "network.local.port" in record:
            assert report.local_port == record["network.local.port"]
        if report.seconds is not None and report.blocking:
            # The program measures around the call, so the kernel's time is never the longer one.
            assert record["otel_connect.duration"] <= report.seconds + 0.005


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_peer_counts_the_syns(case: Case, captured: Capture) -> None:
    run = captured.runs[case.name]
    if run.syns is None:
        assert run.target.address not in PEER.values()
        return
    least = sum(expected.syn_sent + (expected.syn_retransmits or 0) for expected in case.expected)
    exact = all(expected.syn_retransmits is not None for expected in case.expected)
    assert run.syns == least or (run.syns > least and not exact)


def test_every_row_of_the_table_that_this_kernel_can_show_is_shown() -> None:
    made = {case.row for case in CASES}
    rows = {row.name: row for row in TABLE}
    assert made - {""} <= rows.keys()
    # These are of the agent's own making: it stops first, or a program's thread makes them.
    elsewhere = {"the agent stops first", "the socket's own error counts before a soft one", "TCP_USER_TIMEOUT"}
    shown = {name for name, row in rows.items() if row.shown_by == KERNEL}
    assert shown - made - elsewhere == set()


def test_the_ledger_balances(captured: Capture) -> None:
    ledgers = [line for line in captured.errors if ": seen " in line]
    assert len(ledgers) == 2
    assert not any("unaccounted" in line for line in ledgers)
    assert all(line.split(" + dropped ")[0].endswith("queued 0") for line in ledgers)
