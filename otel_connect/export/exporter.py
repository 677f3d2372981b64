"""The room's front door: requests in, OTLP out, every record accounted for."""

import time
from collections.abc import Callable, Mapping
from random import random as system_random

from otel_connect.config import ExportConfig
from otel_connect.errors import ConfigError
from otel_connect.export.endpoint import Endpoint, resolve
from otel_connect.export.ledger import Account, Ledger, Reason
from otel_connect.export.pending import Pending
from otel_connect.export.sender import DEFAULT_BACKOFF, Backoff, Health, Sender
from otel_connect.export.split import fit
from otel_connect.export.transport import Transport, file_problems, open_transport
from otel_connect.model import Request, Signal


class OtlpExporter:
    """Delivers requests to the configured endpoints, at least once as long as the process lives.

    Starts one daemon thread for each signal; nothing is connected before the first request. Raises
    ConfigError with every problem of the endpoints, also when none is configured.
    """

    def __init__(
        self,
        config: ExportConfig,
        *,
        backoff: Backoff = DEFAULT_BACKOFF,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = system_random,
        opener: Callable[[Endpoint], Transport] = open_transport,
    ) -> None:
        endpoints = resolve(config)
        if not endpoints:
            raise ConfigError(["export.endpoint: is not set; set OTEL_EXPORTER_OTLP_ENDPOINT"])
        if problems := [problem for endpoint in endpoints.values() for problem in file_problems(endpoint)]:
            raise ConfigError(list(dict.fromkeys(problems)))
        self.ledger = Ledger()
        self._clock = clock
        # Half of the queue, so that the request on its way and one that comes in always have room.
        self._request_bytes = min(config.request_bytes, config.queue_bytes // 2)
        self._senders = {
            signal: Sender(
                signal,
                opener(endpoint),
                Pending(config.queue_bytes, clock),
                self.ledger,
                place=endpoint.url,
                backoff=backoff,
                clock=clock,
                random=random,
            )
            for signal, endpoint in endpoints.items()
        }

    def put(self, request: Request) -> None:
        """Queue a request; never waits for the backend and never raises for want of room.

        What is larger than ``request_bytes`` is split first, and a single record that still is, dropped
        as too large.
        """
        for part in fit(request, self._request_bytes):
            if len(part.body) > self._request_bytes:
                self.ledger.accept(part.signal, part.records)
                self.ledger.drop(part.signal, Reason.TOO_LARGE, part.records)
            else:
                self._senders[part.signal].put(part)

    def accounts(self) -> Mapping[Signal, Account]:
        """Say where the records of each signal are."""
        return self.ledger.snapshot()

    def health(self) -> Mapping[Signal, Health]:
        """Tell for each signal how delivery is going."""
        return {signal: sender.health for signal, sender in self._senders.items()}

    def close(self, timeout_s: float) -> None:
        """Send what is queued until the time is up; the rest is counted as lost by shutdown."""
        deadline = self._clock() + timeout_s
        for sender in self._senders.values():
            sender.finish(deadline)
        for sender in self._senders.values():
            sender.close(deadline)
