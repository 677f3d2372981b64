"""The live view on real terminals: of several widths, resized, without colours, closed; and what is no terminal."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.agent import COMMAND, RunningAgent
from tests.support.collector import await_until
from tests.support.naming import with_files
from tests.support.network import NetworkNamespace

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_") and name != "NO_COLOR"}
ADDRESS, OF_LONG, UNNAMED = "10.53.0.80", "10.53.0.81", "10.53.0.99"  # /etc/hosts does not count for loopback
NAME = "db.shop.example"
LONG = "a-very-long-name-of-a-replica-that-no-terminal-has-room-for.eu-central-1.db.shop.example"
CODE = re.compile(r"\x1b\[\d*m")
SUMMARY = re.compile(r"seen (\d+) = shown (\d+) \+ in progress (\d+) \+ lost (\d+)")
# Connects to addresses, and then waits to be let go, so that its /etc/hosts can be read.
CLIENT = """
import socket, sys
for address in sys.argv[2:]:
    with socket.socket() as client:
        client.connect_ex((address, int(sys.argv[1])))
sys.stdin.read()
"""


class Terminal:
    """An agent in a terminal of its own, and what that shows."""

    def __init__(self, columns: int, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self._enough, self._woken = socket.socketpair()
        self.shown = ""
        self._set_size(columns)

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [COMMAND, "run", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            env=CLEAN | {"TERM": "xterm-256color", "OTEL_CONNECT_LISTEN": "off"} | environment,
            preexec_fn=take_terminal,  # noqa: PLW1509 - the test starts no thread before
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            assert self.process.stderr is not None
            assert b"capturing" in self.process.stderr.readline()
        except BaseException:
            self.process.kill()
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.close()

    def close(self) -> None:
        """Close the terminal, as whoever closes its window does."""
        self._enough.close()  # first nobody reads any more, or it would not be closed
        self._reader.join(10)
        self._woken.close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with suppress(OSError):  # EIO: nobody has the other end any more
            ends = [self._master, self._woken.fileno()]
            while ends[1] not in select.select(ends, [], [])[0]:
                self.shown += decoder.decode(os.read(self._master, 65536))

    def _set_size(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def resize(self, columns: int) -> None:
        """Change the width, as a window that is dragged does: the kernel sends SIGWINCH."""
        self._set_size(columns)

    @property
    def lines(self) -> list[str]:
        return CODE.sub("", self.shown).split("\r\n")

    def of(self, pid: int) -> list[str]:
        """Return the lines of a process."""
        return [line for line in self.lines if re.search(rf"(^| ){pid} ", line)]

    def stop(self) -> list[str]:
        """Stop the agent, and return all that was shown."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        self._reader.join(10)
        return self.lines


@pytest.fixture(scope="module")
def servers() -> Iterator[NetworkNamespace]:
    """Make a network with addresses at which nobody listens."""
    with NetworkNamespace() as namespace:
        for address in (ADDRESS, OF_LONG, UNNAMED):
            namespace.ip(f"addr add {address}/32 dev lo")
        yield namespace


@pytest.fixture
def client(servers: NetworkNamespace, tmp_path: Path) -> Iterator["Starter"]:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n{OF_LONG} {LONG}\n")
    starter = Starter(servers, hosts)
    yield starter
    starter.close()


