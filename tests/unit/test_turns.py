"""Whose turn it is to send: one thread tries for all while delivery fails, and what ends a pause or the sending."""

import threading
import time
from collections.abc import Callable, Iterable
from itertools import repeat

import pytest

from otel_connect.config import ExportConfig
from otel_connect.export.answer import Action, Answer
from otel_connect.export.endpoint import Endpoint
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.ledger import Reason
from otel_connect.export.sender import Backoff, State
from otel_connect.export.transport import Transport
from otel_connect.model import Signal
from tests.support.delivery import MEMORY, PATIENT, logs, metrics

RETRY, DELIVERED, UNHEALTHY = (Answer(one) for one in (Action.RETRY, Action.DELIVERED, Action.RETRY_UNHEALTHY))
CONFIG = ExportConfig(endpoint="http://x", spool_directory=MEMORY, request_bytes=4096)
LONG_S = 3.0


class Backend:
    """Answers as a script says, then takes everything; holds each answer back as long as ``open`` is not set."""

    def __init__(self, script: Iterable[Answer] = (), *, held: bool = False) -> None:
        self._script = iter(script)
        self._changed = threading.Condition()
        self.open = threading.Event()
        if not held:
            self.open.set()
        self.begun = self.under_way = self.most = self.closed = 0

    def send(self, body: bytes) -> Answer:  # noqa: ARG002 - whatever it is
        with self._changed:
            self.begun += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            answer = next(self._script, DELIVERED)
            self._changed.notify_all()
        self.open.wait(10)
        with self._changed:
            self.under_way -= 1
        return answer

    def hang_up(self) -> None:
        with self._changed:
            self.closed += 1
            self._changed.notify_all()

    def take_all(self) -> None:
        self._script = iter(())

    def await_so(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, LONG_S), (self.begun, self.under_way, self.closed)

    def await_begun(self, count: int) -> None:
        self.await_so(lambda: self.begun >= count)


class Way:
    """One of the ways to a backend."""

    def __init__(self, backend: Backend) -> None:
        self.send, self.close = backend.send, backend.hang_up


def exporter_to(*backends: Backend, backoff: Backoff = PATIENT, concurrency: int = 1) -> OtlpExporter:
    """Make an exporter to the first backend; ``reconfigure`` leads to the next one."""
    ways = iter(backends)
    opened: dict[str, Backend] = {}

    def open_way(endpoint: Endpoint) -> Transport:
        if endpoint.place not in opened:
            opened[endpoint.place] = next(ways)
        return Way(opened[endpoint.place])

    config = CONFIG.model_copy(update={"concurrency": concurrency})
    return OtlpExporter(config, backoff=backoff, opener=open_way, random=lambda: 0.5)


def await_state(exporter: OtlpExporter, state: State) -> None:
    deadline = time.monotonic() + LONG_S
    while exporter.health()[Signal.LOGS].state is not state:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def await_sent(exporter: OtlpExporter) -> None:
    """Wait until nothing is queued, and its threads wait for records."""
    deadline = time.monotonic() + LONG_S
    while exporter.accounts()[Signal.LOGS].queued:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(0.02)


def put(exporter: OtlpExporter, count: int) -> None:
    """Put requests of which no two fit into one."""
    for number in range(count):
        exporter.put(logs(f"{number}", padding=3000))


def exported(exporter: OtlpExporter) -> int:
    account = exporter.accounts()[Signal.LOGS]
    assert account.difference == 0
    return account.exported


def test_as_many_send_at_one_time_as_configured_and_no_more() -> None:
    backend = Backend(held=True)
    exporter = exporter_to(backend, concurrency=3)
    put(exporter, 8)
    backend.await_so(lambda: backend.under_way == 3)
    backend.open.set()
    backend.await_begun(8)
    assert backend.closed == 0  # the connections are kept
    exporter.close(LONG_S)
    assert (backend.most, backend.begun, exported(exporter)) == (3, 8, 8)


def test_once_it_works_again_all_send_again() -> None:
    backend = Backend([RETRY] * 3)
    exporter = exporter_to(backend, backoff=Backoff(0.001, 0.001, 0.001), concurrency=2)
    put(exporter, 1)
    backend.await_begun(4)
    await_state(exporter, State.DELIVERING)
    backend.open.clear()
    put(exporter, 3)
    backend.await_so(lambda: backend.under_way == 2)
    backend.open.set()
    exporter.close(LONG_S)
    assert exported(exporter) == 4


