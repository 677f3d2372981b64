"""The status server: four pages, in a thread of its own, that only read the latest report.

The loop is never asked and never waits. Whoever can reach the socket may be hostile: there is GET only, a Host
header that a web page could have made resolve to here is refused, and connections are bounded in number, time
and size.
"""

import asyncio
import ipaddress
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from otel_connect.serve.exposition import page
from otel_connect.serve.listener import SERVER, Listener
from otel_connect.serve.report import Report, not_ready, status_document, stuck_for_s

_log = logging.getLogger(__name__)

_CONNECTIONS = 32
_CONNECTION_S = 10.0
"""From the first byte to the last; a scraper opens another one."""
_HEAD_BYTES = 8192
_HEADERS = {
    "Server": SERVER,
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

Page = Callable[[Request], Awaitable[Response]]


class StatusServer:
    """Serves the latest report on a listener until it is closed; ``clock`` gives monotonic seconds."""

    def __init__(self, listener: Listener, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._report = report
        self._clock = clock
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it says, clients decide
        configuration = uvicorn.Config(
            _Guard(self._application(), listener.address.host),
            http=_BoundedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        self._server = _CalmServer(configuration)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener.socket]}, name="status-server", daemon=True
        )
        self._thread.start()

    @property
    def listener(self) -> Listener:
        """Where it listens."""
        return self._listener

    def publish(self, report: Report) -> None:
        """Take the report that is served from now on."""
        self._report = report

    def close(self) -> None:
        """Stop serving and listening; waits two seconds at the most."""
        self._server.stop()
        self._thread.join(2.0)
        self._listener.close()

    def _application(self) -> Starlette:
        routes = {"/livez": self._livez, "/readyz": self._readyz, "/status": self._status, "/metrics": self._metrics}
        hint = f"there is nothing here; the pages are {', '.join(routes)}"

        async def absent(_request: Request, _error: Exception) -> Response:
            return _text(404, hint)

        application = Starlette(
            routes=[Route(path, _safely(answer), methods=["GET"]) for path, answer in routes.items()],
            exception_handlers={404: absent},
        )
        application.router.redirect_slashes = False
        return application

    def _livez(self, _request: Request) -> Response:
        stuck = stuck_for_s(self._report, self._clock())
        return _text(200, "ok") if stuck is None else _text(503, f"the loop has not gone round for {stuck:.0f} s")

    def _readyz(self, _request: Request) -> Response:
        reason = not_ready(self._report)
        return _text(200, "ok") if reason is None else _text(503, reason)

    def _status(self, _request: Request) -> Response:
        return JSONResponse(status_document(self._report, self._clock()), headers=_HEADERS)

    def _metrics(self, request: Request) -> Response:
        body, content_type = page(self._report.metrics, request.headers.get("accept", ""))
        return Response(body, headers=_HEADERS | {"Content-Type": content_type})


class _CalmServer(uvicorn.Server):
    """Looks around once a second rather than ten times: the rest is a tenth of a second of CPU each minute."""

    _loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """End ``run``; to be called by another thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)


class _Guard:
    """Refuses what is none of the server's business before anything looks at it."""

    def __init__(self, application: ASGIApp, host: str) -> None:
        self._application = application
        self._host = host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._application
        if scope["method"] != "GET":
            answer = _text(405, "only GET is answered here", Allow="GET")
        elif not self._known(Request(scope).headers.getlist("host")):
            answer = _text(403, "this Host is not served here: use an address, or localhost")
        await answer(scope, receive, send)

    def _known(self, hosts: list[str]) -> bool:
        """Say whether a browser cannot have been led here by a name: an address cannot be made another place's."""
        return all(_is_address(name := _without_port(host)) or name in {"localhost", self._host} for host in hosts)


class _BoundedProtocol(H11Protocol):
    """Ends every connection after its time; when there are too many, the oldest goes for the newest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        open_ones: set[Any] = self.connections
        if len(open_ones) >= _CONNECTIONS:
            min(open_ones, key=lambda each: each.ends.when()).transport.abort()
        super().connection_made(transport)
        self.ends = self.loop.call_later(_CONNECTION_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.cancel()
        super().connection_lost(exc)


def _safely(answer: Callable[[Request], Response]) -> Page:
    async def guarded(request: Request) -> Response:
        try:
            return answer(request)
        except Exception as error:  # noqa: BLE001 - a page may fail, the server must not
            _log.warning("%s could not be made (%r); please report this", request.url.path, error)
            return _text(500, "this page could not be made")

    return guarded


def _text(status: int, line: str, **headers: str) -> Response:
    return PlainTextResponse(line + "\n", status, headers=_HEADERS | headers)


def _without_port(host: str) -> str:
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if ":" in name else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