class Starter:
    """Starts clients that know a server by its name."""

    port = 5432

    def __init__(self, servers: NetworkNamespace, hosts: Path) -> None:
        self._servers = servers
        self._hosts = hosts
        self._started: list[subprocess.Popen[bytes]] = []

    def connect(self, *addresses: str) -> int:
        """Make refused attempts, and return the pid of who made them."""
        argv = [os.path.realpath(sys.executable), "-c", CLIENT, str(self.port), *addresses]
        process = subprocess.Popen(self._servers.command(with_files(argv, hosts=self._hosts)), stdin=subprocess.PIPE)
        self._started.append(process)
        return process.pid

    def close(self) -> None:
        for process in self._started:
            process.communicate()


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_what_matters_is_there_at_every_width(columns: int, client: Starter) -> None:
    with Terminal(columns) as terminal:
        pid = client.connect(ADDRESS, OF_LONG, UNNAMED)
        await_until(lambda: len(terminal.of(pid)) == 3, 30)
        named, long, unnamed = terminal.of(pid)
        assert named.endswith(f" {NAME}:{client.port}") or (columns == 60 and named.endswith(f"…:{client.port}"))
        assert long.endswith(f"…:{client.port}") or (columns == 200 and long.endswith(f"{LONG}:{client.port}"))
        assert unnamed.endswith(f" {UNNAMED}:{client.port}")
        for line in (named, long, unnamed):
            assert "refused" in line
            assert ("ECONNREFUSED" in line) is (columns >= 80)
            assert len(line) <= columns
        assert (ADDRESS in named) is (columns == 200)
        assert bool(re.match(r"\d\d:\d\d:\d\d\.\d{3} ", named)) is (columns >= 100)
        last = terminal.stop()
    assert SUMMARY.search("\n".join(last))


def test_a_window_that_is_resized_is_followed(client: Starter) -> None:
    with Terminal(80) as terminal:
        for columns in (80, 200, 60, 100):
            terminal.resize(columns)
            pid = client.connect(ADDRESS)
            await_until(lambda pid=pid: len(terminal.of(pid)) == 1, 30)  # type: ignore[misc]
            (line,) = terminal.of(pid)
            header = [line for line in terminal.lines if line.endswith(" PEER")][-1]
            assert ("TIME" in header, "ERRNO" in header, "LOCAL" in header) == (
                columns >= 100,
                columns >= 80,
                columns == 200,
            )
            assert line.index("refused") == header.index("OUTCOME")
            assert len(line) <= columns
        before = terminal.lines
        pid = client.connect(ADDRESS)
        await_until(lambda: len(terminal.of(pid)) == 1, 30)
        assert sum(line.endswith(" PEER") for line in terminal.lines) == sum(line.endswith(" PEER") for line in before)


def test_a_terminal_that_does_not_say_how_wide_it_is(client: Starter) -> None:
    with Terminal(0) as terminal:
        pid = client.connect(UNNAMED)
        await_until(lambda: len(terminal.of(pid)) == 1, 30)
        assert terminal.lines[0] == "    PID PROCESS      OUTCOME     ERRNO         DURATION  PEER"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_colours(environment: dict[str, str], coloured: bool, client: Starter) -> None:
    with Terminal(80, **environment) as terminal:
        pid = client.connect(UNNAMED)
        await_until(lambda: len(terminal.of(pid)) == 1, 30)
        terminal.stop()
        assert ("\x1b[31mrefused" in terminal.shown) is coloured
        assert ("\x1b" in terminal.shown) is coloured


def test_what_is_no_terminal_gets_every_column_and_no_colour(client: Starter, tmp_path: Path) -> None:
    settings = tmp_path / "agent.toml"  # the summary has the five worst peers, and others on this machine may fail more
    settings.write_text(f'[serve]\nlisten = "off"\n[[filter.allow]]\ncidr = "{ADDRESS}"\n')
    environment = {"TERM": "xterm-256color", "COLUMNS": "60"}
    with RunningAgent("--config", str(settings), environment=environment) as agent:
        pid = client.connect(ADDRESS)
        agent.until(lambda: any(f" {pid} " in line for line in agent.output))
    assert agent.output[0].split() == [
        *("TIME", "PID", "PROCESS", "COMM", "USER", "OUTCOME", "ERRNO", "DURATION", "LOCAL", "ADDRESS", "PEER")
    ]
    (line,) = (line for line in agent.output if f" {pid} " in line)
    assert line.split()[-2:] == [ADDRESS, f"{NAME}:{client.port}"]
    assert "\x1b" not in "".join(agent.output)
    summary = agent.output[agent.output.index("") :]
    assert f"  {NAME}:{client.port} ({ADDRESS})  1 of 1  refused ECONNREFUSED" in summary


