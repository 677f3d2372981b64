"""Forks of the process: no thread of ours is inside SQLite then, and a child has its own of everything.

Of all threads only the one that forks exists in the child, but every mutex stays as it was. If another was inside
SQLite at that moment, SQLite's mutexes may stay locked in the child, and whoever calls SQLite there waits for ever.
So every use of SQLite is a passage through ``GATE``, which is shut while Python forks. A fork made in C does not ask,
and the application may use SQLite itself: so a child tries SQLite first, in a thread that may wait for ever.
"""

import _thread
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ctypes import py_object, pythonapi
from typing import Any, Generic, Protocol, TypeVar

_T = TypeVar("_T")

LONGEST_STALL_S = 2.0
"""How long a fork waits for those inside, those who want to enter for a fork, and a child for SQLite."""
_LOOK_EVERY_S = 0.001


class PerProcess(Generic[_T]):
    """A value of one process: a child gets its own, made from the value of its parent, when it first asks.

    The process id tells, because a fork made in C (as uWSGI's) runs none of Python's hooks. There is no lock, which
    a thread that does not exist in the child could hold: ``inherit`` may run in two threads at once, and one of the
    values counts. ``leave`` then runs once, with the value of the parent; again, if a signal handler has raised in the
    middle of it. A child in a new PID namespace that has its parent's number there (1 for 1) is taken for its parent.
    """

    def __init__(self, first: _T, inherit: Callable[[_T], _T], leave: Callable[[_T], object]) -> None:
        self._inherit = inherit
        self._leave = leave
        self._newest = first
        self._values = {os.getpid(): first}
        self._not_left: list[_T] = []
        self._leaving = False

    def get(self) -> _T:
        """Return the value of this process."""
        pid = os.getpid()
        found = self._values.get(pid)
        if found is None:
            of_parent = self._newest
            made = self._inherit(of_parent)
            found = self._values.setdefault(pid, made)
            if found is made:
                self._not_left = [of_parent]
                self._newest, self._values = made, {pid: made}
        if self._not_left and not self._leaving:
            self._leave_parent()
        return found

    def _leave_parent(self) -> None:
        self._leaving = True
        try:
            self._leave(self._not_left[0])
            self._not_left = []
        finally:
            self._leaving = False


class Held(Protocol):
    """Something that only one process may have."""

    def close(self) -> None:
        """Let go of it; in a child, of its copy."""


class _Here:
    """The passages of one process."""

    def __init__(self, *, safe: bool | None) -> None:
        self.safe = safe
        """Whether SQLite can be used; ``None`` as long as nobody knows."""
        self.inside: list[int] = []
        self.forkers: set[int] = set()
        self.held: set[Held] = set()

    def may_stay(self, me: int) -> bool:
        """Whether no other thread forks, or waits to until the calling one, which was inside before, has left."""
        return self.forkers <= {me} or self.inside.count(me) > 1

    def occupied(self, me: int) -> bool:
        """Whether a thread is inside that a child of this one would not have."""
        return any(thread != me for thread in tuple(self.inside))


class Gate:
    """Keeps threads out of SQLite while the process forks; every method may be called from any thread.

    It has no lock. The thread that forks is often the application's main thread, where a signal handler may raise
    between any two steps: a lock could stay locked. Each step here is one operation of a list or set, may be repeated,
    and what a fork has left behind is forgotten after the bound.
    """

    def __init__(self) -> None:
        self._here = PerProcess(
            _Here(safe=True),
            lambda parent: _Here(safe=None if parent.safe is not False else False),
            _close_copies,
        )

    @property
    def safe(self) -> bool:
        """Whether this process may use SQLite; in a child, the first call tries that."""
        here = self._here.get()
        if here.safe is None:
            here.safe = _sqlite_answers()
        return here.safe

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Be inside. A thread can be so more than once, also while a fork waits for it or in the middle of its own."""
        here, me = self._here.get(), threading.get_ident()
        deadline = time.monotonic() + LONGEST_STALL_S
        here.inside.append(me)  # first: whoever shuts the gate after this sees it, and whoever has before is seen
        while not here.may_stay(me):
            here.inside.remove(me)
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic() >= deadline:
                here.forkers.clear()
            here.inside.append(me)
        try:
            yield
        finally:
            here.inside.remove(me)

    def before_fork(self) -> None:
        """Wait until no other thread is inside, and keep it so; not for longer than the bound."""
        here, me = self._here.get(), threading.get_ident()
        deadline = time.monotonic() + LONGEST_STALL_S
        here.forkers.add(me)
        while here.occupied(me) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)

    def after_fork_in_parent(self) -> None:
        """Let them in again."""
        self._here.get().forkers.discard(threading.get_ident())

    def after_fork_in_child(self) -> None:
        """Begin as a process of its own, and close what only the parent may have."""
        self._here.get()

    def hold(self, held: Held) -> None:
        """Have children close their copy of it."""
        self._here.get().held.add(held)

    def let_go(self, held: Held) -> None:
        """Forget it."""
        self._here.get().held.discard(held)


def _never_replaced(name: str) -> Callable[..., Any]:
    """Return a function of ``_thread``, also where gevent has put greenlets in its place, which wait in one thread."""
    gevent = sys.modules.get("gevent.monkey")
    function: Callable[..., Any] = getattr(_thread, name) if gevent is None else gevent.get_original("_thread", name)
    return function


# Looked up now: an application may replace them later, as the workers of gunicorn do after the fork.
_allocate_lock, _start_new_thread = _never_replaced("allocate_lock"), _never_replaced("start_new_thread")


def _sqlite_answers() -> bool:
    """Go through SQLite's mutexes of the process in another thread, and see whether it returns."""
    returned = _allocate_lock()
    returned.acquire()

    def use() -> None:
        # A file, for the mutex of files, which trying to open it takes as well; random, for that of random numbers.
        for database in ("file:/dev/null?vfs=unix-none&mode=ro", ":memory:"):
            with suppress(sqlite3.Error), closing(sqlite3.connect(database, uri=True)) as connection:
                connection.execute("SELECT hex(randomblob(1))").fetchall()
        returned.release()

    _start_new_thread(use, ())
    answered: bool = returned.acquire(timeout=LONGEST_STALL_S)
    return answered


def _close_copies(parent: _Here) -> None:
    for held in tuple(parent.held):
        held.close()


def keep_forever(value: object) -> None:
    """Keep the interpreter from collecting a value, also when it ends.

    Collecting a database connection closes it. In a child made by fork that is the parent's, whose write-ahead log
    SQLite would remove; and where the application has closed the descriptors, it closes the application's.
    """
    pythonapi.Py_IncRef(py_object(value))


def collect_again(value: object) -> None:
    """Undo one ``keep_forever``."""
    pythonapi.Py_DecRef(py_object(value))


GATE = Gate()
"""The gate of the process, as SQLite's mutexes are the process's."""
