"""One signal's way out: threads that lease the oldest batches, send them as one request, and try again.

What is not settled by an answer (see ``fates``) is tried again with growing pauses, and without an end but its age:
records that wait for a day are dropped as expired. While delivery fails one thread tries for all.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import Context
from enum import StrEnum
from typing import NamedTuple

from otel_connect.export.answer import Action, Answer, printable
from otel_connect.export.dead_letters import DeadLetters
from otel_connect.export.delay import DelayHistogram
from otel_connect.export.fates import Fates
from otel_connect.export.ledger import Reason
from otel_connect.export.lines import ANY_HANDLER
from otel_connect.export.spool import Spool
from otel_connect.export.store import Batch
from otel_connect.export.transport import Transport
from otel_connect.export.troubles import Troubles
from otel_connect.model import Signal

_log = logging.getLogger(__name__)


class Backoff(NamedTuple):
    """How long to wait between tries, all in seconds."""

    first_s: float = 1.0
    longest_s: float = 30.0
    slow_s: float = 30.0
    """The pause while only an operator can help."""
    expire_s: float = 24 * 3600.0
    """The age at which a record is given up."""

    def pause_s(self, failures: int, random: float) -> float:
        """Exponential with full jitter; ``failures`` in a row from 1 on, ``random`` in [0, 1)."""
        # The exponent is bounded because a float is.
        return random * min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def slow_pause_s(self, random: float) -> float:
        """Between half of the slow pause and all of it, so that a fleet does not knock in step."""
        return self.slow_s * (1 + random) / 2


DEFAULT_BACKOFF = Backoff()


class State(StrEnum):
    """How delivery is going."""

    DELIVERING = "delivering"
    """The backend takes requests, or has not been tried yet."""
    RETRYING = "retrying"
    """A trouble that passes."""
    UNHEALTHY = "unhealthy"
    """Credentials, certificates or the address are wrong: an operator is needed."""


class Health(NamedTuple):
    """How delivery is going, and since when."""

    state: State
    message: str
    """What the backend, or the way to it, last complained of; empty if it never did."""
    since_s: float
    """When the state began, in the seconds of the clock that was passed in (monotonic)."""


class Route(NamedTuple):
    """Where a signal goes now."""

    place: str
    """The endpoint as it is named in log lines."""
    server: str
    """The part of it that all signals have in common which go to the same server."""
    transports: Sequence[Transport]
    """As many requests may be under way."""
    request_bytes: int
    """The largest request that is made of several batches."""


class Tools(NamedTuple):
    """What the senders of all signals share; ``clock`` gives monotonic seconds, ``random`` numbers in [0, 1)."""

    spool: Spool
    delays: DelayHistogram
    dead_letters: DeadLetters | None
    troubles: Troubles
    backoff: Backoff
    clock: Callable[[], float]
    random: Callable[[], float]
    context: Context
    """What the threads run in copies of."""


class Sender:
    """Delivers one signal.

    The threads start at once and are daemons: a hanging backend never keeps the process alive.
    """

    def __init__(self, signal: Signal, route: Route, tools: Tools) -> None:
        self._signal = signal
        self._tools = tools
        self._spool, self._backoff, self._clock = tools.spool, tools.backoff, tools.clock
        self._fates = Fates(
            signal, tools.spool, tools.delays, tools.dead_letters, request_bytes=route.request_bytes, clock=tools.clock
        )
        self._health = Health(State.DELIVERING, "", tools.clock())
        self._failures = 0
        # Guards everything above and below; its owner may take the lock of the spool, never the reverse.
        self._changed = threading.Condition()
        self._route = route
        self._sending: set[int] = set()
        self._threads: dict[int, threading.Thread] = {}
        self._trying: int | None = None
        self._deadline: float | None = None
        self._last_try: int | None = None
        self._hurried = self._gave_up = False
        with self._changed:
            self._start_threads()

    @property
    def health(self) -> Health:
        """How delivery is going."""
        return self._health

    def say_lost(self, reason: Reason, records: int, words: str) -> None:
        """Say that records of this signal were dropped before they could be sent, and why."""
        self._fates.say_lost(reason, records, words)

    def redirect(self, route: Route) -> None:
        """Send what comes next another way; a request that is under way ends on the old one."""
        with self._changed:
            old, self._route = self._route, route
            idle = [one for index, one in enumerate(old.transports) if index not in self._sending]
            self._fates.limit(route.request_bytes)
            self._failures = 0
            self._start_threads()
            self._changed.notify_all()
        for transport in idle:
            transport.close()

    def finish(self, deadline: float) -> None:
        """Begin to stop: a pause is cut short, and no try begins that could not begin before the deadline."""
        with self._changed:
            self._deadline = deadline
            self._changed.notify_all()
        self._spool.finish(self._signal)

    def join(self, deadline: float) -> None:
        """Wait until everything is sent, or until the deadline of the clock."""
        for thread in list(self._threads.values()):
            thread.join(max(deadline - self._clock(), 0.0))

    def hang_up(self) -> None:
        """Close the connections; a request that is under way may end as cancelled."""
        for transport in self._route.transports:
            transport.close()

    def _start_threads(self) -> None:
        for index in range(len(self._route.transports)):
            if index not in self._threads:
                run, name = self._tools.context.copy().run, f"export-{self._signal}-{index}"
                thread = threading.Thread(target=run, args=(self._run, index), name=name, daemon=True)
                self._threads[index] = thread
                thread.start()

    def _run(self, index: int) -> None:
        while self._wait_for_turn(index):
            batches: Sequence[Batch] = ()
            try:
                batches = self._fates.lease()
                if not batches:
                    self._end_last_try(index)
                    self._end_turn(index, gave_up=False)
                    return
                go_on = self._deliver(index, batches)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end delivery
                self._spool.give_back(batches)
                go_on = self._back_off(_fault(error), self._route, index)
            self._end_turn(index, gave_up=not go_on)
            if not go_on:
                return

    def _wait_for_turn(self, index: int) -> bool:
        """While delivery fails one thread tries for all; false when this one is not needed any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._health.state is State.DELIVERING
                    or self._trying is None
                    or self._last_try == index
                    or self._gave_up
                )
            )
            if self._gave_up or index >= len(self._route.transports):
                self._threads.pop(index, None)
                return False
            self._trying = None if self._health.state is State.DELIVERING else index
            return True

    def _end_turn(self, index: int, *, gave_up: bool) -> None:
        with self._changed:
            if self._trying == index:
                self._trying = None
            self._gave_up = self._gave_up or gave_up
            self._changed.notify_all()

    def _end_last_try(self, index: int) -> None:
        if self._last_try == index:
            self._last_try = None

    def _deliver(self, index: int, batches: Sequence[Batch]) -> bool:
        """Send what has not expired; false when there is no time left for another try."""
        batches = self._fates.drop_expired(batches, self._backoff.expire_s, self._health.message)
        if not batches:
            return True
        sent = self._send(index, b"".join(batch.body for batch in batches))
        if sent is None:
            self._spool.give_back(batches)
            return True
        return not self._spool.closed and self._act(batches, *sent, index)

    def _send(self, index: int, body: bytes) -> tuple[Answer, Route] | None:
        """Send a request the way that is open now, and name it; ``None`` when this thread has none any more."""
        with self._changed:
            route = self._route
            if index >= len(route.transports):
                return None
            transport = route.transports[index]
            self._sending.add(index)
        try:
            answer = transport.send(body)
        except Exception as error:  # noqa: BLE001 - it is a failure of this route, which may have been left meanwhile
            answer = _fault(error)
        with self._changed:
            self._sending.discard(index)
            left = all(transport is not one for one in self._route.transports)
        if left:
            transport.close()
        return answer, route

    def _act(self, batches: Sequence[Batch], answer: Answer, route: Route, index: int) -> bool:
        """Do what the answer asks for; false when there is no time left for another try."""
        if answer.action in {Action.RETRY, Action.RETRY_UNHEALTHY}:
            self._spool.give_back(batches)
            return self._back_off(answer, route, index)
        self._fates.settle(batches, answer, route.place)
        self._failures = 0
        self._enter(State.DELIVERING, answer)
        return True

    def _back_off(self, answer: Answer, route: Route, index: int) -> bool:
        """Pause before the next try; not when the failure is that of a way which has been left meanwhile."""
        if route is not self._route:
            return True
        self._failures += 1
        if answer.action is Action.RETRY_UNHEALTHY:
            self._enter(State.UNHEALTHY, answer)
            return self._pause(route, index, self._backoff.slow_pause_s(self._tools.random()))
        self._enter(State.RETRYING, answer)
        pause = self._backoff.pause_s(self._failures, self._tools.random())
        if answer.retry_after_s is None:
            return self._pause(route, index, pause)
        return self._pause(route, index, max(pause, answer.retry_after_s), asked_for=True)

    def _pause(self, route: Route, index: int, seconds: float, *, asked_for: bool = False) -> bool:
        """Wait, or until there is another way, or it works for another thread; false when it is too late to go on.

        The first pause that ``finish`` meets is cut short for one last try, unless the backend asked for it;
        other threads wait for how that ends.
        """
        until = self._clock() + seconds
        with self._changed:
            self._end_last_try(index)
            self._changed.notify_all()

            def over() -> bool:
                return self._route is not route or self._health.state is State.DELIVERING

            self._changed.wait_for(lambda: self._left_s() is not None or over(), seconds)
            if over() or (left := self._left_s()) is None:
                return True
            if not (self._hurried or asked_for):
                self._hurried, self._last_try = True, index
                return left > 0
            seconds = until - self._clock()
            if seconds < left:
                self._changed.wait_for(over, max(seconds, 0.0))
                return True
            self._changed.wait_for(lambda: over() or self._last_try is None, max(left, 0.0))
            return over()

    def _left_s(self) -> float | None:
        """Seconds until the deadline of ``finish``; ``None`` while nobody wants to stop."""
        return None if self._deadline is None else self._deadline - self._clock()

    def _enter(self, state: State, answer: Answer) -> None:
        """Remember the state; log its change in one line, which is for all signals if it is of the server."""
        with self._changed:
            before, now, route = self._health, self._clock(), self._route
            since = before.since_s if state is before.state else now
            self._health = Health(state, answer.message or before.message, since)
            self._changed.notify_all()
            line = None if state is before.state else self._line(state, answer, route, now - before.since_s)
        if line is not None:
            with ANY_HANDLER:
                _log.warning("%s", line)

    def _line(self, state: State, answer: Answer, route: Route, after_s: float) -> str | None:
        """Say a change; ``None`` when another signal has said the same of its server, or still has to."""
        alone = f"{self._signal}: {route.place}"
        if state is State.DELIVERING:
            where, last = self._tools.troubles.leave(self._signal)
            where = where if where in {alone, route.server} else route.server  # the way there has changed meanwhile
            return f"{where} takes requests again after {after_s:.0f} s" if last else None
        if answer.is_known:
            return None
        where = route.server if answer.of_server else alone
        new = self._tools.troubles.meet(self._signal, where, f"{state}: {answer.trouble or answer.message}")
        return f"{where} does not take requests ({state}): {answer.message}" if new else None


def _fault(error: Exception) -> Answer:
    fault = f"a fault of the agent ({type(error).__name__}: {error}); please report this"
    return Answer(Action.RETRY_UNHEALTHY, message=printable(fault))
