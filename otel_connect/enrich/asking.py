"""Asks about processes, and never waits long: who reads their files and memory is another process (``reader``).

What belongs to another process can keep its reader waiting for as long as its owner likes: a file on a FUSE mount or on
an NFS server that is away, memory that such a file is mapped to. Not even a signal ends such a read. So the loop waits
only a few milliseconds for an answer, and looks again when it comes round. A worker that has not answered after a while
is given up, with the process that it was asked about, and another one takes its place
(docs/decisions/0066-a-reader-for-other-processes.md).
"""

import json
import logging
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from cachetools import TTLCache

from otel_connect.enrich.hosts import Table
from otel_connect.model import Surroundings

_log = logging.getLogger(__name__)

MESSAGE_BYTES = 1 << 18
_MODULE = "otel_connect.reader"
_WORKERS = 8
_WAIT_S = 0.01
"""For one answer, in the loop. Most take a tenth of a millisecond."""
_WAITS_S = 0.05
_WAITS_EACH_S = 0.5
"""All waiting together: so much in so long a time."""
_AT_ONCE_S = 0.001
"""An answer that takes no longer counts as work, not as waiting."""
_BUSY_S = 0.1
"""So long the others leave a question to the worker that has it: what they would read, that one remembers."""
_SILENT_S = 2.0
"""Then a worker is given up: no file that is there takes so long to read."""
_START_S = 60.0
_KEPT = 1024
_LATE_S = 2.0
_GIVEN_UP_S = 60.0

Question = tuple[Any, ...]
"""What is asked, the pid and the start time of the process, and what else the question needs."""


class NotYetError(Exception):
    """There is no answer yet; asked again a little later, there is."""


class _Worker(NamedTuple):
    channel: socket.socket
    question: Question | None = None
    since: float = 0.0


