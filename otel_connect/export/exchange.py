"""HTTP exchanges that end in time, with answers that are whole.

Three habits of the standard library's HTTP client would cost us dearly. Its timeout starts again with every
byte, so an answer that trickles in holds the caller for as long as it likes. And an answer that is cut within
its headers passes for a complete one: a dying proxy's ``200 OK`` with nothing behind it would be a success.
Here one deadline holds for the whole answer, and the end of the connection within the headers is an error.

What a server says before it resets the connection is worth more than the reset: a gRPC server greets every client
so. The client would raise the reset and lose the greeting.

And it writes by the number of a descriptor, which an application that closes what it does not know may have given to
a file of its own.
"""

import io
import socket
import ssl
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import make_headers, parse_url

from otel_connect.export.descriptors import Descriptor


class _Punctual(io.RawIOBase):
    """The receiving side of a connection, until a time; the time left is the timeout the socket has now."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb", buffering=0)
        timeout_s = connection.gettimeout()
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._started = False
        self.in_headers = True
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(left_s)
        try:
            size = self._stream.readinto(buffer)
        except ConnectionError:
            # In the headers an end is as much of an error, and does not hide what came before it.
            if not (self._started and self.in_headers):
                raise
            size = 0
        self._started = True
        self.ended = size == 0
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self._incoming = _Punctual(sock)
        self.fp = io.BufferedReader(self._incoming)

    def begin(self) -> None:
        super().begin()
        if self._incoming.ended:
            raise HTTPException("the answer was cut in its headers")
        self._incoming.in_headers = False


class _Wary(HTTPConnection):
    """Leaves a descriptor alone that the application has closed: its number may be one of the application's own."""

    response_class = _Answer
    _descriptor: Descriptor | None = None

    def connect(self) -> None:
        """Connect, and remember what the descriptor leads to."""
        super().connect()
        self._descriptor = Descriptor(self.sock.fileno())

    @property
    def is_connected(self) -> bool:
        """Whether the next request can go this way."""
        self._disown()
        return super().is_connected

    def close(self) -> None:
        """Close the connection."""
        self._disown()
        super().close()

    def _disown(self) -> None:
        if self.sock is not None and self._descriptor is not None and not self._descriptor.ours:
            self.sock.detach()
            self.sock = None


class _Connection(_Wary):
    pass


class HandshakeCutError(ConnectionError):
    """The server closed the connection during the TLS handshake."""


class _SecureConnection(_Wary, HTTPSConnection):
    def connect(self) -> None:
        """Connect, and tell an end of the connection during the handshake from all others."""
        try:
            super().connect()
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            if self.proxy is not None:  # which may have closed it before the handshake
                raise
            raise HandshakeCutError from error


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def open_pool(
    url: str, context: ssl.SSLContext | None, proxy: str | None, proxy_context: ssl.SSLContext | None
) -> urllib3.HTTPConnectionPool:
    """Prepare connections in which the total timeout is one, also by a proxy; nothing is connected yet.

    Credentials in the URL of the proxy are for the proxy. Raises ValueError for a proxy that cannot be used.
    """
    if proxy is None:
        pools = urllib3.PoolManager(ssl_context=context)
    else:
        user, separator, password = (parse_url(proxy).auth or "").partition(":")
        headers = make_headers(proxy_basic_auth=f"{unquote(user)}:{unquote(password)}" if separator else None)
        pools = urllib3.ProxyManager(proxy, proxy_headers=headers, proxy_ssl_context=proxy_context, ssl_context=context)
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pools.connection_from_url(url)
