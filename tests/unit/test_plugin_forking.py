"""Around a fork no call is under way, and none is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

from otel_connect.errors import ConfigError
from otel_connect.export.answer import Action, Answer
from otel_connect.plugin.forking import Interruptible

DELIVERED = Answer(Action.DELIVERED)
CANCELLED = Answer(Action.RETRY, message="cancelled")


class Patient:
    """A transport whose calls end when they are answered, or cancelled by closing it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.begun = threading.Event()
        self.answer: Answer | None = None
        self.done = threading.Event()
        self.closed = False

    def send(self, body: bytes) -> Answer:
        self.sent.append(body)
        self.begun.set()
        assert self.done.wait(30)
        return self.answer or CANCELLED

    def close(self) -> None:
        self.closed = True
        self.done.set()


def test_a_call_that_a_fork_interrupts_is_made_again_on_a_new_way() -> None:
    made: list[Patient] = []

    def opener() -> Patient:
        made.append(Patient())
        return made[-1]

    transport = Interruptible(opener)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(transport.send, b"a")
        while not (made and made[0].begun.wait(30)):
            pass
        transport.before_fork(1)
        assert made[0].closed
        late = pool.submit(transport.send, b"b")
        assert len(made) == 1  # nothing is opened, and so nothing sent, before the fork is over
        assert not first.done()
        assert not late.done()
        transport.after_fork_in_parent(1)
        while len(made) < 2 or len(made[1].sent) < 2:
            assert made[-1].begun.wait(30)
        made[1].answer = DELIVERED
        made[1].done.set()
        assert first.result(30) == late.result(30) == DELIVERED
    assert (len(made), made[0].sent, sorted(made[1].sent)) == (2, [b"a"], [b"a", b"b"])


def test_an_answer_that_came_in_spite_of_the_fork_counts() -> None:
    way = Patient()
    way.answer = DELIVERED
    transport = Interruptible(lambda: way)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(transport.send, b"a")
        assert way.begun.wait(30)
        transport.before_fork(1)
        transport.after_fork_in_parent(1)
        assert sending.result(30) == DELIVERED
    assert way.sent == [b"a"]


def test_a_way_that_cannot_be_opened_again_is_an_operators_matter() -> None:
    ways: list[Patient | ConfigError] = [Patient(), ConfigError(["ca.pem: cannot be read"]), Patient()]

    def opener() -> Patient:
        way = ways.pop(0)
        if isinstance(way, ConfigError):
            raise way
        way.answer = DELIVERED
        way.done.set()
        return way

    transport = Interruptible(opener)
    assert transport.send(b"a") == DELIVERED
    transport.before_fork(1)
    transport.after_fork_in_parent(1)
    assert transport.send(b"a") == Answer(Action.RETRY_UNHEALTHY, message="ca.pem: cannot be read")
    assert transport.send(b"a") == DELIVERED


def test_an_ordinary_answer_is_handed_on() -> None:
    way = Patient()
    way.done.set()
    transport = Interruptible(lambda: way)
    assert transport.send(b"a") == CANCELLED
    transport.close()
    assert way.closed


def test_nothing_is_opened_by_the_application() -> None:
    opened: list[Patient] = []
    transport = Interruptible(lambda: opened.append(Patient()) or opened[-1])  # type: ignore[func-returns-value]
    transport.before_fork(1)
    transport.after_fork_in_parent(1)
    transport.close()
    assert not opened


def test_no_call_begins_until_the_forks_of_all_threads_are_over() -> None:
    way = Patient()
    way.answer = DELIVERED
    way.done.set()
    transport = Interruptible(lambda: way)
    forking, over = threading.Event(), threading.Event()

    def fork() -> None:
        transport.before_fork(1)
        forking.set()
        assert over.wait(30)
        transport.after_fork_in_parent(1)

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(fork)
        assert forking.wait(30)
        transport.before_fork(2)
        transport.after_fork_in_parent(2)
        sending = pool.submit(transport.send, b"a")
        assert not way.begun.wait(0.1)
        over.set()
        assert sending.result(30) == DELIVERED
        other.result(30)


def test_a_way_that_is_opened_while_it_is_closed_does_not_stay_open() -> None:
    opening, closed = threading.Event(), threading.Event()
    way = Patient()

    def opener() -> Patient:
        opening.set()
        assert closed.wait(30)
        return way

    transport = Interruptible(opener)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(transport.send, b"a")
        assert opening.wait(30)
        transport.close()
        closed.set()
        assert sending.result(30).action is Action.RETRY
    assert way.closed
    assert not way.sent
