"""Make TCP connect attempts and report each as one JSON line.

    client.py HOST PORT COUNT TIMEOUT_MS [--mode MODE] ...

A timeout of 0 means a blocking socket; otherwise the socket is non-blocking, is waited for by poll(), and is
given up after the timeout. The modes make what ordinary programs seldom do; each is one function below.
"""

import argparse
import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable

_LONGEST_MS = 20_000
_SOCKADDR_BYTES = 28
_libc = ctypes.CDLL(None, use_errno=True)


class Client:
    """One target, the options, and the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        self.address = (options.host, options.port)
        self.started = 0.0

    def new_socket(self, *, blocking: bool) -> socket.socket:
        """Make a socket as the options say."""
        options = self.options
        made = socket.socket(self.family, socket.SOCK_STREAM, socket.IPPROTO_MPTCP if options.mptcp else 0)
        made.setblocking(blocking)
        if options.send_timeout_ms:
            whole, rest = divmod(options.send_timeout_ms, 1000)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", whole, rest * 1000))
        if options.user_timeout_ms:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, options.user_timeout_ms)
        if options.syn_retries:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, options.syn_retries)
        if options.bind is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(("", options.bind))
        self.started = time.monotonic()
        return made

    def report(self, made: socket.socket, number: int, *, blocking: bool, abandoned: bool = False) -> None:
        """Print what became of an attempt: an errno, or 0."""
        seconds = time.monotonic() - self.started
        line = {
            "pid": os.getpid(),
            "tid": threading.get_native_id(),
            "runtime": "python",
            "host": self.options.host,
            "port": self.options.port,
            "blocking": blocking,
            "result": "abandoned" if abandoned else "error" if number else "ok",
            "errno": number or None,
            "errno_name": errno.errorcode.get(number),
            "local_port": made.getsockname()[1] or None if made.fileno() >= 0 else None,
            "seconds": round(seconds, 6),
        }
        print(json.dumps(line), flush=True)


def plain(client: Client) -> None:
    """Connect once, blocking or not, and close."""
    if client.options.timeout_ms:
        nonblocking(client)
        return
    with client.new_socket(blocking=True) as made:
        number = made.connect_ex(client.address)
        # a blocking call that SO_SNDTIMEO ended leaves the attempt going, until the socket is closed
        client.report(made, number, blocking=True, abandoned=number == errno.EINPROGRESS)


def nonblocking(client: Client) -> None:
    """Connect, poll until the timeout, then give up in the way of ``--give-up``."""
    with client.new_socket(blocking=False) as made:
        number = made.connect_ex(client.address)
        abandoned = False
        if number == errno.EINPROGRESS:
            abandoned = not wait(made, client.options.timeout_ms)
            number = 0 if abandoned else made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.report(made, number, blocking=False, abandoned=abandoned)
        if abandoned:
            GIVE_UP[client.options.give_up](made)


def go_on(client: Client) -> None:
    """Let SO_SNDTIMEO end the blocking call, and wait for the attempt all the same."""
    with client.new_socket(blocking=True) as made:
        number = made.connect_ex(client.address)
        if number == errno.EINPROGRESS and wait(made, _LONGEST_MS):
            number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.report(made, number, blocking=True)


def twice(client: Client) -> None:
    """Call connect() again while the attempt is pending, when it has succeeded, and once more."""
    with client.new_socket(blocking=False) as made:
        numbers = [made.connect_ex(client.address), made.connect_ex(client.address)]
        wait(made, _LONGEST_MS)
        numbers += [made.connect_ex(client.address), made.connect_ex(client.address)]
        if numbers != [errno.EINPROGRESS, errno.EALREADY, 0, errno.EISCONN]:
            sys.exit(f"connect() returned {numbers}")
        client.report(made, 0, blocking=False)


def late(client: Client) -> None:
    """Learn of a failure by a second connect(), without asking for SO_ERROR."""
    with client.new_socket(blocking=False) as made:
        made.connect_ex(client.address)
        wait(made, _LONGEST_MS)
        client.report(made, made.connect_ex(client.address), blocking=False)


def again(client: Client) -> None:
    """Make two attempts with one socket: after a failure the kernel allows it."""
    with client.new_socket(blocking=True) as made:
        for _ in range(2):
            client.report(made, made.connect_ex(client.address), blocking=True)


def interrupted(client: Client) -> None:
    """Be interrupted by a signal while blocked; ``--restart`` makes the kernel repeat the call by itself."""
    signals = 0

    def count(_number: int, _frame: object) -> None:
        nonlocal signals
        signals += 1

    signal.signal(signal.SIGALRM, count)
    signal.siginterrupt(signal.SIGALRM, not client.options.restart)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    plain(client)
    if not signals:
        sys.exit("the attempt ended before the signal came")


def in_thread(client: Client) -> None:
    """Connect in a thread that is not the main one."""
    thread = threading.Thread(target=plain, args=(client,))
    thread.start()
    thread.join()


def closed_by_thread(client: Client) -> None:
    """Close the descriptor in another thread while this one is blocked: the attempt goes on."""
    made = client.new_socket(blocking=True)
    descriptor = made.fileno()
    timer = threading.Timer(0.1, os.close, (descriptor,))
    timer.start()
    number = made.connect_ex(client.address)
    timer.join()
    made.detach()
    client.report(made, number, blocking=True)


def fast_open(client: Client) -> None:
    """Connect by sending: sendto() with MSG_FASTOPEN, without any connect()."""
    with client.new_socket(blocking=True) as made:
        number = 0
        try:
            made.sendto(b"hello", socket.MSG_FASTOPEN, client.address)
        except OSError as error:
            number = error.errno or 0
        client.report(made, number, blocking=True)


def wrong_family(client: Client) -> None:
    """Hand a socket an address of the other family."""
    other = socket.AF_INET if client.family == socket.AF_INET6 else socket.AF_INET6
    sockaddr = struct.pack(f"=H{_SOCKADDR_BYTES - 2}x", other)
    with client.new_socket(blocking=True) as made:
        client.report(made, raw_connect(made, sockaddr), blocking=True)


def bad_pointer(client: Client) -> None:
    """Hand connect() an address that is no memory."""
    with client.new_socket(blocking=True) as made:
        client.report(made, raw_connect(made, 1), blocking=True)


def self_connect(client: Client) -> None:
    """Connect a socket to its own port: a simultaneous open with itself."""
    with client.new_socket(blocking=True) as made:
        made.bind(client.address)
        number = made.connect_ex(made.getsockname())
        client.options.port = made.getsockname()[1]
        client.report(made, number, blocking=True)


def noise(client: Client) -> None:
    """Call connect() in ways that are no TCP attempt: UDP, a Unix socket, AF_UNSPEC on an idle socket."""
    with socket.socket(client.family, socket.SOCK_DGRAM) as made:
        made.connect(client.address)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as made:
        if made.connect_ex(f"{folder}/nobody") != errno.ENOENT:
            sys.exit("somebody listens in a fresh folder")
    with client.new_socket(blocking=True) as made:
        disconnect(made)


def wait(made: socket.socket, timeout_ms: int) -> bool:
    """Wait until the attempt has ended; ``False`` if the timeout came first."""
    poll = select.poll()
    poll.register(made, select.POLLOUT)
    return bool(poll.poll(timeout_ms))


def raw_connect(made: socket.socket, sockaddr: bytes | int) -> int:
    """Call connect() past Python's own checks of the address; return the errno, or 0."""
    pointer = ctypes.c_void_p(sockaddr) if isinstance(sockaddr, int) else sockaddr
    if _libc.connect(made.fileno(), pointer, _SOCKADDR_BYTES) == 0:
        return 0
    return ctypes.get_errno()


