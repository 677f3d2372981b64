"""The way of a request to its server: by which proxy, and by whose authorities a server is known."""

import base64
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import certifi
import pytest

from otel_connect.config import ExportConfig, Protocol
from otel_connect.errors import ConfigError
from otel_connect.export.answer import Action, Answer
from otel_connect.export.endpoint import resolve
from otel_connect.export.tls import client_context, file_problems
from otel_connect.export.transport import open_transport
from otel_connect.model import Signal
from tests.support.collector import free_ports
from tests.support.delivery import GRPC, HTTP, configured, logs, receive
from tests.support.receiver import Certificates, HttpReceiver, ServerTls, make_certificates

BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])
SECURE = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BUNDLES, *VARIABLES, *map(str.upper, VARIABLES)):
        monkeypatch.delenv(name, raising=False)


class _Proxy(StreamRequestHandler):
    """An HTTP proxy that knows CONNECT and absolute URLs."""

    def handle(self) -> None:
        first = self.rfile.readline().decode()
        if not first:  # a client that did not like its certificate
            return
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        method, target, _ = first.split()
        headers = list(iter(self.rfile.readline, b"\r\n"))
        proxy.seen.append((method, target))
        proxy.credentials += [one.split()[-1].decode() for one in headers if one.lower().startswith(b"proxy-auth")]
        host = target if method == "CONNECT" else target.split("/")[2]
        name, _, port = host.rpartition(":")
        with socket.create_connection((name, int(port))) as upstream:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                upstream.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(headers) + b"\r\n")
            back = threading.Thread(target=pump, args=(upstream, self.connection))
            back.start()
            while data := self.rfile.read1(65536):
                upstream.sendall(data)
            with suppress(OSError):
                upstream.shutdown(socket.SHUT_WR)
            back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Proxy:
    """What a proxy has been asked for."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.seen: list[tuple[str, str]] = []
        self.credentials: list[str] = []


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet about clients that hang up."""


@contextmanager
def a_proxy(tls: Certificates | None = None) -> Iterator[Proxy]:
    with _Server(("127.0.0.1", 0), _Proxy) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.server, tls.server_key)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        proxy = Proxy(f"127.0.0.1:{server.server_address[1]}")
        server.proxy = proxy  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()


def ask(config: ExportConfig) -> Answer:
    transport = open_transport(resolve(config)[Signal.LOGS])
    try:
        return transport.send(logs("a").body)
    finally:
        transport.close()


def of_server(certificates: Certificates, *, secure: bool) -> ServerTls | None:
    return ServerTls(certificates.server, certificates.server_key) if secure else None


@BOTH
@SECURE
def test_the_proxies_of_the_environment_are_used(
    protocol: Protocol, secure: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, object] = {"certificate": certificates.authority} if secure else {}
    with a_proxy() as proxy, receive(protocol, tls=of_server(certificates, secure=secure)) as receiver:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.place}")
        assert ask(configured(receiver, protocol, **options)).action is Action.DELIVERED
    tunnel = ("CONNECT", f"127.0.0.1:{receiver.port}")
    plain = ("POST", f"http://127.0.0.1:{receiver.port}/v1/logs")
    assert proxy.seen == [plain if protocol is HTTP and not secure else tunnel]
    assert proxy.credentials == []


