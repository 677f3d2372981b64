"""Pauses between tries: how long, after how many failures, and what ends them."""

import threading
import time
from collections.abc import Callable, Iterable

import pytest

from otel_connect.config import ExportConfig
from otel_connect.export.answer import Action, Answer
from otel_connect.export.endpoint import Endpoint
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.sender import DEFAULT_BACKOFF, Backoff, State
from otel_connect.export.transport import Transport
from otel_connect.model import Signal
from tests.support.delivery import MEMORY, logs

RETRY, DELIVERED, UNHEALTHY = (Answer(one) for one in (Action.RETRY, Action.DELIVERED, Action.RETRY_UNHEALTHY))
CONFIG = ExportConfig(endpoint="http://x", spool_directory=MEMORY)


class Scripted:
    """A way to a backend that answers as a script says, then takes everything; notes when it was asked."""

    def __init__(self, script: Iterable[Answer]) -> None:
        self._script = iter(script)
        self._changed = threading.Condition()
        self.sent_s: list[float] = []

    def send(self, body: bytes) -> Answer:  # noqa: ARG002 - whatever it is
        with self._changed:
            self.sent_s.append(time.monotonic())
            self._changed.notify_all()
            return next(self._script, DELIVERED)

    def close(self) -> None:
        """Nothing to close."""

    def await_sent(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sent_s) >= count, 20)


def leads_to(backend: Scripted) -> Callable[[Endpoint], Transport]:
    return lambda _endpoint: backend


class Noted(Backoff):
    """Pauses that are over at once, and for how many failures each was asked."""

    def __init__(self, *_: float, **__: float) -> None:
        self.asked: list[int | str] = []

    def pause_s(self, failures: int, random: float) -> float:
        assert 0 <= random < 1
        self.asked.append(failures)
        return 0.0

    def slow_pause_s(self, random: float) -> float:
        assert 0 <= random < 1
        self.asked.append("slow")
        return 0.0


def test_pauses_double_from_one_second_to_thirty_with_full_jitter() -> None:
    longest = [DEFAULT_BACKOFF.pause_s(failures, 1.0) for failures in range(1, 9)]
    assert longest == [1, 2, 4, 8, 16, 30, 30, 30]
    assert DEFAULT_BACKOFF.pause_s(10_000, 1.0) == 30
    assert [DEFAULT_BACKOFF.pause_s(failures, 0.0) for failures in (1, 5, 100)] == [0, 0, 0]
    assert DEFAULT_BACKOFF.pause_s(4, 0.25) == 2
    assert Backoff(first_s=1.0, longest_s=1e30).pause_s(50, 1.0) == 2.0**49


def test_while_only_an_operator_can_help_pauses_are_fifteen_to_thirty_seconds() -> None:
    assert [DEFAULT_BACKOFF.slow_pause_s(random) for random in (0.0, 0.5, 1.0)] == [15, 22.5, 30]


def test_a_record_is_given_up_after_a_day() -> None:
    assert DEFAULT_BACKOFF.expire_s == 24 * 60 * 60


def test_an_exporter_really_pauses_for_one_second_and_then_for_two() -> None:
    backend = Scripted([RETRY, RETRY])
    exporter = OtlpExporter(CONFIG, opener=leads_to(backend), random=lambda: 0.999)
    exporter.put(logs("a"))
    backend.await_sent(3)
    exporter.close(5)
    first, second = (after - before for before, after in zip(backend.sent_s, backend.sent_s[1:], strict=False))
    assert 0.9 < first < 1.9 < second < 4
    assert exporter.accounts()[Signal.LOGS].exported == 1


def test_pauses_grow_with_each_failure_and_begin_again_after_a_success() -> None:
    backoff = Noted()
    backend = Scripted([RETRY, RETRY, RETRY, DELIVERED, RETRY, UNHEALTHY, RETRY])
    exporter = OtlpExporter(CONFIG, backoff=backoff, opener=leads_to(backend))
    exporter.put(logs("a"))
    backend.await_sent(4)
    exporter.put(logs("b"))
    backend.await_sent(8)
    exporter.close(5)
    assert backoff.asked == [1, 2, 3, 1, "slow", 3]
    assert exporter.accounts()[Signal.LOGS].exported == 2
    assert exporter.health()[Signal.LOGS].state is State.DELIVERING


def test_the_wait_that_a_backend_asks_for_is_the_least_and_not_the_most() -> None:
    class Longer(Backoff):
        """Pauses for longer than the backend asks for."""

        def pause_s(self, failures: int, random: float) -> float:  # noqa: ARG002 - always
            return 0.6

    for backoff, asked_s, least_s in ((Noted(), 0.5, 0.5), (Longer(), 0.1, 0.6)):
        backend = Scripted([Answer(Action.RETRY, retry_after_s=asked_s)])
        exporter = OtlpExporter(CONFIG, backoff=backoff, opener=leads_to(backend))
        exporter.put(logs("a"))
        backend.await_sent(2)
        exporter.close(5)
        assert least_s - 0.05 < backend.sent_s[1] - backend.sent_s[0] < least_s + 1.5


def test_trouble_is_told_when_it_begins_and_for_how_long_it_lasted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = [100.0]
    backend = Scripted([Answer(Action.RETRY, message="busy")] * 3 + [Answer(Action.RETRY_UNHEALTHY, message="401")] * 2)

    class Passing(Noted):
        """Lets seven seconds pass with each failure."""

        def pause_s(self, failures: int, random: float) -> float:
            now[0] += 7
            return super().pause_s(failures, random)

        def slow_pause_s(self, random: float) -> float:
            now[0] += 7
            return super().slow_pause_s(random)

    exporter = OtlpExporter(CONFIG, backoff=Passing(), opener=leads_to(backend), clock=lambda: now[0])
    exporter.put(logs("a"))
    backend.await_sent(6)
    exporter.close(5)
    assert caplog.messages == [
        "logs: http://x/v1/logs does not take requests (retrying): busy",
        "logs: http://x/v1/logs does not take requests (unhealthy): 401",
        "logs: http://x/v1/logs takes requests again after 14 s",
    ]
    health = exporter.health()[Signal.LOGS]
    assert (health.state, health.message) == (State.DELIVERING, "401")
