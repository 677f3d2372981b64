"""The two ways to a backend: one call sends one request and gives the judged answer.

``send`` never raises. What the libraries raise is translated here: a certificate that does not verify is
an operator's matter, everything else that stops a request on its way is worth a retry.
"""

import gzip
import logging
import re
import time
from collections.abc import Callable, Iterator
from http.client import BadStatusLine, LineTooLong
from typing import Protocol

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    InvalidHeader,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.util import make_headers, parse_url

from otel_connect import config
from otel_connect.errors import ConfigError
from otel_connect.export.answer import LONGEST_ANSWER, Action, Answer, from_http, printable
from otel_connect.export.causes import (
    CUT_HANDSHAKE,
    HTTP2_ANSWER,
    NO_ANSWER,
    NO_CONNECTION,
    NO_HANDSHAKE,
    NO_HTTP,
    TLS_ANSWER,
    explained,
)
from otel_connect.export.endpoint import USER_AGENT, Endpoint
from otel_connect.export.exchange import HandshakeCutError, open_pool
from otel_connect.export.lines import ANY_HANDLER
from otel_connect.export.proxies import proxy_of
from otel_connect.export.tls import Stamp, client_context, has_files, stamp, usual_context

_log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_FIRST_BYTES = (
    (re.compile("\0\0.\4", re.DOTALL), HTTP2_ANSWER),  # the frame of SETTINGS that a server sends first
    (re.compile("\x15\3"), TLS_ANSWER),  # an alert
    (re.compile("(?!HTTP/)"), NO_HTTP),
)


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
    if endpoint.protocol is config.Protocol.GRPC:
        from otel_connect.export.grpc_transport import GrpcTransport  # noqa: PLC0415 - 8 MiB, for those who speak gRPC

        return GrpcTransport(endpoint)
    return HttpTransport(endpoint)


class Renewing:
    """A way whose certificates are looked at before each request, and that is opened again when they have changed.

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
                with ANY_HANDLER:
                    _log.warning("%s: the old certificates stay in use: %s", self._endpoint.signal, error.problems[0])
            self._warned = True
            return
        if stamp(self._endpoint) != now:  # they changed while they were read: perhaps not all are of one kind
            fresh.close()
            return
        self._inner.close()
        self._inner, self._stamp = fresh, now
        self._warned = False
        with ANY_HANDLER:
            _log.info("%s: the certificates have changed and are in use", self._endpoint.signal)


class HttpTransport:
    """OTLP over HTTP, by the proxies of the environment.

    The timeout bounds the whole exchange, from connecting to the last byte of the answer. Redirects are not
    followed: that would carry the credentials to whoever the answer names.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = client_context(endpoint) if endpoint.secure else None
        self._pools: dict[str | None, urllib3.HTTPConnectionPool] = {}
        self._headers = {
            **make_headers(keep_alive=True, accept_encoding=True, user_agent=USER_AGENT),
            "accept": "*/*",
            **endpoint.headers,
            "content-type": "application/x-protobuf",
        }
        if endpoint.compression is config.Compression.GZIP:
            self._headers["content-encoding"] = "gzip"

    def send(self, body: bytes) -> Answer:
        """Post one request and judge the response."""
        return explained(self._try(body), self._endpoint)

    def _try(self, body: bytes) -> Answer:
        try:
            return self._post(body)
        except SSLError as error:
            return Answer(Action.RETRY_UNHEALTHY, message=f"TLS failed: {_root_cause(error)}")
        except ProxyError as error:
            return Answer(Action.RETRY, message=f"the proxy of the environment: {_root_cause(error)}")
        except (OSError, ValueError, InvalidHeader) as error:  # such as a proxy whose URL cannot be used
            return Answer(Action.RETRY_UNHEALTHY, message=f"cannot be sent: {_root_cause(error)}")
        except HTTPError as error:
            return Answer(Action.RETRY, message=_what_failed(error))

    def close(self) -> None:
        """Close the connection."""
        while self._pools:
            self._pools.popitem()[1].close()

    def _post(self, body: bytes) -> Answer:
        endpoint = self._endpoint
        if endpoint.compression is config.Compression.GZIP:
            body = gzip.compress(body, compresslevel=6, mtime=0)
        pool = self._pool()
        response = pool.urlopen(
            "POST",
            # A proxy that is not to be a tunnel takes the whole URL.
            endpoint.url if pool.proxy and not endpoint.secure else parse_url(endpoint.url).request_uri,
            body,
            self._headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(total=endpoint.timeout_s),
            preload_content=False,
        )
        try:
            content = _read(response)
        except ProtocolError as error:
            return Answer(Action.RETRY, message=f"answer cut off: {_root_cause(error)}")
        finally:
            response.release_conn()
        return from_http(endpoint.signal, response.status, dict(response.headers), content, time.time())

    def _pool(self) -> urllib3.HTTPConnectionPool:
        proxy = proxy_of(self._endpoint.url)
        if proxy not in self._pools:
            to_proxy = usual_context() if proxy is not None and proxy.startswith("https:") else None
            self._pools[proxy] = open_pool(self._endpoint.url, self._context, proxy, to_proxy)
        return self._pools[proxy]


def _read(response: urllib3.BaseHTTPResponse) -> bytes | None:
    """Read the body; ``None`` when it is too large or badly encoded. Late or broken: as urllib3 raises.

    After an error status the body only explains, so it may be missing; after a success it decides.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        for chunk in response.stream(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > LONGEST_ANSWER:
                response.close()
                return None
    except DecodeError:
        return None
    except HTTPError:
        if response.status < 400:
            raise
        return None
    return b"".join(chunks)


def _what_failed(error: HTTPError) -> str:
    """Tell failures apart for which the libraries have the same words, or none that help."""
    root = _root(error)
    if isinstance(root, TimeoutError | urllib3.exceptions.TimeoutError):
        if isinstance(error, ConnectTimeoutError):
            return NO_CONNECTION
        return NO_HANDSHAKE if "handshake" in str(root) else NO_ANSWER
    if any(isinstance(one, HandshakeCutError) for one in _chain(error)):
        return CUT_HANDSHAKE
    if isinstance(root, LineTooLong) and "status line" in str(root):
        return NO_HTTP
    if isinstance(root, BadStatusLine) and not isinstance(root, ConnectionError):
        spoken = (name for first, name in _FIRST_BYTES if first.match(str(root)))
        return next(spoken, _root_cause(error))
    return _root_cause(error)


def _root_cause(error: BaseException) -> str:
    """Find the words of the system under the layers of urllib3."""
    error = _root(error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # urllib3 puts the representation of its connection in front.
    return printable(re.sub(r"^<?[\w.]*(?:Connection|Pool)\S*\(.*?\)>?: ", "", text)) or type(error).__name__


def _root(error: BaseException) -> BaseException:
    *_, root = _chain(error)
    return root


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = _inner(error)


def _inner(error: BaseException) -> BaseException | None:
    candidates = (getattr(error, "reason", None), *error.args[::-1], error.__cause__, error.__context__)
    return next((one for one in candidates if isinstance(one, BaseException)), None)
