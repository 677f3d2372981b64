"""Make TCP connect attempts and report each as one JSON line.

    client.py HOST PORT COUNT TIMEOUT_MS [--mode MODE] ...

A timeout of 0 means a blocking socket; otherwise the socket is non-blocking, is waited for by poll(), and is
given up after the timeout. The modes make what ordinary programs seldom do; each is one function below.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import os
import select
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
        """Make a socket of the family of the target."""
        made = socket.socket(self.family, socket.SOCK_STREAM)
        made.setblocking(blocking)
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
        client.report(made, made.connect_ex(client.address), blocking=True)


def nonblocking(client: Client) -> None:
    """Connect, poll until the timeout, then give up."""
    with client.new_socket(blocking=False) as made:
        number = made.connect_ex(client.address)
        abandoned = False
        if number == errno.EINPROGRESS:
            abandoned = not wait(made, client.options.timeout_ms)
            number = 0 if abandoned else made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.report(made, number, blocking=False, abandoned=abandoned)


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


def in_thread(client: Client) -> None:
    """Connect in a thread that is not the main one."""
    thread = threading.Thread(target=plain, args=(client,))
    thread.start()
    thread.join()


def beside(client: Client) -> None:
    """Connect to another host while the attempt is pending, which is given up a second later."""
    with client.new_socket(blocking=False) as made, client.new_socket(blocking=False) as other:
        made.connect_ex(client.address)
        time.sleep(0.3)
        other.connect_ex(client.options.other)
        wait(other, _LONGEST_MS)
        number = other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.report(made, 0, blocking=False, abandoned=True)
        client.report(other, number, blocking=False)
        other.close()
        time.sleep(1)


def mixed(client: Client) -> None:
    """Connect to another port, then send the first SYN of another socket by sendto(), and give that up."""
    with client.new_socket(blocking=True) as made:
        client.report(made, made.connect_ex(client.options.other), blocking=True)
    with client.new_socket(blocking=False) as made:
        with contextlib.suppress(BlockingIOError):
            made.sendto(b"x", socket.MSG_FASTOPEN, client.address)
        client.report(made, 0, blocking=False, abandoned=True)


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


def disconnect(made: socket.socket) -> None:
    """Undo a connect() by one to AF_UNSPEC, which Python itself has no address for."""
    sockaddr = struct.pack(f"=H{_SOCKADDR_BYTES - 2}x", socket.AF_UNSPEC)
    if _libc.connect(made.fileno(), sockaddr, _SOCKADDR_BYTES):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


MODES: dict[str, Callable[[Client], None]] = {
    "plain": plain,
    "twice": twice,
    "late": late,
    "in-thread": in_thread,
    "beside": beside,
    "mixed": mixed,
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
    parser.add_argument("--other", nargs=2, help="host and port of another target")
    options = parser.parse_args()
    if options.other:
        options.other = options.other[0], int(options.other[1])
    for _ in range(options.count):
        MODES[options.mode](Client(options))


if __name__ == "__main__":
    main()
