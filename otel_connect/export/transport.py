"""The two ways to a backend: one call sends one request and gives the judged answer.

``send`` never raises. What the libraries raise is translated here: a certificate that does not verify is
an operator's matter, everything else that stops a request on its way is worth a retry.
"""

import gzip
import logging
import re
import ssl
import time
from collections.abc import Callable
from http.client import BadStatusLine
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol, cast

import grpc
import requests
import urllib3

import otel_connect
from otel_connect import config
from otel_connect.errors import ConfigError
from otel_connect.export.answer import (
    Action,
    Answer,
    from_grpc_response,
    from_grpc_status,
    from_http,
    printable,
)
from otel_connect.export.causes import HTTP2_ANSWER, NO_ANSWER, NO_CONNECTION, NO_HANDSHAKE, explained
from otel_connect.export.endpoint import Endpoint
from otel_connect.export.exchange import PunctualAdapter
from otel_connect.export.tls import Stamp, channel_credentials, client_context, has_files, stamp
from otel_connect.model import Signal

_log = logging.getLogger(__name__)

USER_AGENT = f"OTel-OTLP-Exporter-otel-connect/{otel_connect.__version__}"
LONGEST_ANSWER = 4 << 20
"""Bytes of an answer that are read, after decompression."""

_CHUNK = 1 << 16
_SETTINGS = re.compile("\0\0.\4", re.DOTALL)  # the frame of HTTP/2 that a server sends first
_METHODS = {
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}


class Transport(Protocol):
    """A way to one endpoint."""

    def send(self, body: bytes) -> Answer:
        """Send one serialized request and judge the answer; never raises."""

    def close(self) -> None:
        """Let the connection go; a call that is under way may be cancelled."""


def open_transport(endpoint: Endpoint) -> Transport:
    """Prepare the way; nothing is connected yet. Raises ConfigError for files that cannot be used.

    Certificates that change on disk are taken up with the next request.
    """
    return Renewing(endpoint, _open_once) if has_files(endpoint) else _open_once(endpoint)


def _open_once(endpoint: Endpoint) -> Transport:
    return GrpcTransport(endpoint) if endpoint.protocol is config.Protocol.GRPC else HttpTransport(endpoint)


class Renewing:
    """A way whose certificates are looked at before each request, and that is opened anew when they have changed.

    Files that cannot be used, perhaps because they are being written, leave it as it is; that is said once
    until they can.
    """

    def __init__(self, endpoint: Endpoint, opener: Callable[[Endpoint], Transport]) -> None:
        self._endpoint = endpoint
        self._opener = opener
        self._stamp = stamp(endpoint)
        self._inner = opener(endpoint)
        self._warned = False

    def send(self, body: bytes) -> Answer:
        """Send with the latest certificates that are usable."""
        if (now := stamp(self._endpoint)) != self._stamp:
            self._renew(now)
        return self._inner.send(body)

    def close(self) -> None:
        """Let the connection go."""
        self._inner.close()

    def _renew(self, now: Stamp) -> None:
        try:
            fresh = self._opener(self._endpoint)
        except ConfigError as error:
            if not self._warned:
                _log.warning("%s: the old certificates stay in use: %s", self._endpoint.signal, error.problems[0])
            self._warned = True
            return
        if stamp(self._endpoint) != now:  # they changed while they were read: perhaps not all are of one kind
            fresh.close()
            return
        self._inner.close()
        self._inner, self._stamp = fresh, now
        _log.info("%s: the certificates have changed and are in use", self._endpoint.signal)
        self._warned = False


class _PinnedAdapter(PunctualAdapter):
    """TLS as its context says, and no file is read for a connection; requests would read them each time."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> urllib3.PoolManager:
        return super().proxy_manager_for(*arguments, ssl_context=self._context, **options)

    def build_connection_pool_key_attributes(self, *arguments: Any, **options: Any) -> Any:
        host, _ = super().build_connection_pool_key_attributes(*arguments, **options)
        return host, {"cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, *_arguments: Any, **_options: Any) -> None:
        """Nothing is to be set on the connection."""


class HttpTransport:
    """OTLP over HTTP, with the proxies of the environment as requests takes them.

    The timeout bounds the whole exchange, from connecting to the last byte of the answer. Redirects are not
    followed: that would carry the credentials to whoever the answer names.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session = requests.Session()
        self._session.mount("http://", PunctualAdapter())
        pinned = has_files(endpoint)
        self._session.mount("https://", _PinnedAdapter(client_context(endpoint)) if pinned else PunctualAdapter())
        # Without this, requests replaces the configured Authorization by an entry of ~/.netrc.
        self._session.auth = lambda request: request
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._headers = {
            "User-Agent": USER_AGENT,
            **endpoint.headers,
            "Content-Type": "application/x-protobuf",
        }
        if endpoint.compression is config.Compression.GZIP:
            self._headers["Content-Encoding"] = "gzip"

    def send(self, body: bytes) -> Answer:
        """Post one request and judge the response."""
        return explained(self._try(body), self._endpoint)

    def _try(self, body: bytes) -> Answer:
        try:
            return self._post(body)
        except requests.exceptions.SSLError as error:
            return Answer(Action.RETRY_UNHEALTHY, message=f"TLS failed: {_root_cause(error)}")
        except requests.exceptions.ProxyError as error:
            return Answer(Action.RETRY, message=f"the proxy of the environment: {_root_cause(error)}")
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            return Answer(Action.RETRY, message=_what_failed(error))
        except requests.exceptions.ChunkedEncodingError as error:
            return Answer(Action.RETRY, message=f"answer cut off: {_root_cause(error)}")
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            # What requests refuses to send, or a certificate that went away since the start.
            return Answer(Action.RETRY_UNHEALTHY, message=f"cannot be sent: {_root_cause(error)}")

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _post(self, body: bytes) -> Answer:
        endpoint = self._endpoint
        if endpoint.compression is config.Compression.GZIP:
            body = gzip.compress(body, compresslevel=6, mtime=0)
        with self._session.post(
            endpoint.url,
            data=body,
            headers=self._headers,
            timeout=urllib3.Timeout(total=endpoint.timeout_s),  # type: ignore[arg-type]  # documented, not in the stubs
            allow_redirects=False,
            stream=True,
        ) as response:
            content = _read(response)
            return from_http(endpoint.signal, response.status_code, response.headers, content, time.time())