def test_while_it_fails_the_others_wait_and_send_once_it_works() -> None:
    backend = Backend([RETRY] * 3, held=True)
    exporter = exporter_to(backend, concurrency=3)
    put(exporter, 6)
    backend.await_so(lambda: backend.under_way == 3)
    backend.open.set()
    await_state(exporter, State.RETRYING)
    time.sleep(0.05)  # the pause is minutes long: nobody tries
    assert backend.begun == 3
    exporter.close(LONG_S)
    assert exported(exporter) == 6


def test_close_gives_a_pause_one_last_try_and_no_second_one() -> None:
    backend = Backend(repeat(RETRY))
    exporter = exporter_to(backend)
    put(exporter, 2)
    backend.await_begun(1)
    await_state(exporter, State.RETRYING)
    began = time.monotonic()
    exporter.close(0.8)
    assert time.monotonic() - began < 0.6  # what would be too late is not waited for
    assert backend.begun == 2
    assert exporter.accounts()[Signal.LOGS].dropped == {Reason.SHUTDOWN: 2}


def test_close_tries_again_and_again_while_there_is_time() -> None:
    backend = Backend([RETRY] * 4)
    exporter = exporter_to(backend, backoff=Backoff(0.2, 0.2, 0.2))
    put(exporter, 1)
    backend.await_begun(1)
    began = time.monotonic()
    exporter.close(LONG_S)
    assert 0.25 < time.monotonic() - began < 2  # one pause cut short, the others kept
    assert (backend.begun, exported(exporter)) == (5, 1)


def test_close_without_time_does_not_try() -> None:
    backend = Backend([RETRY])
    exporter = exporter_to(backend)
    put(exporter, 1)
    backend.await_begun(1)
    await_state(exporter, State.RETRYING)
    exporter.close(0)
    time.sleep(0.05)
    assert backend.begun == 1


@pytest.mark.parametrize(("asked_s", "tries"), [(60.0, 1), (0.3, 2)])
def test_close_keeps_the_wait_that_the_backend_asked_for(asked_s: float, tries: int) -> None:
    backend = Backend([Answer(Action.RETRY, retry_after_s=asked_s)])
    exporter = exporter_to(backend, backoff=Backoff(0.001, 0.001, 0.001))
    put(exporter, 1)
    backend.await_begun(1)
    await_state(exporter, State.RETRYING)
    began = time.monotonic()
    exporter.close(LONG_S)
    took_s = time.monotonic() - began
    assert backend.begun == tries
    assert took_s < 1 if tries == 1 else 0.15 < took_s < 2


def test_close_does_not_wait_for_a_backend_that_hangs() -> None:
    backend = Backend(held=True)
    exporter = exporter_to(backend)
    put(exporter, 2)
    backend.await_begun(1)
    began = time.monotonic()
    exporter.close(0.2)
    assert 0.1 < time.monotonic() - began < 0.9
    assert backend.closed >= 1  # it has hung up
    backend.open.set()
    assert exporter.accounts()[Signal.LOGS].dropped == {Reason.SHUTDOWN: 2}
    time.sleep(0.05)
    assert backend.begun == 1  # and what waited is not sent after the end


def test_another_way_ends_the_pause_and_the_old_one_is_hung_up() -> None:
    old, new = Backend([UNHEALTHY]), Backend()
    exporter = exporter_to(old, new)
    put(exporter, 1)
    await_state(exporter, State.UNHEALTHY)
    exporter.reconfigure(CONFIG.model_copy(update={"endpoint": "http://y"}))
    new.await_begun(1)
    await_state(exporter, State.DELIVERING)
    assert old.closed == 3  # one way for each signal
    exporter.close(LONG_S)
    assert (new.begun, exported(exporter)) == (1, 1)


