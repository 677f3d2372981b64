"""Plays a random plan of socket calls, and writes down what it sees of each: its errno, and the state of the socket.

    player.py PLAN LOG

The plan (``tests/support/random_plan.py``) names processes, their threads, the sockets that each thread uses one
after another, and what is done with each socket. Calls are the kernel's own, not Python's, which repeats and
interprets them. Every line of the log is one write to a file in append mode, so it survives the process that
made it. What is done with one socket is done in one order, in however many processes, and so is written down.
"""

import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

Step = list[Any]
Held = list[socket.socket]

SYN_SENT, SYN_RECV = 2, 3
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "s390x": 355}
WATCH_S = 0.0005

libc = ctypes.CDLL(None, use_errno=True)


class Log:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, life: int | None, did: str, **more: object) -> None:
        line = {"at": time.monotonic_ns(), "pid": os.getpid(), "life": life, "did": did, **more}
        os.write(self._file, json.dumps(line).encode() + b"\n")


class MissingPage:
    """A page of memory that is not there until it is filled: whoever reads it waits (userfaultfd)."""

    def __enter__(self) -> Self:
        self._faults = libc.syscall(USERFAULTFD[os.uname().machine], os.O_CLOEXEC)
        self._page, self._source = mmap.mmap(-1, mmap.PAGESIZE), mmap.mmap(-1, mmap.PAGESIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        fcntl.ioctl(self._faults, UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0))
        fcntl.ioctl(self._faults, UFFDIO_REGISTER, struct.pack("=QQQQ", self.address, mmap.PAGESIZE, 1, 0))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._faults)

    def await_fault(self) -> None:
        os.read(self._faults, 32)

    def fill(self, content: bytes) -> None:
        self._source[: len(content)] = content
        source = ctypes.addressof(ctypes.c_char.from_buffer(self._source))
        fcntl.ioctl(self._faults, UFFDIO_COPY, struct.pack("=QQQQq", self.address, source, mmap.PAGESIZE, 0, 0))


