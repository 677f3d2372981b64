"""The room's front door: requests in, OTLP out, every record accounted for."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from pathlib import Path
from random import random as system_random

from otel_connect.config import ExportConfig
from otel_connect.errors import ConfigError
from otel_connect.export.age import Ages
from otel_connect.export.dead_letters import DeadLetters
from otel_connect.export.delay import DelayHistogram, Delays
from otel_connect.export.endpoint import Endpoint, resolve
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.export.recovery import open_disk
from otel_connect.export.sender import DEFAULT_BACKOFF, Backoff, Health, Route, Sender, Tools
from otel_connect.export.split import fit
from otel_connect.export.spool import Limits, Loss, Spool, SpoolState
from otel_connect.export.store import Opened
from otel_connect.export.transport import Transport, open_transport
from otel_connect.export.troubles import Troubles
from otel_connect.model import Request, Signal

_log = logging.getLogger(__name__)

_WORDS = {
    Reason.TOO_LARGE: "one record is larger than a request may be (export.request_bytes, or half of what may wait)",
    Reason.QUEUE_FULL: "memory is full (export.queue_bytes): the backend does not keep up",
    Reason.SPOOL_FULL: "the spool is full (export.spool_bytes), or the disk is: the backend does not keep up",
    Reason.SPOOL_IO: "the disk cannot be written, and memory is full (export.queue_bytes)",
    Reason.SHUTDOWN: "they came after the end",
}
"""Why records are lost before they could be sent."""


class OtlpExporter:
    """Delivers requests to the configured endpoints, at least once from the moment ``put`` returns.

    Opens the spool and starts the sending threads; nothing is connected before the first request. Raises
    ConfigError with every problem of the endpoints, also when none is configured, SpoolInUseError when
    another process holds the spool directory, and RuntimeError when no thread can be started. The threads run
    in copies of ``context``.
    ``silent`` leaves it to the caller to say what is left when it is closed.

    A child made by fork must neither use nor collect its parent's exporter.
    """

    def __init__(
        self,
        config: ExportConfig,
        *,
        backoff: Backoff = DEFAULT_BACKOFF,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        random: Callable[[], float] = system_random,
        opener: Callable[[Endpoint], Transport] = open_transport,
        disk: Callable[[Path], Opened] = open_disk,
        look_every_s: float = 10.0,
        context: Context | None = None,
        silent: bool = False,
    ) -> None:
        self._silent = silent
        self._opener = opener
        self._clock = clock
        self._config = config
        routes = self._routes(config)
        self.ledger = Ledger()
        self._delays = DelayHistogram()
        directory = Path(config.spool_directory) if config.spool_directory else None
        try:
            self._spool = Spool(
                self.ledger,
                _limits(config),
                None if directory is None else partial(disk, directory),
                ages=Ages(clock, wall_ns),
                clock=clock,
                look_every_s=look_every_s,
            )
        except BaseException:
            _hang_up(routes)
            raise
        letters = None if directory is None else DeadLetters(directory)
        tools = Tools(self._spool, self._delays, letters, Troubles(), backoff, clock, random, context or Context())
        self._request_bytes = _request_bytes(config)
        try:
            self._senders = {signal: Sender(signal, route, tools) for signal, route in routes.items()}
        except BaseException:  # no thread can be started, for one
            self._spool.close()
            _hang_up(routes)
            raise

    def put(self, request: Request) -> int:
        """Take a request: it is on the medium when this returns, or in memory while the disk is in trouble.

        Returns how many of its records that is; the others are counted as lost. Never waits for the backend, and never
        raises because there is no room. What is larger than ``request_bytes`` is split first, and a single record that
        still is, dropped as too large.
        """
        kept = request.records
        for part in fit(request, self._request_bytes):
            for loss in self._put(part):
                self._senders[loss.signal].say_lost(loss.reason, loss.records, _WORDS[loss.reason])
                kept -= loss.records if loss.new else 0
        return kept

    def _put(self, part: Request) -> Sequence[Loss]:
        if len(part.body) <= self._request_bytes:
            return self._spool.put(part)
        self.ledger.accept(part.signal, part.records)
        self.ledger.drop(part.signal, Reason.TOO_LARGE, part.records)
        return [Loss(part.signal, Reason.TOO_LARGE, part.records, new=True)]

    def accounts(self) -> Mapping[Signal, Account]:
        """Say where the records of each signal are."""
        return self.ledger.snapshot()

    def health(self) -> Mapping[Signal, Health]:
        """Tell for each signal how delivery is going."""
        return {signal: sender.health for signal, sender in self._senders.items()}

    def spool_state(self) -> SpoolState:
        """Say what waits, for how long, and whether the disk is in trouble."""
        return self._spool.state()

    def delays(self) -> Mapping[Signal, Delays]:
        """Tell how long the records that arrived had waited; the boundaries are ``delay.BOUNDARIES_S``."""
        return self._delays.snapshot()

    def reconfigure(self, config: ExportConfig) -> None:
        """Use other endpoints, headers, timeouts, sizes and limits from the next request on; nothing is lost.

        Raises ConfigError, and changes nothing, when the configuration cannot be used; the spool's
        directory cannot be changed.
        """
        if config.spool_directory != self._config.spool_directory:
            raise ConfigError(["export.spool_directory: cannot be changed while the agent runs; restart it"])
        routes = self._routes(config)
        self._config = config
        self._request_bytes = _request_bytes(config)
        self._spool.limit(_limits(config))
        for signal, route in routes.items():
            self._senders[signal].redirect(route)

    def close(self, timeout_s: float) -> None:
        """Send what waits until the time is up; the rest stays on disk, or is counted as lost by shutdown."""
        deadline = self._clock() + timeout_s
        for sender in self._senders.values():
            sender.finish(deadline)
        for sender in self._senders.values():
            sender.join(deadline)
        lost = self._spool.close()
        for sender in self._senders.values():
            sender.hang_up()
        if self._silent:
            return
        if any(lost.values()):
            _log.warning("dropped %d records (shutdown): they waited in memory, not on a disk", sum(lost.values()))
        if left := sum(account.queued for account in self.ledger.snapshot().values()):
            _log.info("%d records stay in the spool and are sent at the next start", left)

    def _routes(self, config: ExportConfig) -> dict[Signal, Route]:
        """Open a way for each signal; raises ConfigError with every problem."""
        endpoints = resolve(config)
        if not endpoints:
            raise ConfigError(["export.endpoint: is not set; set OTEL_EXPORTER_OTLP_ENDPOINT"])
        routes: dict[Signal, Route] = {}
        problems: list[str] = []
        for signal, endpoint in endpoints.items():
            transports: list[Transport] = []
            try:
                transports += (self._opener(endpoint) for _ in range(config.concurrency))
            except ConfigError as error:
                problems += error.problems
            routes[signal] = Route(endpoint.url, endpoint.server, transports, _request_bytes(config))
        if problems:
            _hang_up(routes)
            raise ConfigError(list(dict.fromkeys(problems)))
        return routes


def _hang_up(routes: Mapping[Signal, Route]) -> None:
    for route in routes.values():
        for transport in route.transports:
            transport.close()


def _limits(config: ExportConfig) -> Limits:
    return Limits(config.spool_bytes, config.queue_bytes)


def _request_bytes(config: ExportConfig) -> int:
    """Half of what may wait, so that a request on its way and one that comes in always have room."""
    smallest = min(config.queue_bytes, config.spool_bytes) if config.spool_directory else config.queue_bytes
    return min(config.request_bytes, smallest // 2)