def test_a_request_under_way_ends_on_the_way_that_was_left_and_hangs_up_then() -> None:
    old, new = Backend([RETRY], held=True), Backend()
    exporter = exporter_to(old, new)
    put(exporter, 1)
    old.await_begun(1)
    exporter.reconfigure(CONFIG.model_copy(update={"endpoint": "http://y"}))
    assert old.closed == 2  # not that of the request
    old.open.set()
    new.await_begun(1)  # at once: the failure is none of the new way
    assert exporter.health()[Signal.LOGS].state is State.DELIVERING
    old.await_so(lambda: old.closed == 3)
    exporter.close(LONG_S)
    assert exported(exporter) == 1


def test_pauses_begin_again_on_another_way() -> None:
    asked: list[int] = []

    class Noted(Backoff):
        def pause_s(self, failures: int, random: float) -> float:
            assert random == 0.5
            asked.append(failures)
            return 0.0

    old, new = Backend([RETRY] * 3, held=False), Backend([RETRY] * 2)
    exporter = exporter_to(old, new, backoff=Noted())
    put(exporter, 1)
    old.await_begun(4)
    await_state(exporter, State.DELIVERING)
    exporter.reconfigure(CONFIG.model_copy(update={"endpoint": "http://y"}))
    put(exporter, 1)
    new.await_begun(3)
    exporter.close(LONG_S)
    assert asked == [1, 2, 3, 1, 2]


def test_threads_come_and_go_with_the_number_of_requests_that_may_be_under_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = (4, 2, 3, 1)
    backends = [Backend(held=True) for _ in numbers]
    exporter = exporter_to(Backend(), *backends)
    for place, (most, backend) in enumerate(zip(numbers, backends, strict=True)):
        exporter.reconfigure(CONFIG.model_copy(update={"endpoint": f"http://{place}", "concurrency": most}))
        put(exporter, 6)
        backend.await_begun(most)
        time.sleep(0.02)
        assert backend.most == most
        backend.open.set()
        await_threads(exporter, most)
        await_sent(exporter)  # all wait for requests, also those that are not needed on the next way
    exporter.close(LONG_S)
    assert exporter.accounts()[Signal.LOGS].queued == exporter.accounts()[Signal.LOGS].difference == 0
    assert "fault" not in caplog.text


def await_threads(exporter: OtlpExporter, count: int) -> None:
    """Put requests until so many threads are left: one that is not needed any more ends when it wakes."""
    deadline = time.monotonic() + LONG_S
    wanted = {f"export-logs-{index}" for index in range(count)}
    while {thread.name for thread in threading.enumerate() if thread.name.startswith("export-logs-")} != wanted:
        assert time.monotonic() < deadline
        put(exporter, 1)
        time.sleep(0.002)


def fail_together(exporter: OtlpExporter, backend: Backend) -> None:
    """Have two requests fail at one time, so that both threads pause."""
    put(exporter, 4)
    backend.await_so(lambda: backend.under_way == 2)
    backend.open.set()
    await_state(exporter, State.RETRYING)
    deadline = time.monotonic() + LONG_S
    while exporter._senders[Signal.LOGS]._failures < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_of_those_that_pause_one_has_the_last_try_and_all_end_with_it() -> None:
    backend = Backend(repeat(RETRY), held=True)
    exporter = exporter_to(backend, concurrency=2)
    fail_together(exporter, backend)
    began = time.monotonic()
    exporter.close(LONG_S)
    assert time.monotonic() - began < 1
    time.sleep(0.02)
    assert backend.begun == 3


def test_those_that_pause_go_on_if_the_last_try_succeeds() -> None:
    backend = Backend([RETRY] * 2, held=True)
    exporter = exporter_to(backend, concurrency=2)
    fail_together(exporter, backend)
    backend.open.clear()
    closing = threading.Thread(target=exporter.close, args=(LONG_S,))
    closing.start()
    backend.await_begun(3)
    time.sleep(0.05)  # the other waits for how it ends
    backend.open.set()
    closing.join()
    assert (backend.begun, exported(exporter)) == (6, 4)


def test_what_expired_while_nothing_went_ends_nobodys_sending() -> None:
    backend = Backend(repeat(RETRY), held=True)
    exporter = exporter_to(backend, backoff=Backoff(0.02, 0.02, 0.02, expire_s=0.2), concurrency=2)
    fail_together(exporter, backend)
    deadline = time.monotonic() + LONG_S
    while exporter.accounts()[Signal.LOGS].dropped != {Reason.EXPIRED: 4}:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    backend.take_all()
    put(exporter, 1)
    await_state(exporter, State.DELIVERING)
    exporter.close(LONG_S)
    assert exported(exporter) == 1


