"""The process that reads what belongs to other processes, their files and their memory, for the agent.

It keeps CAP_SYS_PTRACE, which that takes, so that the agent has none; it has no network and no spool. It is a template:
each worker is forked from it, answers one question at a time over a socket of its own, and is killed when the agent
closes that, because what it reads may never come. A worker that not even that ends is left behind until its file system
answers. The process ends when its socket to the agent is closed; why it is a process:
docs/decisions/0066-a-reader-for-other-processes.md.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from otel_connect.capture.privileges import die_with_parent, restrict
from otel_connect.enrich.asking import MESSAGE_BYTES
from otel_connect.enrich.context_memory import published_message
from otel_connect.enrich.hosts import parse_hosts
from otel_connect.enrich.procfs import arguments, executable, first_argument, surroundings, user_inside
from otel_connect.enrich.rooted import RootedFiles, identity
from otel_connect.enrich.users import PASSWD, SWITCH, Databases, Sources, parse_passwd

NEEDED = ("CAP_SYS_PTRACE",)
"""To read what belongs to processes of other users."""

_LIVING = 16
"""Workers, with those that are left behind: further ones are not made until one of these has ended."""
_REAP_EVERY_MS = 1000
_SMALL_TABLE = 1000
"""Names of a hosts file that are sent at once; of a larger one each is asked for."""

Questions = Mapping[str, Callable[..., Any]]


def questions() -> Questions:
    """Return what can be asked of a process, by name; the first arguments are its pid and its start time."""
    hosts = RootedFiles("/etc/hosts", parse_hosts)
    passwd, switch = RootedFiles(PASSWD, parse_passwd), RootedFiles(SWITCH, len)
    databases = Databases(Sources(passwd.find, switch.find, user_inside, identity))

    def message(pid: int, start_boot_ns: int) -> str | None:
        found = published_message(pid, start_boot_ns)
        return None if found is None else b64encode(found).decode()

    def names(pid: int, start_boot_ns: int) -> Mapping[str, str] | bool | None:
        found = hosts.find(pid, start_boot_ns)
        if found is None:
            return None
        return found[1] if len(found[1]) <= _SMALL_TABLE else True

    def name(pid: int, start_boot_ns: int, address: str) -> str | None:
        found = hosts.find(pid, start_boot_ns)
        return None if found is None else found[1].get(address)

    return {
        "executable": executable,
        "surroundings": surroundings,
        "arguments": arguments,
        "first argument": first_argument,
        "published message": message,
        "hosts": names,
        "host": name,
        "user": databases.look,
    }


def answer(channel: socket.socket, asked: Questions) -> None:
    """Answer questions until the agent hangs up."""
    while message := channel.recv(MESSAGE_BYTES):
        question, *about = json.loads(message)
        said = json.dumps(asked[question](*about), ensure_ascii=False).encode()
        try:
            channel.send(said)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                return
            channel.send(b"null")


class Template:
    """Makes workers when it is asked to, and ends them when they are wanted no more."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._asked = questions()
        self._workers: dict[int, tuple[int, socket.socket]] = {}
        """By the descriptor of a worker's channel: its pid, and the channel."""
        self._ending: set[int] = set()

    def run(self) -> None:
        """Say that it begins, and serve until the agent hangs up."""
        self._control.send(b"+")
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(_REAP_EVERY_MS if self._ending else None):
                if descriptor != self._control.fileno():
                    poll.unregister(descriptor)
                    self._end(descriptor)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
                if not message:
                    for channel in list(self._workers):
                        self._end(channel)
                    return
                # Without a descriptor there was no number left for it; the kernel has hung up on the agent.
                if descriptors and (made := self._make(socket.socket(fileno=descriptors[0]))):
                    poll.register(made, 0)  # whether the agent has hung up is always told
            self._ending = {pid for pid in self._ending if not _has_ended(pid)}

    def _make(self, channel: socket.socket) -> socket.socket | None:
        if len(self._workers) + len(self._ending) >= _LIVING:
            channel.close()
            return None
        try:
            pid = os.fork()
        except OSError:  # too many processes, or no memory: the agent is hung up on, and asks again
            channel.close()
            return None
        if not pid:
            self._work(channel)
        self._workers[channel.fileno()] = pid, channel
        return channel

    def _work(self, channel: socket.socket) -> None:
        """Be a worker."""
        try:
            die_with_parent()
            self._control.close()
            for _, other in self._workers.values():
                other.close()
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(channel, self._asked)
        finally:
            os._exit(0)

    def _end(self, descriptor: int) -> None:
        pid, channel = self._workers.pop(descriptor)
        channel.close()
        os.kill(pid, signal.SIGKILL)
        self._ending.add(pid)


def _has_ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def main() -> None:
    """Serve the agent at the other end of the socket whose descriptor is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the agent, which hangs up when it ends
    restrict(NEEDED)
    with suppress(BrokenPipeError, ConnectionResetError):
        Template(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
