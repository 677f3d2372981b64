"""The ledger, and the queue whose content it has to match."""

import threading
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.export.pending import Pending
from otel_connect.model import Request, Signal

LIMIT = 100


def request(size: int, records: int = 1) -> Request:
    return Request(Signal.LOGS, bytes(size), records)


def test_records_move_from_column_to_column() -> None:
    ledger = Ledger()
    ledger.accept(Signal.LOGS, 10)
    ledger.export(Signal.LOGS, 4)
    ledger.drop(Signal.LOGS, Reason.EXPIRED, 3)
    ledger.drop(Signal.LOGS, Reason.TOO_LARGE, 0)
    ledger.accept(Signal.TRACES, 1)
    accounts = ledger.snapshot()
    logs, metrics, traces = (tuple(accounts[signal]) for signal in Signal)
    assert logs == (10, 4, 3, {Reason.EXPIRED: 3})
    assert metrics == (0, 0, 0, {})
    assert traces == (1, 0, 1, {})
    assert [account.difference for account in accounts.values()] == [0, 0, 0]


def test_a_difference_is_told() -> None:
    assert Account(accepted=10, exported=4, queued=3, dropped={Reason.EXPIRED: 1}).difference == 2


def test_a_snapshot_does_not_change() -> None:
    ledger = Ledger()
    ledger.accept(Signal.LOGS, 2)
    ledger.drop(Signal.LOGS, Reason.SHUTDOWN, 1)
    before = ledger.snapshot()[Signal.LOGS]
    ledger.drop(Signal.LOGS, Reason.SHUTDOWN, 1)
    assert before == (2, 0, 1, {Reason.SHUTDOWN: 1})


def test_the_identity_holds_at_any_moment_between_threads() -> None:
    ledger = Ledger()
    start = threading.Barrier(5)

    def work(signal: Signal) -> None:
        start.wait()
        for _ in range(2000):
            ledger.accept(signal, 3)
            ledger.export(signal, 1)
            ledger.drop(signal, Reason.QUEUE_FULL, 2)

    threads = [threading.Thread(target=work, args=(signal,)) for signal in (*Signal, Signal.LOGS)]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        assert all(account.difference == 0 for account in ledger.snapshot().values())
    assert ledger.snapshot()[Signal.LOGS] == (12_000, 4000, 0, {Reason.QUEUE_FULL: 8000})


def test_the_reasons_are_those_of_the_contract() -> None:
    assert {str(reason) for reason in Reason} == {
        *("kernel_map_full", "kernel_ring_full", "kernel_throttled", "filtered", "sampled", "queue_full"),
        *("spool_full", "spool_io", "spool_corrupt", "encode_error", "rejected_partial", "rejected_permanent"),
        *("too_large", "expired", "shutdown"),
    }


def test_pending_drops_the_oldest_but_not_what_is_on_lease() -> None:
    pending = Pending(LIMIT, lambda: 0.0)
    first, second, third, fourth = (request(40, records) for records in (1, 2, 3, 4))
    assert pending.put(first) == pending.put(second) == []
    assert pending.put(third) == [first]
    entry = pending.lease()
    assert entry is not None
    assert entry.request is second
    assert pending.put(fourth) == [third]
    assert pending.put(request(61)) == (fourth, request(61))
    assert pending.put(request(LIMIT + 1)) == (request(LIMIT + 1),)
    assert pending.settle(entry.key)
    assert not pending.settle(entry.key)
    assert (pending.size_bytes, pending.records) == (0, 0)


def test_pending_replaces_an_entry_by_its_parts_in_front() -> None:
    now = [1.0]
    pending = Pending(LIMIT, lambda: now[0])
    pending.put(request(10, 4))
    now[0] = 2.0
    pending.put(request(20, 1))
    entry = pending.lease()
    assert entry is not None
    assert pending.replace(entry.key, [request(5, 3), request(6, 1)])
    pending.finish()
    left = []
    while (entry := pending.lease()) is not None:
        left.append((len(entry.request.body), entry.since))
        pending.settle(entry.key)
    assert left == [(5, 1.0), (6, 1.0), (20, 2.0)]


def test_a_closed_queue_gives_everything_back() -> None:
    pending = Pending(LIMIT, lambda: 0.0)
    pending.put(request(1))
    entry = pending.lease()
    assert entry is not None
    assert pending.close() == [request(1)]
    assert not pending.settle(entry.key)
    assert not pending.replace(entry.key, [request(1)])
    assert pending.put(request(2)) == (request(2),)
    assert pending.lease() is None


def test_a_waiting_lease_wakes_up() -> None:
    pending = Pending(LIMIT, lambda: 0.0)
    leased: list[object] = []

    def take() -> None:
        while (entry := pending.lease()) is not None:
            leased.append(entry.request)
            pending.settle(entry.key)

    thread = threading.Thread(target=take)
    thread.start()
    pending.put(request(1))
    pending.put(request(2))
    pending.finish()
    thread.join(10)
    assert leased == [request(1), request(2)]


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 120), st.sampled_from(["lease", "release", "settle"]))))
def test_pending_is_a_bounded_queue(steps: list[int | str]) -> None:
    """Compare with a deque that is searched by hand."""
    pending = Pending(LIMIT, lambda: 0.0)
    model: deque[Request] = deque()
    leased = None
    gone = 0
    for number, step in enumerate(steps):
        if isinstance(step, int):
            new = request(step, number)
            dropped = pending.put(new)
            gone += len(dropped)
            model.append(new)
            for one in dropped:
                assert leased is None or one is not leased.request
                model.remove(one)
            assert list(dropped) == sorted(dropped, key=lambda one: one.records)
        elif step == "lease" and model:
            leased = pending.lease()
            assert leased is not None
            assert leased.request is model[0]
        elif step == "release":
            pending.release()
            leased = None
        elif step == "settle" and leased is not None:
            assert pending.settle(leased.key)
            model.popleft()
            leased = None
        assert pending.size_bytes == sum(len(one.body) for one in model) <= LIMIT
        assert pending.records == sum(one.records for one in model)
    assert list(pending.close()) == list(model)
