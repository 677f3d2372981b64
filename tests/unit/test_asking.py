"""Asking a reader that answers late, or never: what the loop gets, and how long it waits."""

import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from otel_connect.enrich.asking import NotYetError, Reader, start_reader
from otel_connect.model import Surroundings
from tests.support import refused_call
from tests.support.collector import await_until
from tests.support.publisher import Publication
from tests.support.rooted import start_boot_ns

LOOP_S = 0.2
"""Far more than the loop waits for one answer, on a busy machine too."""


class Workers:
    """The other end: takes the sockets that workers are to serve, and does only what it is told."""

    def __init__(self) -> None:
        here, self.control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(10)
        self._process = subprocess.Popen([sys.executable, "-c", ""])
        self.reader = Reader(here, self._process)
        self.control.send(b"+")
        self.reader.await_first()
        self.channels: list[socket.socket] = []

    def hired(self) -> socket.socket:
        """Take the socket of the next worker."""
        _, (descriptor,), _, _ = socket.recv_fds(self.control, 1, 1)
        self.channels.append(socket.socket(fileno=descriptor))
        self.channels[-1].settimeout(10)
        return self.channels[-1]

    def close(self) -> None:
        for one in (self.control, *self.channels):
            one.close()
        self.reader.__exit__(None, None, None)


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def ask(reader: Reader, pid: int, *, patient: bool = True) -> Any:
    """Ask for an executable, and hold that this does not take long."""
    reader.patient = patient
    began = time.monotonic()
    try:
        return reader.executable(pid, 9)
    except NotYetError:
        return NotYetError
    finally:
        assert time.monotonic() - began < LOOP_S


def test_an_answer_that_comes_late_is_there_when_it_is_asked_for_again(workers: Workers) -> None:
    assert ask(workers.reader, 1) is NotYetError
    worker = workers.hired()
    assert json.loads(worker.recv(1 << 16)) == ["executable", 1, 9]
    assert ask(workers.reader, 1) is NotYetError, "asked once only"
    assert ask(workers.reader, 1, patient=False) is None
    worker.send(b'"/usr/bin/late"')
    assert ask(workers.reader, 1) == "/usr/bin/late"
    assert ask(workers.reader, 2) is NotYetError
    assert json.loads(worker.recv(1 << 16)) == ["executable", 2, 9], "the same worker has the next question"


def test_who_keeps_silent_is_given_up_while_others_are_answered_by_another_worker(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(workers.reader, 1) is NotYetError
    silent = workers.hired()
    assert silent.recv(1 << 16)
    await_until(lambda: ask(workers.reader, 2) is NotYetError and len(workers.reader._workers) == 2)
    other = workers.hired()
    assert json.loads(other.recv(1 << 16))[1] == 2
    other.send(b"null")
    await_until(lambda: ask(workers.reader, 2) is None)
    with caplog.at_level(logging.WARNING):
        await_until(lambda: ask(workers.reader, 1) is None)
    assert "process 1 keeps the reader waiting (executable)" in caplog.text
    assert workers.reader.silent == 1
    assert silent.recv(1) == b"", "it was hung up on"


def test_so_many_workers_and_no_more(workers: Workers) -> None:
    def all_busy() -> bool:
        ask(workers.reader, len(workers.reader._workers) + 100)
        return len(workers.reader._workers) == 8

    await_until(all_busy)
    time.sleep(0.15)  # so that nobody waits for a worker that may only be slow
    assert ask(workers.reader, 999) is NotYetError
    assert len(workers.reader._workers) == 8


def test_many_answers_that_do_not_come_cost_the_loop_little(workers: Workers) -> None:
    began = time.monotonic()
    for pid in range(2000):
        ask(workers.reader, pid)
    assert time.monotonic() - began < 1.0


def test_a_worker_that_dies_is_replaced_and_a_reader_that_dies_is_said(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(workers.reader, 1) is NotYetError
    workers.hired().close()
    assert ask(workers.reader, 1) is NotYetError
    second = workers.hired()
    assert json.loads(second.recv(1 << 16)) == ["executable", 1, 9]
    second.close()
    workers.control.close()
    assert [ask(workers.reader, 1) for _ in range(3)][-1] is None
    assert caplog.text.count("has ended: nothing of them is read any more") == 1
    assert [ask(workers.reader, pid) for pid in (1, 2, 2, 3)] == [None] * 4
    assert (workers.reader.unread, workers.reader.silent) == (3, 0), "each process once"


STARTED_NS = start_boot_ns(os.getpid())


def own_executable(reader: Reader) -> str | None:
    """Ask for that of this process; ``None`` as long as there is no answer."""
    reader.patient = True
    try:
        return reader.executable(os.getpid(), STARTED_NS)
    except NotYetError:
        return None


def no_worker(reader: Reader) -> bool:
    """Ask, and say whether there is no worker for it."""
    assert own_executable(reader) is None
    return not reader._workers


@pytest.mark.parametrize("whose", ["reader", "agent"])
def test_who_runs_out_of_descriptors_goes_on_when_there_are_some_again(whose: str) -> None:
    with start_reader() as reader:
        reader.await_first()
        pid = reader._process.pid if whose == "reader" else os.getpid()
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            for _ in range(5):
                await_until(lambda: no_worker(reader))
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await_until(lambda: own_executable(reader))
        assert reader.unread == 0


def test_a_reader_that_cannot_make_a_worker_does_not_end() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        program = [sys.executable, "-I", "-m", "otel_connect.reader", str(there.fileno())]
        command = [sys.executable, refused_call.__file__, "clone", "EAGAIN", *program]
        process = subprocess.Popen(command, pass_fds=[there.fileno()])
    with Reader(here, process) as reader:
        reader.await_first()
        for _ in range(5):
            await_until(lambda: no_worker(reader))
        assert process.poll() is None
        assert reader.unread == 0


def test_the_largest_message_of_a_process_arrives_as_it_is() -> None:
    message = bytes(range(256)) * 256
    publication = Publication(message)
    with start_reader() as reader:
        reader.await_first()
        reader.patient = True

        def arrived() -> bytes | None:
            with suppress(NotYetError):
                return reader.message(os.getpid(), start_boot_ns(os.getpid()))
            return None

        await_until(lambda: arrived() == message)
    publication.close()


def test_a_real_reader_answers_what_proc_says() -> None:
    with subprocess.Popen(["sleep", "60"], env={"OTEL_SERVICE_NAME": "shop"}) as child, start_reader() as reader:
        reader.await_first()
        start = start_boot_ns(child.pid)

        def answer(ask: Any, *more: object) -> Any:
            reader.patient = True
            while True:
                try:
                    return ask(child.pid, start, *more)
                except NotYetError:
                    time.sleep(0.01)

        try:
            await_until(lambda: answer(reader.executable).endswith("/sleep"))
            found = answer(reader.surroundings)
            assert isinstance(found, Surroundings)
            assert found.environment == (("OTEL_SERVICE_NAME", "shop"),)
            assert answer(reader.arguments) == ["sleep", "60"]
            assert answer(reader.first_argument) == ["sleep"]
            assert answer(reader.message) is None
            assert answer(reader.hosts).get("203.0.113.9") is None
            assert answer(reader.user, 0) == (True, None)
            start += 1_000_000_000
            assert answer(reader.executable) is answer(reader.surroundings) is answer(reader.hosts) is None
        finally:
            child.kill()