class Reader:
    """The reader at work. Use as a context manager.

    ``patient`` decides what becomes of a question without an answer in time: NotYetError, or else ``None``, as for a
    process that is gone.
    """

    def __init__(self, control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        """Have workers made over a socket at whose other end the process is."""
        self._control: socket.socket | None = control
        self._process = process
        self._workers: list[_Worker] = []
        self._late: TTLCache[Question, Any] = TTLCache(_KEPT, _LATE_S)
        self._given_up: TTLCache[tuple[int, int], None] = TTLCache(_KEPT, _GIVEN_UP_S)
        self._window, self._waited = 0.0, 0.0
        self.patient = False
        self.silent = 0
        """Processes that were given up because what belongs to them could not be read in time."""
        self.unread = 0
        """Processes that nobody was asked about, because the reader has ended; each counts again after a minute."""

    def __enter__(self) -> Self:
        """Nothing to do: the process is there already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the reader. A worker that waits for a file system is left behind: it ends when that answers, or goes."""
        for worker in self._workers:
            worker.channel.close()
        self._workers = []
        if self._control is not None:
            self._control.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def await_first(self) -> None:
        """Wait until questions can be answered; an interpreter has to start first."""
        if self._control is None:
            return
        self._control.settimeout(_START_S)
        try:
            started = self._control.recv(1)
        except OSError:
            started = b""
        self._control.settimeout(0)
        if not started:
            self._lose_control()

    def ask(self, *question: Any) -> Any:
        """Return the answer, as JSON has it; see the class for what happens when there is none in time."""
        now = time.monotonic()
        self._look(now)
        if question in self._late:
            return self._late[question]
        about = question[1:3]
        if about in self._given_up:
            return None
        if self._control is None:
            self._given_up[about] = None
            self.unread += 1
            return None
        if all(worker.question != question for worker in self._workers) and (answer := self._put(question, now)):
            return answer[0]
        if self.patient:
            raise NotYetError
        return None

    def executable(self, pid: int, start_boot_ns: int) -> str | None:
        """Ask for ``procfs.executable``."""
        return self.ask("executable", pid, start_boot_ns)  # type: ignore[no-any-return]

    def surroundings(self, pid: int, start_boot_ns: int) -> Surroundings | None:
        """Ask for ``procfs.surroundings``."""
        found = self.ask("surroundings", pid, start_boot_ns)
        if found is None:
            return None
        cgroup, cgroup_v1, environment = found
        return Surroundings(cgroup, cgroup_v1, tuple((name, value) for name, value in environment))

    def arguments(self, pid: int, start_boot_ns: int) -> Sequence[str] | None:
        """Ask for ``procfs.arguments``."""
        return self.ask("arguments", pid, start_boot_ns)  # type: ignore[no-any-return]

    def first_argument(self, pid: int, start_boot_ns: int) -> Sequence[str] | None:
        """Ask for ``procfs.first_argument``."""
        return self.ask("first argument", pid, start_boot_ns)  # type: ignore[no-any-return]

    def message(self, pid: int, start_boot_ns: int) -> bytes | None:
        """Ask for ``context_memory.published_message``."""
        found = self.ask("published message", pid, start_boot_ns)
        return None if found is None else b64decode(found)

    def hosts(self, pid: int, start_boot_ns: int) -> Table | None:
        """Ask for the hosts file of a process: for all of it, or where it is large for each address."""
        found = self.ask("hosts", pid, start_boot_ns)
        if found is True:
            return _Large(self, pid, start_boot_ns)
        return found  # type: ignore[no-any-return]

    def user(self, pid: int, start_boot_ns: int, uid: int) -> tuple[bool, str | None]:
        """Ask for ``users.Databases.look``."""
        own, name = self.ask("user", pid, start_boot_ns, uid) or (False, None)
        return own, name

    def _put(self, question: Question, now: float) -> tuple[Any] | None:
        """Put a question to a worker that has none; its answer, if it comes in time."""
        if any(worker.question is not None and now - worker.since < _BUSY_S for worker in self._workers):
            return None
        idle = next((number for number, worker in enumerate(self._workers) if worker.question is None), None)
        if idle is None:
            if len(self._workers) == _WORKERS or not self._hire():
                return None
            idle = len(self._workers) - 1
        channel = self._workers[idle].channel
        try:
            channel.send(json.dumps(question).encode())
        except OSError:
            self._dismiss(self._workers[idle])
            return None
        self._workers[idle] = _Worker(channel, question, now)
        if now - self._window >= _WAITS_EACH_S:
            self._window, self._waited = now, 0.0
        channel.settimeout(max(0.0, min(_WAIT_S, _WAITS_S - self._waited)))
        answer = self._take(idle)
        self._waited += max(0.0, time.monotonic() - now - _AT_ONCE_S)
        return answer

    def _take(self, number: int) -> tuple[Any] | None:
        """Take the answer of a worker, if there is one by now."""
        worker = self._workers[number]
        try:
            message = worker.channel.recv(MESSAGE_BYTES)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            message = b""
        if not message:
            self._dismiss(worker)
            return None
        self._workers[number] = _Worker(worker.channel)
        return (json.loads(message),)

    def _look(self, now: float) -> None:
        """Take what has come late, and give up who keeps silent."""
        for worker in list(self._workers):
            question = worker.question
            if question is None:
                continue
            worker.channel.settimeout(0)
            answer = self._take(self._workers.index(worker))
            if answer is not None:
                self._late[question] = answer[0]
            elif worker in self._workers and now - worker.since >= _SILENT_S:
                self._dismiss(worker)
                self._give_up(question)

    def _give_up(self, question: Question) -> None:
        if not self.silent:
            _log.warning(
                "process %d keeps the reader waiting (%s): what belongs to such a process is not read for a minute",
                question[1],
                question[0],
            )
        self.silent += 1
        self._given_up[question[1:3]] = None

    def _hire(self) -> bool:
        """Have another worker made; false where there is none to be had."""
        if self._control is None:
            return False
        try:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:  # no descriptors are left: there may be some again
            return False
        try:
            with there:
                socket.send_fds(self._control, [b"+"], [there.fileno()])
        except BlockingIOError:
            here.close()
            return False
        except OSError:
            here.close()
            self._lose_control()
            return False
        self._workers.append(_Worker(here))
        return True

    def _lose_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
            _log.warning("the process that reads what belongs to others has ended: nothing of them is read any more")

    def _dismiss(self, worker: _Worker) -> None:
        """Close the channel of a worker: the reader ends who is at its other end."""
        self._workers.remove(worker)
        worker.channel.close()


class _Large(NamedTuple):
    """A hosts file that is asked for each address."""

    reader: Reader
    pid: int
    start_boot_ns: int

    def get(self, address: str, /) -> str | None:
        """Return the name of an address."""
        return self.reader.ask("host", self.pid, self.start_boot_ns, address)  # type: ignore[no-any-return]


def start_reader() -> Reader:
    """Start the process that reads; call it, and ``await_first``, before privileges are dropped."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", _MODULE, str(there.fileno())],
            pass_fds=[there.fileno()],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return Reader(here, process)
