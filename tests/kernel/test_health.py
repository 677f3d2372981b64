"""`otel-connect health`: it finds the agent where `run` listens, and says in words what is wrong."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from otel_connect.config import DEFAULT_LISTEN, Listen
from otel_connect.serve.http import StatusServer
from otel_connect.serve.listener import Listener
from tests.support.agent import COMMAND, RunningAgent
from tests.support.collector import free_ports
from tests.support.network import NetworkNamespace
from tests.support.status import unix_listen
from tests.unit.test_status_server import Clock, make_report

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}

# Answers every path as some other health check would.
OTHER_SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.HTTPServer.address_family = 2
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""


def health(*before: str, listen: str | None = None, config: Path | None = None) -> tuple[int, str]:
    """Return the exit code and the one line that is said, wherever it is."""
    environment = CLEAN if listen is None else CLEAN | {"OTEL_CONNECT_LISTEN": listen}
    options = [] if config is None else ["--config", str(config)]
    ended = subprocess.run(
        [*before, str(COMMAND), "health", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    said = ended.stdout + ended.stderr
    assert said.count("\n") == 1, said
    return ended.returncode, said.removesuffix("\n")


@pytest.fixture(scope="module")
def alone() -> Iterator[NetworkNamespace]:
    """Make a network in which nobody has the default address."""
    with NetworkNamespace() as namespace:
        yield namespace


@pytest.mark.parametrize("output", ["console", "json"])
def test_an_agent_is_found_at_the_default_address(alone: NetworkNamespace, output: str) -> None:
    inside = alone.command([])
    command = [*inside, str(COMMAND), "run", "--output", output]
    with RunningAgent(command=command, environment={"OTEL_CONNECT_LISTEN": ""}) as agent:
        assert health(*inside) == (0, "ok")
        assert not [line for line in agent.errors if "no status server" in line]
    code, said = health(*inside)
    assert code == 1
    assert said.startswith(
        f"otel-connect: nothing listens at {DEFAULT_LISTEN}: no agent runs, or it listens elsewhere;"
    )


def test_an_agent_is_found_where_its_file_and_its_variable_say(tmp_path: Path) -> None:
    listen, config = unix_listen(tmp_path), tmp_path / "agent.toml"
    config.write_text(f'[serve]\nlisten = "{listen}"\n')
    with RunningAgent("--config", str(config)):
        assert health(config=config) == (0, "ok")
        assert health(listen=listen) == (0, "ok")
    assert health(config=config)[0] == 1


def test_pages_that_are_off_are_not_asked() -> None:
    code, said = health(listen="off")
    assert code == 1
    assert "the status pages are switched off (serve.listen, OTEL_CONNECT_LISTEN)" in said


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_nothing_listens(kind: str, tmp_path: Path) -> None:
    listen = unix_listen(tmp_path) if kind == "unix" else f"127.0.0.1:{free_ports(1)[0]}"
    code, said = health(listen=listen)
    assert code == 1
    assert said.startswith(f"otel-connect: nothing listens at {listen}: ")
    assert said.endswith("give this command the --config and the OTEL_CONNECT_LISTEN of the agent")


def test_a_socket_that_was_left_behind(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "status.sock"))
    code, said = health(listen=unix_listen(tmp_path))
    assert code == 1
    assert "nothing listens at" in said


def test_another_health_check_is_not_taken_for_the_agent() -> None:
    server = subprocess.Popen([sys.executable, "-c", OTHER_SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        listen = f"127.0.0.1:{server.stdout.readline().strip()}"
        code, said = health(listen=listen)
    finally:
        server.kill()
        server.communicate()
    assert code == 1
    assert f"something other than otel-connect answers at {listen} (HTTP 200)" in said


@contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    "garbage",
    [b"220 mail.example ESMTP\r\n", b"\x15\x03\x03\x00\x02\x02\x46", b"", b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000],
)
def test_something_that_speaks_otherwise(garbage: bytes, tmp_path: Path) -> None:
    with answering(tmp_path / "status.sock", lambda client: client.sendall(garbage)):
        code, said = health(listen=unix_listen(tmp_path))
    assert code == 1
    assert "something other than otel-connect answers at" in said


def test_a_stopped_agent_gives_no_answer(tmp_path: Path) -> None:
    listen = unix_listen(tmp_path)
    with RunningAgent(environment={"OTEL_CONNECT_LISTEN": listen}) as agent:
        agent.process.send_signal(signal.SIGSTOP)
        try:
            code, said = health(listen=listen)
        finally:
            agent.process.send_signal(signal.SIGCONT)
    assert code == 1
    assert f"no answer from {listen} within 5 s: the agent there is stopped, or the host is overloaded" in said


def test_a_loop_that_hangs_is_said_with_its_time(tmp_path: Path) -> None:
    """The server and the process that asks are real; only the clock is the test's."""
    clock = Clock()
    address = Listen(str(tmp_path / "status.sock"), "localhost", 0)
    with closing(StatusServer(Listener(address), make_report(), clock)):
        assert health(listen=str(address)) == (0, "ok")
        clock.now = 130.0
        code, said = health(listen=str(address))
    assert code == 1
    assert said == f"otel-connect: the agent at {address} is not alive: the loop has not gone round for 30 s"


def test_a_socket_of_another_user(tmp_path: Path) -> None:
    listen = unix_listen(tmp_path)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    with RunningAgent(environment={"OTEL_CONNECT_LISTEN": listen}):
        code, said = health(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", listen=listen
        )
    assert code == 1
    assert (
        said
        == f"otel-connect: {listen} cannot be asked (Permission denied); run this as the user of the agent, or as root"
    )
