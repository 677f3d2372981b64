"""A way to a gRPC backend that is taken down for the moment of a fork.

gRPC's library survives a fork under three conditions, without which the child crashes, or one of the two
hangs, about once in fifty forks (measured with grpcio 1.85). Its own support for forks is switched on (see
``otel_connect.plugin``). No call is under way: so they are cancelled and the channel is closed before, and the
parent makes a new one after; a cancelled request is sent again at once, and at the worst arrives twice. And
the library is not just shutting down, as it does with its last channel, in a thread that the child would wait
for: so one channel that is never connected is kept.
"""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import grpc
import grpc._channel  # otherwise a sending thread imports it, and a fork in the middle of that blocks it in the child

from otel_connect.errors import ConfigError
from otel_connect.export.answer import Action, Answer
from otel_connect.export.forks import PerProcess
from otel_connect.export.transport import Transport
from otel_connect.plugin.worker import Worker

_LONGEST_WAIT_S = 2.0  # for all cancelled calls to come back; then the fork has to go on


class Interruptible:
    """A transport around those that ``opener`` makes: one for the first request, and one after each fork.

    The library is entered by sending threads alone: in the child of a fork that was made in C with a call under way
    they may wait in it for ever, and the application does not.
    """

    def __init__(self, opener: Callable[[], Transport]) -> None:
        self._opener = opener
        self._inner: Transport | None = None
        self._changed = threading.Condition()
        self._forks = 0
        self._forking: set[int] = set()  # threads, as several may fork at the same time
        self._under_way = 0
        self._closed = False

    def send(self, body: bytes) -> Answer:
        """Send one request; again, if a fork came in between."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: not self._forking, 2 * _LONGEST_WAIT_S):
                    self._forking.clear()  # a signal handler has raised in the hook after it
                forks = self._forks
                self._under_way += 1
            try:
                answer = self._send(body, forks)
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()
            if answer.action is not Action.RETRY or forks == self._forks:
                return answer

    def _send(self, body: bytes, forks: int) -> Answer:
        """Send by the way that is open, or that is opened now; leaves none behind that a fork does not know of."""
        inner = self._inner
        if inner is None:
            try:
                inner = self._opener()
            except ConfigError as error:
                return Answer(Action.RETRY_UNHEALTHY, message=error.problems[0])
            with self._changed:
                if forks != self._forks or self._closed:
                    inner.close()
                    return Answer(Action.RETRY, message="closed")
                self._inner = inner
        return inner.send(body)

    def close(self) -> None:
        """Close the channel, also one that is being opened; a call under way ends as cancelled."""
        with self._changed:
            self._closed = True
            inner = self._inner
        if inner is not None:
            inner.close()

    def before_fork(self, forker: int) -> None:
        """Cancel what is under way, and hold back what comes, for a thread that forks."""
        with self._changed:
            self._forking.add(forker)
            self._forks += 1
            inner, self._inner = self._inner, None
            if inner is not None:
                inner.close()

    def await_cancelled(self, deadline: float) -> None:
        """Wait for the calls that ``before_fork`` has cancelled, until a time of the monotonic clock."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, max(deadline - time.monotonic(), 0.0))

    def after_fork_in_parent(self, forker: int) -> None:
        """Go on."""
        with self._changed:
            self._forking.discard(forker)
            self._changed.notify_all()


class _Here:
    """What one process has open."""

    def __init__(self) -> None:
        self.worker = Worker()  # the thread that forks takes none of the locks: a signal handler may raise in it
        self.transports: weakref.WeakSet[Interruptible] = weakref.WeakSet()


class Forks:
    """Those that are to be taken down before a fork of this process; the child has none of them."""

    def __init__(self) -> None:
        self._here = PerProcess(_Here(), lambda _: _Here(), lambda _: None)
        self._hold: grpc.Channel | None = None

    def add(self, opener: Callable[[], Transport]) -> Transport:
        """Make a transport that survives forks."""

        def open_held() -> Transport:
            if self._hold is None:
                self._hold = grpc.insecure_channel("ipv4:127.0.0.1:1")
            return opener()

        transport = Interruptible(open_held)
        self._here.get().transports.add(transport)
        return transport

    def before(self) -> None:
        """Call it before a fork; returns once no call is under way, or after the longest wait."""
        here = self._here.get()
        if transports := list(here.transports):
            here.worker.run(partial(_take_down, transports, threading.get_ident()), None)

    def after_in_parent(self) -> None:
        """Call it after a fork, in the parent."""
        here = self._here.get()
        if transports := list(here.transports):
            here.worker.run(partial(_go_on, transports, threading.get_ident()), None)


def _take_down(transports: Sequence[Interruptible], forker: int) -> None:
    deadline = time.monotonic() + _LONGEST_WAIT_S
    for transport in transports:
        transport.before_fork(forker)
    for transport in transports:
        transport.await_cancelled(deadline)


def _go_on(transports: Sequence[Interruptible], forker: int) -> None:
    for transport in transports:
        transport.after_fork_in_parent(forker)