def disconnect(made: socket.socket) -> None:
    """Undo a connect() by one to AF_UNSPEC."""
    number = raw_connect(made, struct.pack(f"=H{_SOCKADDR_BYTES - 2}x", socket.AF_UNSPEC))
    if number:
        raise OSError(number, os.strerror(number))


def reset(made: socket.socket) -> None:
    """Make close() end the attempt at once, without waiting for what is unsent."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    made.close()


GIVE_UP: dict[str, Callable[[socket.socket], None]] = {
    "close": socket.socket.close,
    "shutdown": lambda made: made.shutdown(socket.SHUT_RDWR),
    "unspec": disconnect,
    "linger": reset,
}
MODES: dict[str, Callable[[Client], None]] = {
    "plain": plain,
    "go-on": go_on,
    "twice": twice,
    "late": late,
    "again": again,
    "interrupted": interrupted,
    "in-thread": in_thread,
    "closed-by-thread": closed_by_thread,
    "fast-open": fast_open,
    "wrong-family": wrong_family,
    "bad-pointer": bad_pointer,
    "self-connect": self_connect,
    "noise": noise,
}


def main() -> None:
    """Read the arguments and make the attempts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("timeout_ms", type=int)
    parser.add_argument("--mode", choices=MODES, default="plain")
    parser.add_argument("--give-up", choices=GIVE_UP, default="close")
    parser.add_argument("--bind", type=int, help="own port, shared by SO_REUSEPORT")
    parser.add_argument("--send-timeout-ms", type=int, default=0)
    parser.add_argument("--user-timeout-ms", type=int, default=0)
    parser.add_argument("--syn-retries", type=int, default=0)
    parser.add_argument("--mptcp", action="store_true")
    parser.add_argument("--restart", action="store_true")
    options = parser.parse_args()
    for _ in range(options.count):
        MODES[options.mode](Client(options))


if __name__ == "__main__":
    main()
