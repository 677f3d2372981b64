"""The status server on real sockets, asked nicely and otherwise."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from otel_connect.config import Listen
from otel_connect.encode.self_metrics import self_metrics
from otel_connect.figures import NO_OUTLET, Figures
from otel_connect.model import Balance
from otel_connect.serve.http import StatusServer
from otel_connect.serve.listener import Listener, NotAliveError, ask_livez
from otel_connect.serve.report import STUCK_AFTER_S, Phase, Reload, Report
from tests.support.collector import await_until, free_ports
from tests.support.figures import FIGURES, STATE


def make_report(figures: Figures = FIGURES, *, phase: Phase = Phase.CAPTURING, reload: Reload | None = None) -> Report:
    return Report(
        pid=4711,
        phase=phase,
        started_unix_ns=1_700_000_000_000_000_000,
        started_monotonic_s=90.0,
        at_monotonic_s=100.0,
        output="http://collector:4318",
        figures=figures,
        metrics=self_metrics(figures),
        last_reload=reload,
    )


class Clock:
    now = 100.5

    def __call__(self) -> float:
        return self.now


class Running:
    """A server, its clock, and ways to ask it."""

    def __init__(self, listener: Listener) -> None:
        self.address = listener.address
        self.clock = Clock()
        self.server = StatusServer(listener, make_report(), self.clock)

    def connect(self) -> socket.socket:
        if self.address.path:
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.address.path)
            return client
        return socket.create_connection((self.address.host, self.address.port))

    def send(self, request: bytes) -> bytes:
        """Send bytes, and return all that comes back until the server closes."""
        with self.connect() as client:
            client.settimeout(15)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := client.recv(65536):
                answer += piece
            return answer

    def get(self, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection("localhost", 1)
        connection.sock = self.connect()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, body


TCP = pytest.mark.parametrize("running", ["tcp"], indirect=True)


@pytest.fixture(params=["tcp", "unix"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    path = str(tmp_path / "status.sock") if request.param == "unix" else ""
    listen = Listen(path, "localhost", 0) if path else Listen("", "127.0.0.1", *free_ports(1))
    one = Running(Listener(listen))
    try:
        yield one
    finally:
        one.server.close()
    assert "status-server" not in {thread.name for thread in threading.enumerate()}
    assert not path or not Path(path).exists()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_alive_while_the_loop_goes_round(running: Running) -> None:
    assert running.get("/livez")[::2] == (200, "ok\n")
    assert ask_livez(running.address) == "ok"
    running.clock.now = 100.0 + STUCK_AFTER_S
    assert running.get("/livez")[0] == 200
    running.clock.now += 0.1
    assert running.get("/livez")[::2] == (503, "the loop has not gone round for 10 s\n")
    with pytest.raises(NotAliveError, match="has not gone round"):
        ask_livez(running.address)
    running.server.publish(make_report()._replace(at_monotonic_s=running.clock.now))
    assert running.get("/livez")[0] == 200


def test_ready_while_hooks_are_attached(running: Running) -> None:
    assert running.get("/readyz")[0] == 200
    running.server.publish(make_report(Figures(STATE._replace(hooks=()), NO_OUTLET)))
    assert running.get("/readyz")[::2] == (503, "no hook is attached\n")
    assert running.get("/livez")[0] == 200
    running.server.publish(make_report(phase=Phase.STOPPING))
    assert running.get("/readyz")[::2] == (503, "stopping\n")


def test_status_has_the_ledger(running: Running) -> None:
    refused = Reload(1_700_000_001_000_000_000, ("a.toml: capture.x: unknown key",), ())
    running.server.publish(make_report(reload=refused))
    status, headers, body = running.get("/status")
    assert (status, headers["content-type"]) == (200, "application/json")
    document = json.loads(body)
    assert document["phase"] == "capturing"
    assert document["uptime_s"] == 10.5
    assert document["hooks"] == list(STATE.hooks)
    assert document["balance"]["difference"] == 0
    assert document["ledger"]["logs"] == {
        "seen": 10,
        "recovered": 2,
        "exported": 6,
        "queued": 5,
        "dropped": {"queue_full": 1},
        "difference": 0,
    }
    assert document["ledger"]["metrics"]["made"] == 30
    assert document["delivery"]["traces"] == {"state": "retrying", "message": "refused", "for_s": 1.5}
    assert document["spool"]["limit_bytes"] == 5000
    assert document["throttles"] == [
        {
            "limit": "process_rate",
            "cgroup_id": 4242,
            "pid": 7,
            "executable_name": "wg\\x1bet",
            "withheld": 900,
            "since": "2023-11-14T22:13:20+00:00",
        }
    ]
    assert document["last_reload"] == {
        "at": "2023-11-14T22:13:21+00:00",
        "ok": False,
        "problems": ["a.toml: capture.x: unknown key"],
        "needs_restart": [],
    }


def test_a_difference_shows(running: Running) -> None:
    state = STATE._replace(balance=Balance(9, 1, 1, 1, {"kernel_ring_full": 1}, 0))
    running.server.publish(make_report(Figures(state, NO_OUTLET)))
    assert json.loads(running.get("/status")[2])["balance"]["difference"] == 5


def test_metrics_are_a_page_for_prometheus(running: Running) -> None:
    status, headers, body = running.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    (exported,) = [
        s for s in families["otel_connect_agent_attempts_exported"].samples if s.labels["otel_connect_signal"] == "logs"
    ]
    assert exported.value == 6
    buckets = {
        s.labels.get("le"): s.value
        for s in families["otel_connect_agent_export_delay_seconds"].samples
        if s.name.endswith("_bucket")
    }
    assert buckets == {"0.1": 3, "1.0": 5, "+Inf": 6}
    _, headers, body = running.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


@TCP
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/status", "/metrics", "/nothing"])
def test_every_answer_is_safe_in_a_browser(running: Running, path: str) -> None:
    headers = running.get(path)[1]
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "otel-connect"  # no version, and not that of the libraries


@TCP
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_only_get_is_answered(running: Running, method: str) -> None:
    answer = running.send(f"{method} /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == 405
    assert b"allow: GET" in answer
    assert b"attempts" not in answer


@TCP
@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            (host, 200)
            for host in ("localhost", "LocalHost:9475", "127.0.0.1:1", "[::1]:9475", "10.1.2.3", "[fe80::1]")
        ),
        *(
            (host, 403)
            for host in ("evil.example", "localhost.evil.example:9475", "127.0.0.1.evil.example", "", "[", "::")
        ),
    ],
)
def test_a_name_that_could_be_rebound_is_refused(running: Running, host: str, status: int) -> None:
    answer = running.send(f"GET /status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == status


def test_two_hosts_and_none(running: Running) -> None:
    two = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert status_of(running.send(two)) in {400, 403}
    assert status_of(running.send(b"GET /livez HTTP/1.1\r\n\r\n")) == 400
    assert status_of(running.send(b"GET /livez HTTP/1.0\r\n\r\n")) == 200  # no browser, but an old probe


@TCP
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//livez",
        "/livez/",
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/livez/../status",
        "/livez%00",
        "/static/x",
        "http://evil.example/x",
    ],
)
def test_there_is_nothing_else(running: Running, path: str) -> None:
    answer = running.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == 404
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(5000)) + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET /livez HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
        b"\r\n" * 10_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["huge_header", "many_headers", "huge_path", "tls", "nul", "empty_lines", "http2"],
)
def test_what_is_no_request_is_refused_and_the_next_one_answered(running: Running, request_: bytes) -> None:
    try:
        answer = running.send(request_)
    except OSError:  # cut off, in one of several ways, while it was still being sent
        answer = b""
    assert not answer or status_of(answer) >= 400
    assert running.get("/livez")[0] == 200


def test_a_body_nobody_asked_for_is_not_waited_for(running: Running) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
    with running.connect() as client:
        client.settimeout(15)
        client.sendall(head)
        assert status_of(client.recv(4096)) == 200


@pytest.mark.slow
@TCP
def test_a_slow_client_is_cut_off_in_the_end(running: Running) -> None:
    with running.connect() as client:
        client.settimeout(60)
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_many_connections_cost_the_oldest_not_the_newest(running: Running) -> None:
    with ExitStack() as stack:
        idle = []
        for _ in range(200):
            idle.append(stack.enter_context(running.connect()))
            assert running.get("/livez")[0] == 200
            assert len(running.server._server.server_state.connections) <= 32 + 2

        def cut_off() -> int:
            count = 0
            for client in idle:
                client.setblocking(False)
                try:
                    count += client.recv(1) == b""
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    count += 1
            return count

        await_until(lambda: cut_off() >= 160)


def test_a_page_that_fails_says_so_plainly(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.server.publish(make_report()._replace(metrics=None))  # type: ignore[arg-type]  # a fault of ours
    status, headers, body = running.get("/metrics")
    assert (status, body) == (500, "this page could not be made\n")
    assert headers["x-content-type-options"] == "nosniff"
    assert "Traceback" not in caplog.text
    assert "/metrics could not be made" in caplog.text
    assert running.get("/livez")[0] == 200
