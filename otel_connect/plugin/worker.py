"""A thread that does what the application's threads must not be interrupted in.

Python runs signal handlers in the main thread, between any two steps, and what a handler raises (KeyboardInterrupt,
the SoftTimeLimitExceeded of Celery, a time limit by SIGALRM) ends whatever that thread was doing: after it has taken a
lock and before the block that releases it, or between a commit and its entry in the ledger. In other threads no
handler runs. So the work is handed to one, in steps that are calls of C, and the application's thread waits for the
result. When a handler raises meanwhile, the waiting ends, and the work goes on.
"""

import _thread
import logging
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from otel_connect.plugin.last_words import say
from otel_connect.plugin.quiet import delivering, hold_lines_in, hush_clients, is_said_now, quiet_context

_T = TypeVar("_T")

_LOOK_EVERY_S = 0.1
_NAMES = ("otel_connect.", "opentelemetry.")
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR)


class Worker:
    """One thread of this process, started with the first work; does one thing after the other.

    What is logged in it is logged by the application's thread when it has the result: a handler of the application may
    have a lock that this thread holds while it waits.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._crews: dict[None, _Crew] = {}

    def run(self, function: Callable[[], _T], instead: _T) -> _T:
        """Return what a function returns, or raise what it raises.

        ``instead`` is returned when no thread does it: none can be started, which is logged, the caller is in a child
        by now because a signal handler has forked, or the interpreter ends. A thread of the delivery calls the function
        itself.
        """
        if delivering():
            return function()
        crew = self._crews.setdefault(None, _Crew())  # two threads may be the first: one crew counts
        try:
            crew.prepare()
        except RuntimeError as error:
            say(f"nothing can be exported: {error}")
            return instead
        work = _Work(function, crew.make_lock())
        crew.queue.put(work)
        while not work.done.acquire(timeout=_LOOK_EVERY_S):
            if os.getpid() != self._process or sys.is_finalizing():
                return instead
        crew.speak()
        return work.result()


class _Crew:
    """The thread, and what it shares with those that wait: real ones, or gevent's, as the application has them now."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[_Work[Any]] = queue.SimpleQueue()
        self.make_lock = threading.Lock
        self._lines: deque[Callable[[], object]] = deque()
        self._loggers: list[logging.Logger] = []
        self._vacancies = [None]
        self._works = False

    def prepare(self) -> None:
        """Start the thread, and let it log without a lock; raises RuntimeError."""
        if not self._works:
            hush_clients()
            self._loggers = _loggers()
            for logger in self._loggers:
                logger.addFilter(is_said_now)
            _thread.start_new_thread(self._serve, ())  # again, if a handler raises now: the second one leaves at once
        for logger in self._loggers:
            for level in _LEVELS:
                # Remembered by the logger, which else takes the lock of ``logging``. The caller may have that.
                logger.isEnabledFor(level)

    def speak(self) -> None:
        """Log what there is to be logged."""
        while self._lines:
            try:
                line = self._lines.popleft()
            except IndexError:  # another thread has
                return
            quiet_context().run(line)

    def _serve(self) -> None:
        try:
            self._vacancies.pop()
        except IndexError:
            return
        self._works = True
        threading.current_thread().name = "export-worker"
        context = quiet_context()
        context.run(hold_lines_in, self._lines)
        while True:
            context.run(self.queue.get().do)


class _Work(Generic[_T]):
    """A function, and what became of it."""

    def __init__(self, function: Callable[[], _T], done: Any) -> None:
        self._function = function
        self.done = done
        self.result: Callable[[], _T]
        done.acquire()

    def do(self) -> None:
        try:
            value = self._function()
            self.result = lambda: value
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self.result = partial(_raise, error)
        self.done.release()


def _raise(error: BaseException) -> Any:
    raise error


def _loggers() -> list[logging.Logger]:
    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith(_NAMES)]
    return [logging.getLogger(name) for name in names]