def test_a_terminal_that_is_closed_ends_the_agent(client: Starter) -> None:
    with Terminal(80) as terminal:
        await_until(lambda: terminal.lines[0].endswith(" PEER"), 30)
        terminal.close()

        def ended() -> bool:
            client.connect(UNNAMED)
            return terminal.process.poll() is not None

        await_until(ended, 30)
        assert terminal.process.returncode == 0
        assert terminal.process.stderr is not None
        errors = terminal.process.stderr.read().decode()
        assert "cannot be written" not in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("count", [20, 300])
def test_many_attempts_without_an_end_are_one_line(count: int, tmp_path: Path) -> None:
    """Two listeners whose queues are full: the kernel drops further SYNs, so that the attempts stay pending."""
    settings = tmp_path / "agent.toml"
    with Deaf() as most, Deaf() as few:
        # Or what others on this machine wait for would count as well.
        rules = "".join(f"[[filter.allow]]\nport = {one.port}\n" for one in (most, few))
        settings.write_text(f"[filter]\ncount = true\n{rules}")
        with Terminal(100, "--config", str(settings)) as terminal:
            most.wait_for_it(count - count // 4)
            few.wait_for_it(count // 4)
            await_until(lambda: pending_in_kernel(most.port) + pending_in_kernel(few.port) == count, 30)
            last = terminal.stop()
    summary = SUMMARY.search("\n".join(last))
    assert summary is not None
    seen, shown, in_progress, lost = map(int, summary.groups())
    assert (seen, shown, in_progress) == (count + lost, count, 0)
    lines = [line for line in last if f":{most.port}" in line or f":{few.port}" in line]
    if count <= 20:
        assert len(lines) == count
        assert all(" pending " in line for line in lines)
    else:
        parts = f"{count - count // 4} to 127.0.0.1:{most.port}, {count // 4} to 127.0.0.1:{few.port}"
        assert lines == [f"{count} attempts still pending: {parts}"]


def pending_in_kernel(port: int) -> int:
    """Count the sockets in SYN_SENT towards a port, by /proc/net/tcp."""
    rows = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return sum(row.split()[2].endswith(f":{port:04X}") and row.split()[3] == "02" for row in rows)


class Deaf:
    """A listener that takes nobody, and whose queue is full."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self._server.getsockname()[1]
        self._clients = [socket.create_connection(("127.0.0.1", self.port))]

    def wait_for_it(self, clients: int) -> None:
        """Begin so many attempts that get no answer."""
        for _ in range(clients):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))
            self._clients.append(waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for one in (*self._clients, self._server):
            one.close()


@pytest.mark.timeout(120)
def test_what_follows_control_c_begins_a_line() -> None:
    """With standard error on the terminal, too, as it is for a person; and the header follows the line of the start."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    environment = CLEAN | {"OTEL_CONNECT_LISTEN": "off"}
    with subprocess.Popen(
        [COMMAND, "run"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        preexec_fn=take_terminal,  # noqa: PLW1509 - the test starts no thread
    ) as process:
        os.close(slave)
        shown = ""
        try:
            with suppress(OSError):  # EIO: the agent has gone
                while select.select([master], [], [], 60)[0]:
                    shown += os.read(master, 65536).decode()
                    if "OUTCOME" in shown and "^C" not in shown:
                        os.write(master, b"\x03")
            assert process.wait(30) == 0, shown
        finally:
            process.kill()
            os.close(master)
    lines = CODE.sub("", shown).split("\r\n")
    assert lines[0].startswith("otel-connect: capturing every TCP connect attempt of this host, to the console (")
    assert "OUTCOME" in lines[1]
    assert any(line.endswith("^C") for line in lines), lines