class Player:
    """One thread that plays the lives of sockets; ``friend`` is the way to a thread of another process."""

    def __init__(self, plan: dict[str, Any], log: Log, friend: "Friend | None") -> None:
        self.targets: list[tuple[str, int]] = plan["targets"]
        self.log = log
        self.friend = friend

    def live(self, life: tuple[int, str, list[Step]]) -> None:
        number, family, steps = life
        held = [socket.socket(socket.AF_INET if family == "IPv4" else socket.AF_INET6)]
        self.log.write(number, "socket")
        self.play(number, held, steps)

    def play(self, life: int, held: Held, steps: list[Step]) -> None:
        """Play steps with a socket, ``held`` by one descriptor or several, and close what is left of them."""
        self.do(life, held, steps)
        while held:
            self.do_close(life, held)

    def do(self, life: int, held: Held, steps: list[Step]) -> None:
        """Play steps as long as a descriptor is left."""
        for name, *arguments in steps:
            if held:
                getattr(self, f"do_{name}")(life, held, *arguments)

    def noted(self, life: int, held: Held, did: str, call: Callable[[], object], **more: object) -> None:
        """Make a call; note how it returned, and the state of the socket before and after."""
        before = state(held[0])
        began = time.monotonic_ns()
        got: int | None = 0
        result = None
        try:
            result = call()
        except OSError as error:
            got = error.errno
        now = state(held[0]) if held else None
        self.log.write(life, did, began=began, got=got, result=result, before=before, state=now, **more)

    def address(self, target: int) -> bytes:
        host, port = self.targets[target]
        if ":" in host:
            return struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(port), 0, packed(host), 0)
        return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), packed(host))

    def connect(self, fd: int, target: int) -> None:
        address = self.address(target)
        if libc.connect(fd, address, len(address)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    # ---- what a plan may ask for

    def do_bind(self, life: int, held: Held, port: int = 0) -> None:
        if port:
            held[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.noted(life, held, "bind", lambda: held[0].bind(("", port)))

    def do_blocking(self, _: int, held: Held, wanted: bool) -> None:
        held[0].setblocking(wanted)

    def do_patience(self, _: int, held: Held, ms: int) -> None:
        held[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, ms * 1000))

    def do_linger(self, _: int, held: Held) -> None:
        held[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def do_connect(self, life: int, held: Held, target: int) -> None:
        self.log.write(life, "begin", target=target)
        fd = held[0].fileno()
        self.noted(life, held, "connect", lambda: self.connect(fd, target), target=target)

    def do_poll(self, life: int, held: Held, ms: int) -> None:
        poll = select.poll()
        poll.register(held[0], select.POLLOUT)
        self.noted(life, held, "poll", lambda: poll.poll(ms))

    def do_error(self, life: int, held: Held) -> None:
        self.noted(life, held, "error", lambda: held[0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def do_spin(self, life: int, held: Held, ms: int) -> None:
        """Ask for the error without a pause, so that it may be taken before the socket has changed its state."""
        until = time.monotonic() + ms / 1000

        def ask() -> int:
            number = 0
            while not number and time.monotonic() < until:
                number = held[0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return number

        self.noted(life, held, "error", ask)

    def do_shutdown(self, life: int, held: Held, how: int) -> None:
        self.noted(life, held, "shutdown", lambda: held[0].shutdown(how))

    def do_unspec(self, life: int, held: Held) -> None:
        def disconnect() -> None:
            if libc.connect(held[0].fileno(), bytes(16), 16):
                raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")

        self.noted(life, held, "unspec", disconnect)

    def do_dup(self, life: int, held: Held) -> None:
        held.append(held[0].dup())
        self.log.write(life, "dup")

    def do_close(self, life: int, held: Held) -> None:
        before = state(held[0])
        held.pop(0).close()
        self.log.write(life, "close", before=before)

    def do_thread(self, life: int, held: Held, steps: list[Step]) -> None:
        thread = threading.Thread(target=self.do, args=(life, held, steps))
        thread.start()
        thread.join()

    def do_race(self, life: int, held: Held, target: int) -> None:
        """Connect the same socket in two threads at one time."""
        fd, start = held[0].fileno(), threading.Barrier(2)
        got: list[int | None] = []

        def race() -> None:
            start.wait()
            try:
                self.connect(fd, target)
                got.append(0)
            except OSError as error:
                got.append(error.errno)

        self.log.write(life, "begin", target=target)
        threads = [threading.Thread(target=race) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.log.write(life, "race", target=target, got=got, state=state(held[0]))

    def do_overtaken(self, life: int, held: Held, target: int) -> None:
        """Begin a connect() in another thread that gets to the socket only after an attempt of this one has ended."""
        address, got = self.address(target), list[int | None]()
        fd = held[0].fileno()
        with MissingPage() as page:

            def late() -> None:
                failed = libc.connect(fd, ctypes.c_void_p(page.address), len(address))
                got.append(ctypes.get_errno() if failed else 0)

            self.log.write(life, "begin", target=target)
            thread = threading.Thread(target=late)
            thread.start()
            page.await_fault()
            try:
                self.connect(fd, target)
            except OSError as error:
                got.append(error.errno)
            while state(held[0]) == SYN_SENT:  # poll() would tell of old errors
                time.sleep(WATCH_S)
            page.fill(address)
            thread.join()
        self.log.write(life, "race", target=target, got=got, state=state(held[0]))

    def do_watched(self, life: int, held: Held, target: int, action: str) -> None:
        """Connect, and have another thread do something as soon as the attempt is under way."""
        over = threading.Event()
        watched, caller = held[0], threading.get_ident()
        acted: list[int | None] = []

        def watch() -> None:
            while not over.is_set():
                if state(watched) in (SYN_SENT, SYN_RECV):
                    acted.append(self.act(life, watched, caller, action))
                    return
                time.sleep(WATCH_S)

        watcher = threading.Thread(target=watch)
        self.log.write(life, "begin", target=target)
        watcher.start()
        fd = watched.fileno()
        got: int | None = 0
        try:
            self.connect(fd, target)
        except OSError as error:
            got = error.errno
        over.set()
        watcher.join()
        if acted and action == "close":
            held.pop(0)
        now = state(held[0]) if held else None
        self.log.write(life, "watched", target=target, action=action, acted=acted, got=got, state=now)

    def act(self, life: int, watched: socket.socket, caller: int, action: str) -> int | None:
        if action == "kill":
            self.log.write(life, "kill")
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "close":
            watched.close()
        elif action == "signal":
            signal.pthread_kill(caller, signal.SIGUSR1)
        else:
            try:
                watched.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                return error.errno
        return 0

    def do_die(self, life: int, _: Held) -> None:
        self.log.write(life, "kill")
        os.kill(os.getpid(), signal.SIGKILL)

    def do_fork(self, life: int, held: Held, steps: list[Step], keep: bool) -> None:
        """Let a child go on with the socket, which the parent keeps or closes before."""
        wait, go = os.pipe()
        child = os.fork()
        if not child:
            os.close(go)
            os.read(wait, 1)
            self.play(life, held, steps)
            os._exit(0)
        os.close(wait)
        self.log.write(life, "fork", child=child, held=len(held))
        while held and not keep:
            self.do_close(life, held)
        os.close(go)
        os.waitpid(child, 0)
        self.log.write(None, "reaped", child=child)

    def do_pass(self, life: int, held: Held, steps: list[Step], keep: bool) -> None:
        """Let a thread of another process go on with the socket, which this one keeps or closes before."""
        assert self.friend is not None
        self.log.write(life, "pass", friend=self.friend.pid)
        socket.send_fds(self.friend.way, [json.dumps([life, steps]).encode()], [held[0].fileno()])
        while held and not keep:
            self.do_close(life, held)
        self.friend.way.send(b"go")
        assert self.friend.way.recv(1) == b"."


class Friend:
    """The way to a thread of another process: a socket pair that keeps messages apart."""

    def __init__(self, way: socket.socket, pid: int) -> None:
        self.way = way
        self.pid = pid


def serve_friend(plan: dict[str, Any], log: Log, way: socket.socket) -> None:
    player = Player(plan, log, None)
    while True:
        message, descriptors, *_ = socket.recv_fds(way, 1 << 16, 1)
        if not message:
            return
        held = [socket.socket(fileno=descriptors[0])]
        assert way.recv(2) == b"go"
        life, steps = json.loads(message)
        player.play(life, held, steps)
        way.send(b".")


def packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def state(held: socket.socket) -> int | None:
    """Return the state of the socket, by TCP_INFO; None if another thread has closed it."""
    try:
        return held.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return None


def in_threads(work: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    threads = [threading.Thread(target=work, args=one) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def play_threads(plan: dict[str, Any], log: Log, threads: list[Any], friends: "list[Friend] | list[None]") -> None:
    def play(lives: list[Any], friend: "Friend | None") -> None:
        player = Player(plan, log, friend)
        for life in lives:
            player.live(life)

    if len(threads) == 1:  # alone, it may fork
        play(threads[0], friends[0])
    else:
        in_threads(play, zip(threads, friends, strict=True))


def run_process(plan: dict[str, Any], log: Log, process: dict[str, Any]) -> None:
    """Play in this process, with a friend to whom each thread may pass sockets."""
    threads = process["threads"]
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in threads]
    friend = os.fork()
    if not friend:
        for near, _ in pairs:
            near.close()
        in_threads(serve_friend, [(plan, log, far) for _, far in pairs])
        os._exit(0)
    for _, far in pairs:
        far.close()
    play_threads(plan, log, threads, [Friend(near, friend) for near, _ in pairs])
    for near, _ in pairs:
        near.close()
    os.waitpid(friend, 0)


def start(plan: dict[str, Any], log: Log, process: dict[str, Any]) -> int:
    child = os.fork()
    if not child:
        try:
            if process["killed_after_ms"] is None:
                run_process(plan, log, process)
            else:
                play_threads(plan, log, process["threads"], [None] * len(process["threads"]))
        except BaseException as error:
            log.write(None, "broken", why=repr(error))
            raise
        os._exit(0)
    return child


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    log = Log(sys.argv[2])
    signal.signal(signal.SIGUSR1, lambda *_: None)  # without SA_RESTART, so that connect() returns EINTR
    began = time.monotonic()
    children = {start(plan, log, process): process["killed_after_ms"] for process in plan["processes"]}
    for child, after_ms in sorted(children.items(), key=lambda item: item[1] or 0):
        if after_ms is not None:
            time.sleep(max(0.0, began + after_ms / 1000 - time.monotonic()))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            log.write(None, "reaped", child=child)
    for child, after_ms in children.items():
        if after_ms is None:
            os.waitpid(child, 0)
    log.write(None, "over")


main()
