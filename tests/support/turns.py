"""Lets a test that is marked ``alone`` run while no other worker runs one.

Workers of pytest-xdist share a host, and with it what some tests measure: its attempts, its processors. Such a test
waits for the ones that run, and those that come after it wait for its end.
"""

import fcntl
from collections.abc import Generator
from pathlib import Path

import pytest


class Turns:
    """A plugin of one worker; the files are there, the same for all, and only locked."""

    def __init__(self, waiting: Path, running: Path) -> None:
        self._waiting = waiting
        self._running = running

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "alone: what it measures would be changed by a test of another worker")

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around the clock of pytest-timeout
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        alone = item.get_closest_marker("alone") is not None
        with self._running.open("rb") as running:
            with self._waiting.open("rb") as waiting:
                fcntl.flock(waiting, fcntl.LOCK_EX)  # nobody overtakes one that waits
                fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            try:
                return (yield)
            finally:
                fcntl.flock(running, fcntl.LOCK_UN)  # closing is not enough: a child that was forked has it as well
