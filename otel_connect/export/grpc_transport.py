"""OTLP over gRPC: one call sends one request and gives the judged answer."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import cast
from urllib.parse import unquote, urlsplit

import grpc

from otel_connect.config import Compression
from otel_connect.export.answer import (
    LONGEST_ANSWER,
    Action,
    Answer,
    from_grpc_response,
    from_grpc_status,
    printable,
)
from otel_connect.export.causes import explained
from otel_connect.export.endpoint import USER_AGENT, Endpoint
from otel_connect.export.tls import read_files
from otel_connect.model import Signal

_METHODS = {
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
_REFUSED = re.compile(r"all addresses.* (ipv[46]:\S+): .*Connection refused")


class GrpcTransport:
    """The way to one endpoint; the timeout is the deadline of the whole call.

    Retries and long reconnect pauses of the library are off, because
    the sender's own backoff decides when to try again.

    Of several addresses that fail, the library names the one that failed last, which differs from call to call. One
    that refuses connections says nothing about the others: those are asked one by one before a refusal is believed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = tuple(endpoint.headers.items())
        self._credentials = _credentials(endpoint) if endpoint.secure else None
        self._lock = threading.Lock()
        self._closed = False
        self._channel = self._open(f"dns:///{endpoint.place}")
        self._detour: grpc.Channel | None = None

    def send(self, body: bytes) -> Answer:
        """Make one call and judge its end."""
        deadline = time.monotonic() + self._endpoint.timeout_s
        answer = self._call(self._channel, body, deadline)
        if (refused := _REFUSED.search(answer.message)) is not None:
            others = (one for one in _addresses(self._endpoint) if one != unquote(refused[1]))
            answers = (self._ask(one, body, deadline) for one in others)
            answer = next((one for one in answers if _REFUSED.search(one.message) is None), answer)
        return explained(answer, self._endpoint)

    def close(self) -> None:
        """Close the channel; a call under way ends as cancelled."""
        with self._lock:
            self._closed = True
            detour = self._detour
        self._channel.close()
        if detour is not None:
            detour.close()

    def _open(self, target: str) -> grpc.Channel:
        endpoint = self._endpoint
        options = (
            ("grpc.primary_user_agent", USER_AGENT),
            ("grpc.max_receive_message_length", LONGEST_ANSWER),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.default_authority", endpoint.place),  # whose certificate is expected, also at an address
        )
        gzipped = endpoint.compression is Compression.GZIP
        compression = grpc.Compression.Gzip if gzipped else grpc.Compression.NoCompression
        if self._credentials is not None:
            return grpc.secure_channel(target, self._credentials, options, compression)
        return grpc.insecure_channel(target, options, compression)

    def _ask(self, address: str, body: bytes, deadline: float) -> Answer:
        """Make the call to one address."""
        with self._lock:
            if self._closed:
                return Answer(Action.RETRY, message="closed")
            self._detour = self._open(address)
        try:
            return self._call(self._detour, body, deadline)
        finally:
            self._detour.close()

    def _call(self, channel: grpc.Channel, body: bytes, deadline: float) -> Answer:
        try:
            # Without serializers the library passes bytes through.
            export = channel.unary_unary(
                _METHODS[self._endpoint.signal], request_serializer=None, response_deserializer=None
            )
            timeout_s = max(deadline - time.monotonic(), 0.0)
            response: bytes = export(body, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            return _grpc_failure(error)
        except ValueError as error:  # the channel is closed
            return Answer(Action.RETRY, message=printable(str(error)))
        return from_grpc_response(self._endpoint.signal, response)


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials:
    """Read the files; without an own authority those of the library are trusted. Raises ConfigError."""
    roots, chain, key = read_files(endpoint)
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)


def _addresses(endpoint: Endpoint) -> Iterator[str]:
    """Give the addresses of the server as the library writes them."""
    try:
        found = socket.getaddrinfo(urlsplit(endpoint.url).hostname, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return
    for family, _, _, _, address in found:
        host = str(address[0])
        yield f"ipv6:[{host}]:{endpoint.port}" if family == socket.AF_INET6 else f"ipv4:{host}:{endpoint.port}"


def _grpc_failure(error: grpc.RpcError) -> Answer:
    # What a call raises is the call itself, though the library's types do not say so.
    call = cast("grpc.Call", error)
    code: int = call.code().value[0]
    status = dict(call.trailing_metadata() or ()).get("grpc-status-details-bin")
    return from_grpc_status(code, call.details() or "", status if isinstance(status, bytes) else None)