def _read(response: requests.Response) -> bytes | None:
    """Read the body; ``None`` when it is too large or badly encoded. Late or broken: as requests raises.

    After an error status the body only explains, so it may be missing; after a success it decides.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        for chunk in response.iter_content(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > LONGEST_ANSWER:
                return None
    except requests.exceptions.ContentDecodingError:
        return None
    except requests.exceptions.RequestException:
        if response.ok:
            raise
        return None
    return b"".join(chunks)


def _what_failed(error: requests.exceptions.RequestException) -> str:
    """Tell failures apart for which the libraries have the same words, or none that help."""
    root = _root(error)
    if isinstance(root, TimeoutError | urllib3.exceptions.TimeoutError):
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return NO_CONNECTION
        return NO_HANDSHAKE if "handshake" in str(root) else NO_ANSWER
    if isinstance(root, BadStatusLine) and _SETTINGS.match(str(root)):
        return HTTP2_ANSWER
    return _root_cause(error)


def _root_cause(error: BaseException) -> str:
    """Find the words of the system under the layers of requests and urllib3."""
    error = _root(error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # urllib3 puts the representation of its connection in front.
    return printable(re.sub(r"^<?[\w.]*(?:Connection|Pool)\S*\(.*?\)>?: ", "", text)) or type(error).__name__


def _root(error: BaseException) -> BaseException:
    seen = 0
    while (inner := _inner(error)) is not None and seen < 10:
        error, seen = inner, seen + 1
    return error


def _inner(error: BaseException) -> BaseException | None:
    candidates = (getattr(error, "reason", None), *error.args[::-1], error.__cause__, error.__context__)
    return next((one for one in candidates if isinstance(one, BaseException)), None)


class GrpcTransport:
    """OTLP over gRPC; the timeout is the deadline of the whole call.

    Retries and long reconnect pauses of the library are off, because
    the sender's own backoff decides when to try again.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = tuple(endpoint.headers.items())
        target = f"dns:///{endpoint.url.partition('://')[2]}"
        options = (
            ("grpc.primary_user_agent", USER_AGENT),
            ("grpc.max_receive_message_length", LONGEST_ANSWER),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        )
        gzipped = endpoint.compression is config.Compression.GZIP
        compression = grpc.Compression.Gzip if gzipped else grpc.Compression.NoCompression
        if endpoint.secure:
            self._channel = grpc.secure_channel(target, channel_credentials(endpoint), options, compression)
        else:
            self._channel = grpc.insecure_channel(target, options, compression)
        # Without serializers the library passes bytes through.
        self._export = self._channel.unary_unary(
            _METHODS[endpoint.signal], request_serializer=None, response_deserializer=None
        )

    def send(self, body: bytes) -> Answer:
        """Make one call and judge its end."""
        try:
            response: bytes = self._export(body, timeout=self._endpoint.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            return explained(_grpc_failure(error), self._endpoint)
        except ValueError as error:  # the channel is closed
            return Answer(Action.RETRY, message=printable(str(error)))
        return from_grpc_response(self._endpoint.signal, response)

    def close(self) -> None:
        """Close the channel; a call under way ends as cancelled."""
        self._channel.close()


def _grpc_failure(error: grpc.RpcError) -> Answer:
    # What a call raises is the call itself, though the library's types do not say so.
    call = cast("grpc.Call", error)
    code: int = call.code().value[0]
    status = dict(call.trailing_metadata() or ()).get("grpc-status-details-bin")
    return from_grpc_status(code, call.details() or "", status if isinstance(status, bytes) else None)
