"""What is said when endpoint, protocol and server do not fit, and when a server does not answer: on real sockets."""

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from otel_connect.config import ExportConfig, Layer, Protocol, build
from otel_connect.environment import environment_layer
from otel_connect.export.answer import Action, Answer
from otel_connect.export.endpoint import Endpoint, resolve
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.sender import State
from otel_connect.export.transport import Transport, open_transport
from otel_connect.model import Signal
from tests.support.agent import RunningAgent
from tests.support.collector import Collector, await_until, free_ports
from tests.support.delivery import GRPC, HTTP, QUICK, Watched, logs, metrics, traces
from tests.support.receiver import Certificates, GrpcReceiver, HttpReceiver, Reply, ServerTls, make_certificates
from tests.support.status import Status

P = "OTEL_EXPORTER_OTLP_"
OF_FILE = "/etc/agent.toml: export."


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class PlainServer(BaseHTTPRequestHandler):
    """A web server that nobody has taught OTLP."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the standard library's name
        """Stay quiet."""


class Raw:
    """Says its words to each client, reads so many bytes, and hangs up; with none to read it closes at once.

    Without words it may be silent for good: then connections stay in its queue.
    """

    def __init__(self, words: bytes = b"", *, reads: int = 1, resets: bool = False, silent: bool = False) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._words, self._reads, self._resets = words, reads, resets
        if not silent:
            threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), connection:
                connection.sendall(self._words)
                if self._reads:
                    connection.recv(self._reads)
                if self._resets:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


RAW: dict[str, Callable[[], Raw]] = {
    "silent": lambda: Raw(silent=True),
    "resets": lambda: Raw(resets=True),
    "resets after 100 bytes": lambda: Raw(reads=100, resets=True),
    "closes": lambda: Raw(reads=1 << 20),
    "closes at once": lambda: Raw(reads=0),
    "ssh": lambda: Raw(b"SSH-2.0-OpenSSH_9.2\r\n", reads=1 << 20),
    "ssh, resets": lambda: Raw(b"SSH-2.0-OpenSSH_9.2\r\n", resets=True),
    "smtp, closes at once": lambda: Raw(b"220 mail.example ESMTP\r\n", reads=0),
    "redis": lambda: Raw(b"-ERR unknown command\r\n", reads=1 << 20),
    "database": lambda: Raw(b"\x4a\0\0\0\n8.0.36\0", resets=True),
    "one long line": lambda: Raw(b"x" * 70_000, reads=1 << 20),
    "http/2, resets": lambda: Raw(b"\0\0\6\4\0\0\0\0\0\0\5\0\0\x40\0", resets=True),
    "alert, resets": lambda: Raw(b"\x15\3\1\0\2\2\x46", resets=True),
    "http, cut in its headers": lambda: Raw(b"HTTP/1.1 200 OK\r\nContent-Le", resets=True),
    "http, cut in its body": lambda: Raw(b"HTTP/1.1 200 OK\r\n\r\n", resets=True),
}


ANSWERS = {
    "302": Reply(status=302, headers={"Location": "https://login.example/"}),
    **{str(status): Reply(status=status) for status in (401, 403, 404, 405, 407, 413, 429, 501, 502, 503, 504)},
    "404 with a page": Reply(status=404, headers={"Content-Type": "text/plain"}, body=b"no such page " * 100),
    "200 with a page": Reply(headers={"Content-Type": "text/html"}, body=b"<html>Welcome</html>"),
}
GRPC_ANSWERS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)


class Servers(NamedTuple):
    """By name, where each listens."""

    places: dict[str, str]
    certificates: Certificates


@pytest.fixture(scope="module")
def servers(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    tls = ServerTls(certificates.server, certificates.server_key)
    of_client = tls._replace(client_authority=certificates.authority)
    files = f"tls: {{cert_file: {tls.certificate}, key_file: {tls.key}}}"
    over_tls = f"receivers: {{otlp: {{protocols: {{grpc: {{{files}}}, http: {{{files}}}}}}}}}"
    late = itertools.repeat(Reply(delay_s=60))
    with ExitStack() as stack:
        plain = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), PlainServer))
        threading.Thread(target=plain.serve_forever, args=(0.01,), daemon=True).start()
        stack.callback(plain.shutdown)
        places = {
            "http": stack.enter_context(HttpReceiver()).endpoint,
            "http, late": stack.enter_context(HttpReceiver(late)).endpoint,
            "https": stack.enter_context(HttpReceiver(tls=tls)).endpoint,
            "https, of clients": stack.enter_context(HttpReceiver(tls=of_client)).endpoint,
            "grpc": stack.enter_context(GrpcReceiver()).endpoint,
            "grpc, late": stack.enter_context(GrpcReceiver(late)).endpoint,
            "grpcs": stack.enter_context(GrpcReceiver(tls=tls)).endpoint,
            "grpcs, of clients": stack.enter_context(GrpcReceiver(tls=of_client)).endpoint,
            "web": f"http://127.0.0.1:{plain.server_address[1]}",
        }
        places |= {name: "//" + stack.enter_context(closing(make())).place for name, make in RAW.items()}
        for name, answer in ANSWERS.items():
            places[name] = stack.enter_context(HttpReceiver(itertools.repeat(answer))).endpoint
        for code in GRPC_ANSWERS:
            refusing = stack.enter_context(GrpcReceiver(itertools.repeat(Reply(code=code, details="no"))))
            places[code.name] = refusing.endpoint
        collector = stack.enter_context(Collector(tmp_path_factory.mktemp("plain")))
        secure = stack.enter_context(Collector(tmp_path_factory.mktemp("secure"), overrides=[over_tls]))
        places |= {"collector http": collector.http_endpoint, "collector grpc": collector.grpc_endpoint}
        places |= {"collector https": secure.http_endpoint, "collector grpcs": secure.grpc_endpoint}
        places["nobody"] = f"//127.0.0.1:{free_ports(1)[0]}"
        yield Servers({name: url.partition("//")[2] for name, url in places.items()}, certificates)


def ask(endpoint: str, protocol: Protocol, **variables: str) -> Answer:
    environ = {f"{P}ENDPOINT": endpoint, f"{P}PROTOCOL": protocol, f"{P}TIMEOUT": "300"} | variables
    transport = open_transport(resolve(build([environment_layer(environ)]).export)[Signal.LOGS])
    try:
        return transport.send(b"")
    finally:
        transport.close()


NO_TLS = f"speaks no TLS; write http:// in {P}ENDPOINT"
IF_TLS = f"if it speaks TLS, write https:// in {P}ENDPOINT"
IF_GRPC = f"if it speaks gRPC, set {P}PROTOCOL=grpc"
HTTP1 = f"gRPC met an HTTP/1 answer at port {{port}}: set {P}PROTOCOL=http/protobuf"
HTTP2 = f"HTTP met a gRPC answer at port {{port}}: set {P}PROTOCOL=grpc"
CORRECT = f"correct {P}ENDPOINT"
NO_RECEIVER = f"nothing receives logs at {{place}}/v1/logs: {CORRECT}, or have the collector receive them"
LOOK = "look at the log of what answers at {place}"
CLOSED = "{place} closed the connection without an answer ("
LIMIT = f"within 0.3 s ({P}TIMEOUT=300)"
TRUSTED = "trusted"
"""In place of a scheme: https, and the authority of the certificate is known."""

TABLE = [
    ("grpc", "http", "web", HTTP1, Action.RETRY_UNHEALTHY),
    ("grpc", "http", "http", HTTP1, Action.RETRY_UNHEALTHY),
    ("grpc", "http", "collector http", HTTP1, Action.RETRY_UNHEALTHY),
    ("grpc", TRUSTED, "https", HTTP1, Action.RETRY_UNHEALTHY),
    ("http", "http", "grpc", HTTP2, Action.RETRY_UNHEALTHY),
    ("http", "http", "collector grpc", HTTP2, Action.RETRY_UNHEALTHY),
    ("http", "http", "http/2, resets", HTTP2, Action.RETRY_UNHEALTHY),
    *(
        ("http", "http", server, "something that speaks no HTTP answers at {place}; " + CORRECT, Action.RETRY_UNHEALTHY)
        for server in ("ssh", "ssh, resets", "smtp, closes at once", "redis", "database", "one long line")
    ),
    *(
        ("grpc", "http", server, "something that speaks no gRPC answers at {place}; " + CORRECT, Action.RETRY_UNHEALTHY)
        for server in ("ssh", "ssh, resets", "redis", "database")
    ),
    ("http", "http", "alert, resets", f"{{place}} speaks TLS; write https:// in {P}ENDPOINT", Action.RETRY_UNHEALTHY),
    ("http", "http", "http, cut in its headers", "the answer was cut in its headers; " + LOOK, Action.RETRY),
    ("http", "http", "http, cut in its body", "answer cut off: Connection reset by peer; " + LOOK, Action.RETRY),
    *(
        ("http", "http", status, f"HTTP {status[:3]}{says}", action)
        for status, says, action in (
            (
                "302",
                f" redirects to https://login.example/; never followed; name the OTLP receiver itself in {P}ENDPOINT",
                Action.RETRY_UNHEALTHY,
            ),
            ("401", f"; set the credentials in {P}HEADERS", Action.RETRY_UNHEALTHY),
            ("403", f"; let the credentials in {P}HEADERS write logs, or correct {P}ENDPOINT", Action.RETRY_UNHEALTHY),
            ("404", "; " + NO_RECEIVER, Action.RETRY_UNHEALTHY),
            ("404 with a page", ": no such page", Action.RETRY_UNHEALTHY),
            ("404 with a page", "", Action.RETRY_UNHEALTHY),
            ("405", "; " + NO_RECEIVER, Action.RETRY_UNHEALTHY),
            ("407", "; correct HTTP_PROXY, or name 127.0.0.1 in NO_PROXY", Action.RETRY_UNHEALTHY),
            ("413", "; have the backend take larger requests", Action.SPLIT),
            ("429", "; the backend limits how many logs it takes; send less, or raise its limit", Action.RETRY),
            ("501", "; " + NO_RECEIVER, Action.RETRY_UNHEALTHY),
            *(
                (
                    code,
                    "; the backend of logs is overloaded or not ready; " + LOOK,
                    Action.RETRY,
                )
                for code in ("502", "503", "504")
            ),
        )
    ),
    ("http", "http", "404 with a page", f"…; {NO_RECEIVER}", Action.RETRY_UNHEALTHY),
    ("http", "http", "web", f"; {NO_RECEIVER}", Action.RETRY_UNHEALTHY),
    (
        "http",
        "http",
        "200 with a page",
        f"success with an unreadable body (text/html); {NO_RECEIVER}",
        Action.RETRY_UNHEALTHY,
    ),
    (
        "grpc",
        "http",
        "UNAUTHENTICATED",
        f"UNAUTHENTICATED: no; set the credentials in {P}HEADERS",
        Action.RETRY_UNHEALTHY,
    ),
    (
        "grpc",
        "http",
        "PERMISSION_DENIED",
        f"PERMISSION_DENIED: no; let the credentials in {P}HEADERS write",
        Action.RETRY_UNHEALTHY,
    ),
    (
        "grpc",
        "http",
        "UNIMPLEMENTED",
        f"UNIMPLEMENTED: no; nothing receives logs at {{place}}: {CORRECT}, or",
        Action.RETRY_UNHEALTHY,
    ),
    ("http", TRUSTED, "grpcs", IF_GRPC, Action.RETRY),
    ("http", TRUSTED, "collector grpcs", IF_GRPC, Action.RETRY),
    *(
        (protocol, "https", server, "{place} " + NO_TLS, Action.RETRY_UNHEALTHY)
        for protocol in ("http", "grpc")
        for server in ("http", "grpc", "collector http", "collector grpc")
    ),
    ("http", "http", "https", IF_TLS, Action.RETRY),
    ("http", "http", "grpcs", IF_TLS, Action.RETRY),
    ("http", "http", "collector grpcs", IF_TLS, Action.RETRY),
    # It answers 400, which would cost the records.
    ("http", "http", "collector https", f"{{place}} speaks TLS; write https:// in {P}ENDPOINT", Action.RETRY_UNHEALTHY),
    ("grpc", "http", "https", IF_TLS, Action.RETRY),
    ("grpc", "http", "grpcs", IF_TLS, Action.RETRY),
    ("grpc", "http", "collector https", IF_TLS, Action.RETRY),
    ("grpc", "http", "collector grpcs", IF_TLS, Action.RETRY),
    *(
        (protocol, "https", server, f"name the authority of {{place}} by {P}CERTIFICATE", Action.RETRY_UNHEALTHY)
        for protocol, server in (("http", "https"), ("grpc", "grpcs"))
    ),
    ("http", TRUSTED, "https, of clients", f"set {P}CLIENT_CERTIFICATE", None),
    ("grpc", TRUSTED, "grpcs, of clients", f"set {P}CLIENT_CERTIFICATE", None),
    ("http", "http", "silent", f"timed out: connected to {{place}}, but no whole answer {LIMIT}; ", Action.RETRY),
    ("http", "http", "http, late", f"timed out: connected to {{place}}, but no whole answer {LIMIT}; ", Action.RETRY),
    ("http", "https", "silent", f"timed out: connected to {{place}}, but no TLS handshake {LIMIT}; ", Action.RETRY),
    ("grpc", "http", "silent", f"timed out: no answer from {{place}} {LIMIT}; ", Action.RETRY),
    ("grpc", "https", "silent", f"timed out: no answer from {{place}} {LIMIT}; ", Action.RETRY),
    ("grpc", "http", "grpc, late", f"timed out: no answer from {{place}} {LIMIT}; ", Action.RETRY),
    *(
        (protocol, "http", server, CLOSED + "Connection reset by peer); if it", Action.RETRY)
        for protocol in ("http", "grpc")
        for server in ("resets",)
    ),
    *(
        (protocol, "http", server, CLOSED, Action.RETRY)
        for protocol in ("http", "grpc")
        for server in ("resets after 100 bytes", "closes", "closes at once")
    ),
    *(
        (protocol, "https", server, CLOSED + "during the TLS handshake); if it", Action.RETRY)
        for protocol in ("http", "grpc")
        for server in ("resets", "resets after 100 bytes", "closes", "closes at once")
    ),
    *(
        (protocol, "http", "nobody", "Connection refused: nothing listens at {place}; start the", Action.RETRY)
        for protocol in ("http", "grpc")
    ),
]


@pytest.mark.parametrize(("protocol", "scheme", "server", "says", "action"), TABLE)
def test_the_line_says_what_is_wrong_and_what_to_set(
    protocol: str, scheme: str, server: str, says: str, action: Action | None, servers: Servers
) -> None:
    place = servers.places[server]
    trusted = {f"{P}CERTIFICATE": str(servers.certificates.authority)} if scheme == TRUSTED else {}
    url = f"{'http' if scheme == 'http' else 'https'}://{place}"
    answer = ask(url, GRPC if protocol == "grpc" else HTTP, **trusted)
    assert says.format(place=place, port=place.rpartition(":")[2]) in answer.message
    assert answer.of_server
    assert answer.action is action or action is None
    assert answer.message.isprintable()


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_connection_that_nobody_answers(protocol: Protocol) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(3):  # what its queue takes; then it leaves every SYN unanswered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        place = f"127.0.0.1:{full.getsockname()[1]}"
        message = ask(f"http://{place}", protocol).message
    expected = "no connection to" if protocol is HTTP else "no answer from"
    assert message.startswith(f"timed out: {expected} {place} {LIMIT}; ")


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_name_that_nobody_has(protocol: Protocol) -> None:
    message = ask("http://nowhere.invalid:4318", protocol).message
    assert f": no address for nowhere.invalid:4318; correct {P}ENDPOINT, or" in message


ORIGINS: dict[str, tuple[Callable[[str], Layer], str]] = {
    "variable": (lambda url: environment_layer({f"{P}ENDPOINT": url}), f"set {P}PROTOCOL=http/protobuf"),
    "variable of the signal": (
        lambda url: environment_layer({f"{P}LOGS_ENDPOINT": url, f"{P}LOGS_PROTOCOL": "grpc"}),
        f"set {P}LOGS_PROTOCOL=http/protobuf",
    ),
    "file": (
        lambda url: Layer(
            {"export.endpoint": url, "export.protocol": "grpc"},
            {"export.endpoint": f"{OF_FILE}endpoint", "export.protocol": f"{OF_FILE}protocol"},
        ),
        'set export.protocol = "http/protobuf" in /etc/agent.toml',
    ),
    "flag": (
        lambda url: Layer(
            {"export.endpoint": url, "export.protocol": "grpc"},
            {"export.endpoint": "--endpoint", "export.protocol": "--protocol"},
        ),
        "set --protocol http/protobuf",
    ),
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_what_set_the_option_is_named(origin: str, servers: Servers) -> None:
    layer, says = ORIGINS[origin]
    by_grpc = environment_layer({f"{P}PROTOCOL": "grpc"})
    endpoint = resolve(build([by_grpc, layer(f"http://{servers.places['http']}")]).export)[Signal.LOGS]
    transport = open_transport(endpoint)
    assert transport.send(b"").message.endswith(says)
    transport.close()


def said(
    config: ExportConfig,
    caplog: pytest.LogCaptureFixture,
    go_on: Callable[[OtlpExporter], None],
    opener: Callable[[Endpoint], Transport] = open_transport,
) -> list[str]:
    """Have three signals exported; return what the log says of it."""
    exporter = OtlpExporter(config.model_copy(update={"spool_directory": ""}), backoff=QUICK, opener=opener)
    for request in (logs("a"), metrics("b"), traces("c")):
        exporter.put(request)
    go_on(exporter)
    lines = [record.getMessage() for record in caplog.records if record.name == "otel_connect.export.sender"]
    exporter.close(0)
    return lines


def waiting(exporter: OtlpExporter) -> set[Signal]:
    return {signal for signal, account in exporter.accounts().items() if account.queued}


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_trouble_of_the_server_is_said_once_for_all_signals(
    protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    server = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:

        def go_on(exporter: OtlpExporter) -> None:
            await_until(lambda: all(health.message for health in exporter.health().values()))
            stack.enter_context((HttpReceiver if protocol is HTTP else GrpcReceiver)(port=port))
            await_until(lambda: all(health.state is State.DELIVERING for health in exporter.health().values()))

        first, last = said(ExportConfig(endpoint=server, protocol=protocol), caplog, go_on)
    assert first.startswith(f"{server} does not take requests (retrying): Connection refused: nothing listens at ")
    assert last.startswith(f"{server} takes requests again after ")


@pytest.mark.parametrize(
    ("protocol", "server"),
    [
        *(
            (HTTP, server)
            for server in (*sorted({*ANSWERS} - {"413"}), "collector grpc", "web", "ssh, resets", "http/2, resets")
        ),
        *((HTTP, server) for server in ("resets", "resets after 100 bytes", "closes", "closes at once", "nobody")),
        *((GRPC, server) for server in (*(code.name for code in GRPC_ANSWERS), "web", "ssh", "closes at once")),
    ],
)
def test_however_often_it_is_tried_it_is_said_once_for_all_signals(
    protocol: Protocol, server: str, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    watched: list[Watched] = []

    def watch(endpoint: Endpoint) -> Transport:
        watched.append(Watched(open_transport(endpoint)))
        return watched[-1]

    def go_on(_: OtlpExporter) -> None:
        for one in watched:
            one.await_answers(5)

    config = ExportConfig(endpoint=f"http://{servers.places[server]}", protocol=protocol)
    (line,) = said(config, caplog, go_on, watch)
    assert line.startswith(f"http://{servers.places[server]} does not take requests (")


@pytest.mark.parametrize(("scheme", "server"), [("http", "web"), ("http", "ssh"), ("https", "http")])
def test_of_several_addresses_the_one_that_answers_counts(scheme: str, server: str, servers: Servers) -> None:
    port = servers.places[server].rpartition(":")[2]
    endpoint = f"{scheme}://localhost:{port}"  # at ::1 nobody listens
    transport = open_transport(resolve(ExportConfig(endpoint=endpoint, protocol=GRPC))[Signal.LOGS])
    first, *rest = (asked_again(transport) for _ in range(8))
    transport.close()
    assert first.action is Action.RETRY_UNHEALTHY
    assert "refused" not in first.message
    assert set(rest) == {first}


def asked_again(transport: Transport) -> Answer:
    """Send once the pause is over in which the library gives its last answer again."""
    time.sleep(0.15)
    return transport.send(b"")


def test_a_name_whose_addresses_all_refuse(servers: Servers) -> None:
    port = servers.places["nobody"].rpartition(":")[2]
    assert ask(f"http://localhost:{port}", GRPC).message.startswith("Connection refused: nothing listens at localhost:")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_one_address_that_refuses_keeps_nothing_back(compression: str, servers: Servers) -> None:
    port = servers.places["grpcs"].rpartition(":")[2]
    trusted = {f"{P}CERTIFICATE": str(servers.certificates.authority), f"{P}COMPRESSION": compression}
    assert ask(f"https://localhost:{port}", GRPC, **trusted).action is Action.DELIVERED


def test_a_trouble_of_one_signal_is_said_of_that_signal(caplog: pytest.LogCaptureFixture) -> None:
    with HttpReceiver() as good, HttpReceiver(itertools.repeat(Reply(status=503))) as bad:
        layer = environment_layer({f"{P}ENDPOINT": good.endpoint, f"{P}TRACES_ENDPOINT": f"{bad.endpoint}/v1/traces"})

        def go_on(exporter: OtlpExporter) -> None:
            bad.await_requests(2)
            await_until(lambda: waiting(exporter) == {Signal.TRACES})

        (line,) = said(build([layer]).export, caplog, go_on)
    assert line.startswith(f"{bad.endpoint} does not take requests (retrying): HTTP 503; the backend of traces is ")


def test_a_plaintext_request_to_a_port_for_tls_costs_no_records(servers: Servers, tmp_path: Path) -> None:
    config = ExportConfig(
        endpoint=f"http://{servers.places['collector https']}", spool_directory=str(tmp_path / "spool")
    )
    exporter = OtlpExporter(config, backoff=QUICK)
    exporter.put(logs("a"))
    await_until(lambda: exporter.health()[Signal.LOGS].message)
    exporter.close(0)
    account = exporter.accounts()[Signal.LOGS]
    assert (account.queued, account.dropped) == (1, {})


def test_a_running_agent_says_it_once_and_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    with HttpReceiver() as receiver:
        file.write_text(f'[export]\nendpoint = "{receiver.endpoint}"\nprotocol = "grpc"\nmetric_interval_ms = 100\n')
        with RunningAgent(
            "--config", str(file), environment={"OTEL_CONNECT_LISTEN": f"unix:{tmp_path}/status"}
        ) as agent:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                socket.create_connection(listener.getsockname()).close()
            pages = Status(f"unix:{tmp_path}/status")
            agent.until(lambda: [one["state"] for one in pages.document()["delivery"].values()] == ["unhealthy"] * 3)
        (line,) = [line for line in agent.errors if "does not take requests" in line]
    remedy = f'set export.protocol = "http/protobuf" in {file}'
    said = f"gRPC met an HTTP/1 answer at port {receiver.port}: {remedy}"
    assert line.strip().endswith(f"{receiver.endpoint} does not take requests (unhealthy): {said}")