def test_threads_with_nothing_left_to_send_end_at_once_though_it_still_fails() -> None:
    backend = Backend(repeat(RETRY), held=True)
    exporter = exporter_to(backend, backoff=Backoff(0.02, 0.02, 0.02, expire_s=0.2), concurrency=2)
    fail_together(exporter, backend)
    deadline = time.monotonic() + LONG_S
    while exporter.accounts()[Signal.LOGS].queued:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    began = time.monotonic()
    exporter.close(LONG_S)
    assert time.monotonic() - began < 1


def test_what_is_lost_before_it_can_be_sent_is_said(caplog: pytest.LogCaptureFixture) -> None:
    exporter = exporter_to(Backend())
    exporter.put(logs("a", padding=5000))
    exporter.close(LONG_S)
    assert "logs: dropped 1 records (too_large): one record is larger" in caplog.text


def test_signals_send_side_by_side() -> None:
    backend = Backend(held=True)
    exporter = exporter_to(backend)
    exporter.put(logs("a"))
    exporter.put(metrics("b"))
    backend.await_so(lambda: backend.under_way == 2)
    assert {"export-logs-0", "export-metrics-0"} <= {thread.name for thread in threading.enumerate()}
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("export-"))
    backend.open.set()
    exporter.close(LONG_S)


class Faulty(Backend):
    """Raises where the script says unhealthy."""

    def send(self, body: bytes) -> Answer:
        if (answer := super().send(body)) is UNHEALTHY:
            raise ValueError("wrong")
        return answer


def test_a_fault_of_a_way_is_reported_and_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    backend = Faulty([UNHEALTHY] * 2)
    exporter = exporter_to(backend, backoff=Backoff(0.001, 0.001, 0.001))
    put(exporter, 1)
    backend.await_begun(3)
    exporter.close(LONG_S)
    assert exported(exporter) == 1
    assert "a fault of the agent (ValueError: wrong); please report this" in caplog.text


def test_a_fault_after_the_answer_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend([None])  # type: ignore[list-item]  # what no way should return
    exporter = exporter_to(backend, backoff=Backoff(0.001, 0.001, 0.001))
    put(exporter, 1)
    backend.await_begun(2)
    exporter.close(LONG_S)
    assert exported(exporter) == 1
    assert "a fault of the agent (AttributeError: " in caplog.text


def test_the_first_fault_after_a_reload_is_one_of_the_new_way() -> None:
    old, new = Backend(), Faulty([UNHEALTHY])
    exporter = exporter_to(old, new)
    put(exporter, 1)
    await_sent(exporter)
    exporter.reconfigure(CONFIG.model_copy(update={"endpoint": "http://y"}))  # while its thread waits for records
    put(exporter, 1)
    await_state(exporter, State.UNHEALTHY)
    assert new.begun == 1  # the pause is minutes long
    exporter.close(LONG_S)
    assert (new.begun, exported(exporter)) == (2, 2)


def test_a_fault_of_the_way_that_was_left_is_none_of_the_new_one_and_hangs_up() -> None:
    old, new = Faulty([UNHEALTHY], held=True), Backend()
    exporter = exporter_to(old, new)
    put(exporter, 1)
    old.await_begun(1)
    exporter.reconfigure(CONFIG.model_copy(update={"endpoint": "http://y"}))
    old.open.set()
    new.await_begun(1)
    assert exporter.health()[Signal.LOGS].state is State.DELIVERING
    old.await_so(lambda: old.closed == 3)
    exporter.close(LONG_S)
    assert exported(exporter) == 1


def test_a_way_with_a_fault_is_hung_up_when_it_is_left() -> None:
    old, new = Faulty([UNHEALTHY]), Backend()
    exporter = exporter_to(old, new)
    put(exporter, 1)
    await_state(exporter, State.UNHEALTHY)
    exporter.reconfigure(CONFIG.model_copy(update={"endpoint": "http://y"}))
    old.await_so(lambda: old.closed == 3)
    exporter.close(LONG_S)
    assert exported(exporter) == 1