@BOTH
def test_no_proxy_is_heeded(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    (nobody,) = free_ports(1)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{nobody}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with receive(protocol) as receiver:
        assert ask(configured(receiver, protocol)).action is Action.DELIVERED


@SECURE
@pytest.mark.parametrize(
    ("written", "sent"),
    [("user:secret@", "user:secret"), ("us%40er:s%3Ae%2Fcret@", "us@er:s:e/cret"), ("user:@", "user:")],
)
def test_credentials_of_a_proxy_are_for_the_proxy_alone(
    secure: bool, written: str, sent: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_proxy() as proxy, HttpReceiver(tls=of_server(certificates, secure=secure)) as receiver:
        monkeypatch.setenv("ALL_PROXY", f"http://{written}{proxy.place}")
        config = configured(receiver, HTTP, certificate=certificates.authority, headers={"authorization": "ours"})
        assert ask(config).action is Action.DELIVERED
    assert [base64.b64decode(one).decode() for one in proxy.credentials] == [sent]
    (received,) = receiver.requests
    assert received.metadata["authorization"] == "ours"
    assert not secure or "proxy-authorization" not in received.metadata


@SECURE
def test_a_proxy_that_speaks_tls_is_known_by_the_usual_authorities(
    secure: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_proxy(certificates) as proxy, HttpReceiver(tls=of_server(certificates, secure=secure)) as receiver:
        config = configured(receiver, HTTP, certificate=certificates.authority)
        monkeypatch.setenv("ALL_PROXY", f"https://{proxy.place}")
        assert ask(config).message.startswith("the proxy of the environment: ")
        assert proxy.seen == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
        assert ask(config).action is Action.DELIVERED
    assert [method for method, _ in proxy.seen] == ["CONNECT" if secure else "POST"]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "ftp://127.0.0.1:1", "http://:3128", "http://[::1"])
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    answer = ask(ExportConfig(endpoint="http://127.0.0.1:4318"))
    assert answer.action is Action.RETRY_UNHEALTHY
    assert answer.message.startswith("cannot be sent: ")


@pytest.mark.parametrize("variable", BUNDLES)
def test_the_authorities_that_the_environment_names_are_trusted(
    variable: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpReceiver(tls=of_server(certificates, secure=True)) as receiver:
        config = configured(receiver, HTTP)
        assert "name the authority of" in ask(config).message
        monkeypatch.setenv("CURL_CA_BUNDLE", str(certificates.stranger))
        monkeypatch.setenv(variable, str(certificates.authority))
        assert ask(config).action is Action.DELIVERED
        # An endpoint's own authority wins.
        strange = configured(receiver, HTTP, certificate=certificates.stranger)
        assert ask(strange).action is Action.RETRY_UNHEALTHY


def test_a_directory_of_authorities(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(certificates.authority, tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    with HttpReceiver(tls=of_server(certificates, secure=True)) as receiver:
        assert ask(configured(receiver, HTTP)).action is Action.RETRY_UNHEALTHY
        subprocess.run(["openssl", "rehash", tmp_path], check=True, capture_output=True)
        assert ask(configured(receiver, HTTP)).action is Action.DELIVERED


def test_authorities_that_change_are_read_again(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    shutil.copy(certificates.stranger, bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with HttpReceiver(tls=of_server(certificates, secure=True)) as receiver:
        transport = open_transport(resolve(configured(receiver, HTTP))[Signal.LOGS])
        assert transport.send(logs("a").body).action is Action.RETRY_UNHEALTHY
        shutil.copy(certificates.authority, bundle)
        assert transport.send(logs("a").body).action is Action.DELIVERED
        transport.close()


def test_by_default_those_of_certifi_are_trusted() -> None:
    trusted = client_context(resolve(ExportConfig(endpoint="https://127.0.0.1:4318"))[Signal.LOGS])
    expected = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    expected.load_verify_locations(cafile=certifi.where())
    assert trusted.get_ca_certs() == expected.get_ca_certs() != []
    assert (trusted.verify_mode, trusted.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("variable", BUNDLES)
@pytest.mark.parametrize(("content", "says"), [(None, "No such file or directory"), ("no certificate", "no usable")])
def test_authorities_that_cannot_be_used_are_said_with_their_variable(
    variable: str, content: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv(variable, str(bundle))
    config = ExportConfig(endpoint="https://127.0.0.1:4318", protocol=HTTP)
    with pytest.raises(ConfigError) as caught:
        open_transport(resolve(config)[Signal.LOGS])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{variable}: {bundle}: ")
    assert says in problem
    # gRPC has authorities of its own, and a plain endpoint needs none.
    for other in (config.model_copy(update={"protocol": GRPC}), config.model_copy(update={"endpoint": "http://x:1"})):
        assert file_problems(resolve(other)[Signal.LOGS]) == []
