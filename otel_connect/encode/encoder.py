"""The room's front door: a batch of attempts in, its serialized requests out."""

import os
from collections.abc import Callable, Sequence

from otel_connect.config import EncodeConfig
from otel_connect.encode.logs import encode_logs
from otel_connect.encode.metrics import AttemptMetrics
from otel_connect.encode.resource import WorkloadResources
from otel_connect.encode.spans import SpanSelection, encode_spans
from otel_connect.encode.wire import fragments
from otel_connect.model import Attempt, Request, Signal, Signals


class Encoder:
    """Turns batches of attempts into log and trace requests, with one resource for each workload.

    With ``metrics`` every batch is counted there as well, together with the ids of its spans: that is what
    exemplars point to. Whoever leaves it out calls ``AttemptMetrics.record`` and has none.
    ``random_bytes`` is where trace and span ids come from; it is asked once for each batch.
    """

    def __init__(
        self,
        config: EncodeConfig,
        resources: WorkloadResources,
        metrics: AttemptMetrics | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._config = config
        self._resources = resources
        self._metrics = metrics
        self._selection = SpanSelection(config, random_bytes)

    def encode(self, attempts: Sequence[Attempt]) -> Signals:
        """Encode one batch: a log record for each attempt, and a span for each that is selected."""
        if not attempts:
            return Signals((), 0)
        contexts, left_out = self._selection.select(attempts)
        if self._metrics is not None:
            self._metrics.record(attempts, contexts)
        attributes = [fragments(attempt) for attempt in attempts]
        logs = encode_logs(attempts, attributes, contexts, self._resources)
        requests = [Request(Signal.LOGS, logs, len(attempts))]
        spans = len(contexts) - contexts.count(None)
        if spans:
            traces = encode_spans(attempts, attributes, contexts, self._resources, self._config)
            requests.append(Request(Signal.TRACES, traces, spans))
        return Signals(tuple(requests), left_out)
