"""What a program did, as strace saw it: an account of connect attempts that owes nothing to the probes.

Two pure steps: lines of strace → calls, calls → attempts. A connect() is not always an attempt, and an
attempt seldom ends in its connect(), so the second step follows each descriptor from call to call.
"""

import os
import re
import select
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_TRACED = "connect,close,getsockopt,exit_group,sendto,clone,clone3,fork,vfork"
# MPTCP sockets are plain "socket"s to strace until they are connected.
_TCP_KINDS = {"TCP", "TCPv6", "socket"}
_STILL_PENDING = {"EINPROGRESS", "EALREADY", "EINTR", "ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND"}

_LINE = re.compile(r"(?P<tid>\d+) +(?P<time>\d+\.\d+) (?P<text>.*)")
_UNFINISHED = re.compile(r"(?P<head>.*?) *<unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(?P<tail>.*)")
_RESULT = re.compile(r" = (?P<result>-?\d+|\?)(?: (?P<errno>E[A-Z0-9]+))?(?: \([^()]*\))?(?: <(?P<took>[\d.]+)>)?$")
_CLONE = re.compile(r"clone3?\(.*\bflags=(?P<flags>[A-Z_|x0-9]+)")
_CALL = re.compile(r"(?P<name>connect|sendto|close|getsockopt)\((?P<fd>\d+)<(?P<kind>[A-Za-z0-9-]+):")
_FAMILY = re.compile(r"\{sa_family=(?P<family>AF_\w+)")
_ADDRESS = re.compile(
    r"sin6?_port=htons\((?P<port>\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"(?P<address>[^\"]+)\""
)
_SOCKET_ERROR = re.compile(r"SOL_SOCKET, SO_ERROR, \[(?P<errno>\w+)\]")


class ObservedCall(NamedTuple):
    """One call on a TCP socket, or the end of a process (``name`` is then ``end`` and ``fd`` is -1)."""

    pid: int
    tid: int
    name: str
    fd: int
    family: str | None
    """The family of the address that was passed; ``None`` without one, or when it was no memory."""
    address: str | None
    port: int | None
    result: int | None
    """``None`` if the call never returned, or will be repeated after a signal."""
    errno_name: str | None
    """Of the call; for ``getsockopt(SO_ERROR)`` the error that the socket held."""
    start: float
    duration: float | None


class ObservedAttempt(NamedTuple):
    """One attempt, from the call that began it; ``result`` is ``ok``, ``error``, ``abandoned`` or ``pending``."""

    pid: int
    tid: int
    fd: int
    family: str | None
    address: str | None
    port: int | None
    result: str
    errno_name: str | None
    start: float


class _Event(NamedTuple):
    tid: int
    start: float
    text: str


def parse(lines: Iterable[str]) -> list[ObservedCall]:
    """Read the output of ``strace -f -ttt -T -yy``: calls on TCP sockets in the order of their start."""
    events = sorted(_joined(lines), key=lambda event: event.start)
    process_of = _processes(events)
    calls = (_call(event, process_of.get(event.tid, event.tid)) for event in events)
    return [call for call in calls if call is not None]


def attempts(calls: Iterable[ObservedCall]) -> list[ObservedAttempt]:
    """Follow each descriptor: which calls began an attempt, and how it ended for its program."""
    account = _Account()
    for call in calls:
        if call.name == "end":
            account.end_process(call.pid)
        elif call.name == "close" or call.family == "AF_UNSPEC":
            account.give_up((call.pid, call.fd))
        else:
            account.tell(call)
    return account.found


class _Account:
    """The descriptors (process and number) that are pending or connected, and the attempts so far."""

    def __init__(self) -> None:
        self.found: list[ObservedAttempt] = []
        self._pending: dict[tuple[int, int], int] = {}
        self._connected: set[tuple[int, int]] = set()

    def tell(self, call: ObservedCall) -> None:
        """Take a call that begins an attempt or learns of its end; a call that does neither is passed over."""
        key = (call.pid, call.fd)
        if key not in self._pending:
            if call.name == "getsockopt" or key in self._connected or call.errno_name == "EISCONN":
                return
            self._pending[key] = len(self.found)
            about = (call.pid, call.tid, call.fd, call.family, call.address, call.port)
            self.found.append(ObservedAttempt(*about, "pending", None, call.start))
        if call.result is None or call.errno_name in _STILL_PENDING:
            return
        if call.errno_name in {None, "EISCONN"}:
            self._finish(key, "ok", None)
            self._connected.add(key)
        else:
            self._finish(key, "error", call.errno_name)

    def give_up(self, key: tuple[int, int]) -> None:
        """Take the end of a descriptor."""
        self._connected.discard(key)
        if key in self._pending:
            self._finish(key, "abandoned", None)

    def end_process(self, pid: int) -> None:
        """Take the end of a process, which closes its descriptors."""
        for key in [key for key in (*self._pending, *self._connected) if key[0] == pid]:
            self.give_up(key)

    def _finish(self, key: tuple[int, int], result: str, errno_name: str | None) -> None:
        index = self._pending.pop(key)
        self.found[index] = self.found[index]._replace(result=result, errno_name=errno_name)


def _joined(lines: Iterable[str]) -> Iterator[_Event]:
    """Put the two halves of each interrupted line together; the time is that of the first."""
    halves: dict[int, _Event] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        event = _Event(int(match["tid"]), float(match["time"]), match["text"].rstrip())
        if unfinished := _UNFINISHED.fullmatch(event.text):
            halves[event.tid] = event._replace(text=unfinished["head"])
        elif resumed := _RESUMED.match(event.text):
            if first := halves.pop(event.tid, None):
                yield first._replace(text=first.text + resumed["tail"])
        else:
            if event.text.startswith("+++") and (first := halves.pop(event.tid, None)):
                yield first  # killed inside the call
            yield event


def _processes(events: Sequence[_Event]) -> dict[int, int]:
    """Map each thread to its process; a thread that nobody made is the first of a process itself."""
    process_of: dict[int, int] = {}
    for event in events:
        made, result = _CLONE.match(event.text), _RESULT.search(event.text)
        if made and result and result["result"] not in {"?", "-1"} and "CLONE_THREAD" in made["flags"]:
            process_of[int(result["result"])] = process_of.get(event.tid, event.tid)
    return process_of


def _call(event: _Event, pid: int) -> ObservedCall | None:
    if event.text.startswith("+++"):
        last = event.tid == pid
        return ObservedCall(pid, pid, "end", -1, *(None,) * 5, event.start, None) if last else None
    match = _CALL.match(event.text)
    if match is None or match["kind"] not in _TCP_KINDS:
        return None
    result, errno_name, duration = _result(event.text)
    if match["name"] == "getsockopt":
        socket_error = _SOCKET_ERROR.search(event.text)
        if socket_error is None:
            return None
        errno_name = None if socket_error["errno"] == "0" else socket_error["errno"]
    if match["name"] == "sendto" and "MSG_FASTOPEN" not in event.text:
        return None
    family, address = _FAMILY.search(event.text), _ADDRESS.search(event.text)
    return ObservedCall(
        pid=pid,
        tid=event.tid,
        name=match["name"],
        fd=int(match["fd"]),
        family=family["family"] if family else None,
        address=address["address"] if address else None,
        port=int(address["port"]) if address else None,
        result=result,
        errno_name=errno_name,
        start=event.start,
        duration=duration,
    )


def _result(text: str) -> tuple[int | None, str | None, float | None]:
    match = _RESULT.search(text)
    if match is None:
        return None, None, None
    result = None if match["result"] == "?" else int(match["result"])
    return result, match["errno"], float(match["took"]) if match["took"] else None


class Trace:
    """strace around one program: run ``command(argv)``, and read the calls when the program has ended.

    The tracer is a grandchild, so the pid of the process that is started is the program's own; that it has
    written everything is known by the end of the pipe it writes to.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "calls")
        os.mkfifo(self._path)
        self._pipe = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._pipe)
        self._folder.cleanup()

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the argument list that runs a program under strace."""
        options = ["-D", "-f", "-ttt", "-T", "-yy", "-s", "16", "-e", f"trace={_TRACED}"]
        return ["strace", *options, "-o", str(self._path), "--", *argv]

    def calls(self, timeout: float = 30.0) -> list[ObservedCall]:
        """Wait for the tracer's end and return what it saw; raises TimeoutError."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        output = bytearray()
        # A pipe that nobody has opened for writing yet is silent; one that was closed reads as empty.
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            piece = os.read(self._pipe, 1 << 16)
            if not piece:
                return parse(output.decode(errors="replace").splitlines())
            output += piece
        raise TimeoutError(f"strace did not end within {timeout} s")
