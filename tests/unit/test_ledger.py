"""The ledger."""

import threading

from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.model import Signal


def test_records_move_from_column_to_column() -> None:
    ledger = Ledger()
    ledger.accept(Signal.LOGS, 10)
    ledger.recover(Signal.LOGS, 2)
    ledger.export(Signal.LOGS, 4)
    ledger.drop(Signal.LOGS, Reason.EXPIRED, 3)
    ledger.drop(Signal.LOGS, Reason.TOO_LARGE, 0)
    ledger.accept(Signal.TRACES, 1)
    accounts = ledger.snapshot()
    logs, metrics, traces = (tuple(accounts[signal]) for signal in Signal)
    assert logs == (10, 4, 5, {Reason.EXPIRED: 3}, 2)
    assert metrics == (0, 0, 0, {}, 0)
    assert traces == (1, 0, 1, {}, 0)
    assert [account.difference for account in accounts.values()] == [0, 0, 0]


def test_a_difference_is_told() -> None:
    assert Account(accepted=10, exported=4, queued=3, dropped={Reason.EXPIRED: 1}, recovered=1).difference == 3


def test_a_snapshot_does_not_change() -> None:
    ledger = Ledger()
    ledger.accept(Signal.LOGS, 2)
    ledger.drop(Signal.LOGS, Reason.SHUTDOWN, 1)
    before = ledger.snapshot()[Signal.LOGS]
    ledger.drop(Signal.LOGS, Reason.SHUTDOWN, 1)
    assert before == (2, 0, 1, {Reason.SHUTDOWN: 1}, 0)


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
    assert ledger.snapshot()[Signal.LOGS] == (12_000, 4000, 0, {Reason.QUEUE_FULL: 8000}, 0)


def test_the_reasons_are_those_of_the_contract() -> None:
    assert {str(reason) for reason in Reason} == {
        *("kernel_map_full", "kernel_ring_full", "kernel_throttled", "filtered", "no_syn", "sampled", "queue_full"),
        *("spool_full", "spool_io", "spool_corrupt", "encode_error", "rejected_partial", "rejected_permanent"),
        *("too_large", "expired", "output_io", "shutdown"),
    }
