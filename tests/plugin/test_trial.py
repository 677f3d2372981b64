"""Whether a child can use SQLite is found out in any environment, and never at the price of the child."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

PROGRAM = """
import ctypes, os, resource, sys, tempfile
from os import waitpid  # gevent's waits for ever for a child that has ended already
held, where = int(sys.argv[1]), sys.argv[2]
if where == "gevent-first":
    from gevent import monkey
    monkey.patch_all()
from otel_connect.export.forks import GATE

os.register_at_fork(
    before=GATE.before_fork,
    after_in_parent=GATE.after_fork_in_parent,
    after_in_child=GATE.after_fork_in_child,
)
import _sqlite3
sqlite = ctypes.CDLL("libsqlite3.so.0")  # the one that _sqlite3 has loaded
sqlite.sqlite3_mutex_alloc.restype = ctypes.c_void_p
if held:
    sqlite.sqlite3_mutex_enter(ctypes.c_void_p(sqlite.sqlite3_mutex_alloc(held)))
if (child := os.fork()) == 0:
    if where == "gevent-later":
        from gevent import monkey
        monkey.patch_all()
    if where == "chroot":
        os.chroot(tempfile.mkdtemp(dir=sys.argv[3]))
    if where == "no-descriptors":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    os.write(1, f"safe {GATE.safe}".encode())
    os._exit(0)
assert waitpid(child, 0)[1] == 0
os._exit(0)
"""
NOTHING, MEMORY, RANDOM, FILES = 0, 3, 5, 11
"""Mutexes of the process by their numbers in ``sqlite3.h``."""
CASES = [
    *((NOTHING, where) for where in ("plain", "chroot", "no-descriptors", "gevent-first", "gevent-later")),
    *((mutex, "plain") for mutex in (MEMORY, RANDOM, FILES)),
    *((mutex, where) for mutex in (RANDOM, FILES) for where in ("chroot", "no-descriptors")),
    *((MEMORY, where) for where in ("gevent-first", "gevent-later")),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[tuple[int, str], "subprocess.Popen[str]"]]:
    """Run every case at once: they mostly wait."""
    empty = str(tmp_path_factory.mktemp("empty"))
    with ExitStack() as stack:
        processes = {}
        for held, where in CASES:
            command = [sys.executable, "-c", PROGRAM, str(held), where, empty]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            stack.callback(end, stack.enter_context(process))
            processes[held, where] = process
        yield processes


def end(process: "subprocess.Popen[str]") -> None:
    """End a process and its child, which hangs if the trial is no good."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("held", "where"), CASES)
def test_a_child_learns_whether_a_mutex_is_held_that_nobody_will_ever_leave(
    held: int, where: str, answers: Mapping[tuple[int, str], "subprocess.Popen[str]"]
) -> None:
    said, complaints = answers[held, where].communicate(timeout=20)
    assert (said, complaints) == (f"safe {not held}", "")
