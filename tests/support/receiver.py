"""An OTLP backend that answers as a script says, on real sockets of the loopback interface.

Three of them, with one face: ``HttpReceiver``, ``GrpcReceiver`` (grpcio's server) and ``WireReceiver``, which
speaks HTTP/2 frame by frame and so can answer a gRPC call as no gRPC server ever would. Each takes the
replies of its script one by one, then answers success; it keeps every request it has read. ``answer``
replaces what is left of the script while the receiver runs.
"""

import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from otel_connect.model import Signal

_PATHS = {"/v1/logs": Signal.LOGS, "/v1/metrics": Signal.METRICS, "/v1/traces": Signal.TRACES}
_METHODS = {
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": Signal.LOGS,
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": Signal.METRICS,
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": Signal.TRACES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; what belongs to the other protocol is not looked at."""

    status: int = 200
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    """HTTP: headers; gRPC: trailers."""
    body: bytes = b""
    """The default is the serialized empty response: success."""
    delay_s: float = 0.0
    raw: bytes | None = None
    """HTTP: written instead of a response, then the connection is closed; ``b""`` just cuts it."""
    trickle_s: float = 0.0
    """HTTP: the pause after each byte of ``raw``."""
    unread: bool = False
    """HTTP: given before the body of the request is read, which then never is."""


SUCCESS = Reply()
CUT = Reply(raw=b"")


class Received(NamedTuple):
    """A request as it came in, with its body decompressed."""

    signal: Signal
    body: bytes
    metadata: Mapping[str, str]
    """HTTP headers or gRPC metadata, names in lower case."""
    reply: Reply
    ids: tuple[str, ...]
    """For each attempt's record its event id; for a data point the name of its metric."""


class ServerTls(NamedTuple):
    """What a receiver shows, and whom it lets in."""

    certificate: Path
    key: Path
    client_authority: Path | None = None
    """Only clients with a certificate of this authority."""


def partial_success(signal: Signal, rejected: int, message: str) -> Reply:
    """Answer success but for some records."""
    response: Any = {
        Signal.LOGS: ExportLogsServiceResponse(),
        Signal.METRICS: ExportMetricsServiceResponse(),
        Signal.TRACES: ExportTraceServiceResponse(),
    }[signal]
    name = {
        Signal.LOGS: "rejected_log_records",
        Signal.METRICS: "rejected_data_points",
        Signal.TRACES: "rejected_spans",
    }[signal]
    setattr(response.partial_success, name, rejected)
    response.partial_success.error_message = message
    return Reply(headers={"content-type": "application/x-protobuf"}, body=response.SerializeToString())


class Receiver:
    """What the three have in common: the script, the requests, and waiting for them."""

    endpoint: str
    """The base URL for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self, script: Iterable[Reply] = ()) -> None:
        self._changed = threading.Condition()
        self._script = iter(script)
        self._requests: list[Received] = []
        self._closing = threading.Event()

    @property
    def requests(self) -> list[Received]:
        """All requests so far, oldest first."""
        with self._changed:
            return list(self._requests)

    @property
    def acknowledged(self) -> list[str]:
        """The ids of all records in requests that were answered with the plain success, in order."""
        return [one for request in self.requests if request.reply == SUCCESS for one in request.ids]

    def answer(self, *script: Reply) -> None:
        """Replace the rest of the script; without replies: success from now on."""
        with self._changed:
            self._script = iter(script)

    def await_requests(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """Wait until so many requests have come in, in all; fails the test when they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout_s):
                raise AssertionError(f"{len(self._requests)} of {count} requests came within {timeout_s} s")
            return list(self._requests)

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._closing.set()

    def _take(self, signal: Signal, body: bytes, metadata: Mapping[str, str]) -> Reply:
        reply = self._next()
        self._keep(Received(signal, body, metadata, reply, tuple(_record_ids(signal, body))))
        return reply

    def _next(self) -> Reply:
        with self._changed:
            return next(self._script, SUCCESS)

    def _keep(self, request: Received) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        self._closing.wait(request.reply.delay_s)

    def _trickle(self, content: bytes, pause_s: float, write: Callable[[bytes], object]) -> None:
        """Write byte by byte, until somebody has had enough."""
        for byte in content:
            write(bytes([byte]))
            if self._closing.wait(pause_s):
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HttpReceiver(Receiver):
    """OTLP over HTTP/1.1 with kept-alive connections."""

    def __init__(self, script: Iterable[Reply] = (), *, tls: ServerTls | None = None, port: int = 0) -> None:
        super().__init__(script)
        self._server = _HttpServer(self, tls, port)
        self.port: int = self._server.server_address[1]
        self.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        super().close()
        self._server.shutdown()
        self._thread.join()
        self._server.cut_connections()
        self._server.server_close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, receiver: Receiver, tls: ServerTls | None, port: int) -> None:
        self.receiver = receiver
        self._connections: set[socket.socket] = set()
        self._context = None if tls is None else _server_context(tls)
        super().__init__(("127.0.0.1", port), _HttpHandler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._context is not None:
            # The handshake waits for the connection's own thread.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):  # it may have gone by itself
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what the tests are about."""


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_POST(self) -> None:
        if self.path not in _PATHS:
            self._read_body()
            self._respond(Reply(status=404))
            return
        signal, receiver = _PATHS[self.path], self.server.receiver
        reply = receiver._next()
        body = b"" if reply.unread else self._read_body()
        metadata = {name.lower(): value for name, value in self.headers.items()}
        receiver._keep(Received(signal, body, metadata, reply, tuple(_record_ids(signal, body))))
        self._respond(reply)

    def _read_body(self) -> bytes:
        body = self.rfile.read(int(self.headers["content-length"]))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def do_GET(self) -> None:  # only a client that follows redirects gets here
        self.server.receiver._take(Signal.LOGS, b"", {"unexpected": "GET"})
        self._respond(SUCCESS)

    def _respond(self, reply: Reply) -> None:
        self.close_connection |= reply.unread
        if reply.raw is not None:
            self.close_connection = True
            if reply.trickle_s:
                self.server.receiver._trickle(reply.raw, reply.trickle_s, self.wfile.write)
            else:
                self.wfile.write(reply.raw)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, str(value))
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the standard library's name
        """Stay quiet."""


def _server_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_authority)
    return context


class GrpcReceiver(Receiver):
    """OTLP over gRPC; ``max_request_bytes`` is the limit that collectors have at 4 MiB."""

    def __init__(
        self,
        script: Iterable[Reply] = (),
        *,
        tls: ServerTls | None = None,
        port: int = 0,
        max_request_bytes: int = 4 << 20,
    ) -> None:
        super().__init__(script)
        self._pool = ThreadPoolExecutor(4)
        options = (("grpc.max_receive_message_length", max_request_bytes), ("grpc.so_reuseport", 0))
        self._server = grpc.server(self._pool, handlers=[_GrpcHandler(self)], options=options)
        if tls is None:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            self.port = self._server.add_secure_port(f"127.0.0.1:{port}", _server_credentials(tls))
        self.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._server.start()

    def close(self) -> None:
        super().close()
        self._server.stop(grace=None).wait()
        self._pool.shutdown()


class _GrpcHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if (signal := _METHODS.get(handler_call_details.method)) is None:
            return None

        def export(body: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            reply = self._receiver._take(signal, body, metadata)
            context.set_trailing_metadata(tuple(reply.headers.items()))
            if reply.code is not grpc.StatusCode.OK:
                context.abort(reply.code, reply.details)
            return reply.body

        return grpc.unary_unary_rpc_method_handler(export)


def _server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    if tls.client_authority is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials([pair], tls.client_authority.read_bytes(), require_client_auth=True)


class Frame(NamedTuple):
    """One HTTP/2 frame to be sent on the stream of the call."""

    kind: int
    flags: int
    payload: bytes
    after_s: float = 0.0
    """The pause before it."""


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
HANG_UP = Frame(PING, 0, b"good bye")
"""As the last frame: the connection is cut after it."""
_END_STREAM, _END_HEADERS = 1, 4
_ON_CONNECTION = {SETTINGS, PING, GOAWAY}


def http2_headers(fields: Mapping[str, str], *, last: bool) -> Frame:
    """Make a HEADERS frame, every field a literal that is not indexed."""
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return Frame(HEADERS, _END_HEADERS | (_END_STREAM if last else 0), block)


_GRPC_SUCCESS = (
    http2_headers({":status": "200", "content-type": "application/grpc"}, last=False),
    Frame(DATA, 0, bytes(5)),
    http2_headers({"grpc-status": "0"}, last=True),
)


class WireReceiver(Receiver):
    """A gRPC backend for log records, made of single HTTP/2 frames.

    ``frames`` are the answers to the first calls; an empty one cuts the connection. Then success.
    """

    def __init__(self, frames: Iterable[tuple[Frame, ...]] = ()) -> None:
        super().__init__()
        self._frames = iter(frames)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        super().close()
        for one in (self._listener, *self._connections):
            with suppress(OSError):  # it may have gone by itself
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._connections.append(connection)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        messages: dict[int, bytes] = {}
        try:
            with connection, connection.makefile("rb") as stream:
                stream.read(24)  # the client's preface
                _send(connection, Frame(SETTINGS, 0, b""), 0)
                while header := stream.read(9):
                    payload = stream.read(int.from_bytes(header[:3], "big"))
                    kind, flags, number = header[3], header[4], int.from_bytes(header[5:], "big")
                    if kind in {SETTINGS, PING} and not flags:
                        _send(connection, Frame(kind, 1, b"" if kind == SETTINGS else payload), 0)
                    if kind == DATA:
                        messages[number] = messages.get(number, b"") + payload
                    if kind == DATA and flags & _END_STREAM and not self._reply(connection, number, messages[number]):
                        return
        except OSError:
            pass  # clients that go away in the middle are what the tests are about

    def _reply(self, connection: socket.socket, stream: int, message: bytes) -> bool:
        frames = next(self._frames, _GRPC_SUCCESS)
        self._take(Signal.LOGS, message[5:], {})
        for frame in frames:
            self._closing.wait(frame.after_s)
            _send(connection, frame, stream)
        return bool(frames) and frames[-1] != HANG_UP


def _send(connection: socket.socket, frame: Frame, stream: int) -> None:
    number = 0 if frame.kind in _ON_CONNECTION else stream
    head = len(frame.payload).to_bytes(3, "big") + bytes([frame.kind, frame.flags]) + number.to_bytes(4, "big")
    connection.sendall(head + frame.payload)


def _record_ids(signal: Signal, body: bytes) -> Iterator[str]:
    if signal is Signal.LOGS:
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            for scope in resource.scope_logs:
                of_attempts = (one for one in scope.log_records if not one.event_name.startswith("otel_connect.agent."))
                yield from (_event_id(record.attributes) for record in of_attempts)
    elif signal is Signal.TRACES:
        for span_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for span_scope in span_resource.scope_spans:
                yield from (_event_id(span.attributes) for span in span_scope.spans)
    else:
        for metric_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric_scope in metric_resource.scope_metrics:
                for metric in metric_scope.metrics:
                    points = getattr(metric, metric.WhichOneof("data") or "gauge").data_points
                    yield from (metric.name for _ in points)


def _event_id(attributes: Iterable[KeyValue]) -> str:
    return next((one.value.string_value for one in attributes if one.key == "otel_connect.event.id"), "")


class Certificates(NamedTuple):
    """PEM files for one test authority; the server's are for 127.0.0.1 and localhost."""

    authority: Path
    authority_key: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    stranger: Path
    """An authority that signed none of these."""


def make_certificates(directory: Path) -> Certificates:
    """Make fresh certificates with the openssl command."""
    name = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    authority, authority_key = _certificate(directory, "authority", "basicConstraints=critical,CA:TRUE")
    stranger, _ = _certificate(directory, "stranger", "basicConstraints=critical,CA:TRUE")
    server = _certificate(directory, "server", name, authority, authority_key)
    client = _certificate(directory, "client", "extendedKeyUsage=clientAuth", authority, authority_key)
    return Certificates(authority, authority_key, *server, *client, stranger)


def signed_certificate(certificates: Certificates, directory: Path, *, names: str, days: int) -> ServerTls:
    """Have the authority sign another server's certificate; with negative ``days`` it has expired."""
    certificate, key, asked = (directory / f"other.{kind}" for kind in ("pem", "key", "csr"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ask = ["openssl", "req", "-new", *curve, "-subj", "/CN=other", "-addext", f"subjectAltName={names}"]
    subprocess.run([*ask, "-out", asked, "-keyout", key], check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-copy_extensions", "copy", "-days", str(days)]
    signer: list[str | Path] = ["-CA", certificates.authority, "-CAkey", certificates.authority_key]
    subprocess.run([*sign, *signer, "-in", asked, "-out", certificate], check=True, capture_output=True)
    return ServerTls(certificate, key)


def _certificate(directory: Path, name: str, extension: str, *authority: Path) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += [
        "-subj",
        f"/CN={name}",
        "-days",
        "1",
        "-addext",
        extension,
        "-out",
        certificate,
        "-keyout",
        key,
    ]
    if authority:
        command += [
            "-CA",
            authority[0],
            "-CAkey",
            authority[1],
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
