"""An application that forks while it exports, in every way that a process can be forked.

    python tests/support/forker.py FORKS EXPORTER SAID WAY …

EXPORTER is ``otel_connect``, or ``http`` or ``grpc`` for the SDK's own. The three signals are kept busy. Each child
exports one span and ends. FORK_IN_C names the library of the way ``c``. The names of all spans that an exporter took
are appended to the file SAID. At the end it prints one JSON object: how many children hung, how many kept to memory,
and how long os.fork() took the parent.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult

_OUTSTANDING = 4
_LONGEST_CHILD_S = 30.0

forks, kind, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
said = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
took_s: list[float] = []
in_memory = os.memfd_create("in-memory")


def exporters() -> tuple[Any, Any, Any]:
    if kind == "otel_connect":
        module = import_module("otel_connect.plugin.exporters")
        return module.DurableSpanExporter, module.DurableLogExporter, module.DurableMetricExporter
    base = f"opentelemetry.exporter.otlp.proto.{kind}"
    return (
        import_module(f"{base}.trace_exporter").OTLPSpanExporter,
        import_module(f"{base}._log_exporter").OTLPLogExporter,
        import_module(f"{base}.metric_exporter").OTLPMetricExporter,
    )


class Noting(logging.Handler):
    """Counts the processes that say that they keep to memory."""

    def emit(self, record: logging.LogRecord) -> None:
        if "memory only" in record.getMessage():
            os.write(in_memory, b".")


Spans, Logs, Metrics = exporters()


class Said(Spans):  # type: ignore[misc, valid-type]  # one of several
    """Writes down what it took."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result: SpanExportResult = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            os.write(said, "".join(f"{span.name}\n" for span in spans).encode())
        return result


def fork() -> int:
    began = time.perf_counter()
    if pid := os.fork():
        took_s.append(time.perf_counter() - began)
    return pid


def fork_in_c() -> int:
    return int(ctypes.PyDLL(os.environ["FORK_IN_C"]).fork_in_c())


def fork_twice() -> int:
    if pid := fork():
        return pid
    if (grandchild := os.fork()) == 0:
        return 0
    os._exit(os.waitpid(grandchild, 0)[1])


def fork_in_thread() -> int:
    """Fork in another thread while this one exports; the child is run in that thread."""
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.append(fork() or child()))
    thread.start()
    while thread.is_alive():
        direct.start_span("beside").end()
    return made[0]


def fork_in_handler() -> int:
    """Fork in the handler of a signal that interrupts an export; the child is run in the handler."""
    made: list[int] = []
    signal.signal(signal.SIGALRM, lambda *_: made.append(fork() or child()))
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    while not made:
        direct.start_span("interrupted").end()
    return made[0]


WAYS: dict[str, Callable[[], int]] = {
    "python": fork,
    "c": fork_in_c,
    "twice": fork_twice,
    "thread": fork_in_thread,
    "handler": fork_in_handler,
}


def child() -> int:
    try:
        direct.start_span(f"child-{os.getpid()}-{time.monotonic_ns()}").end()
        os._exit(0)
    finally:
        os._exit(1)


def await_children(children: deque[tuple[int, float]], most: int) -> int:
    hung = 0
    while len(children) > most:
        pid, began = children.popleft()
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() - began > _LONGEST_CHILD_S:
                hung += 1
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.001)
    return hung


def busy(stop: threading.Event) -> None:
    tracer, logger = spans.get_tracer("busy"), logs.get_logger("busy")
    counter = metrics.get_meter("busy").create_counter("busy")
    number = 0
    while not stop.wait(0.001):
        number += 1
        tracer.start_span(f"busy-{number}").end()
        logger.emit(body="busy")
        counter.add(1)


logging.getLogger("otel_connect").addHandler(Noting())
spans, logs = TracerProvider(), LoggerProvider()
spans.add_span_processor(BatchSpanProcessor(Said(), schedule_delay_millis=2))
logs.add_log_record_processor(BatchLogRecordProcessor(Logs(), schedule_delay_millis=2))
metrics = MeterProvider([PeriodicExportingMetricReader(Metrics(), export_interval_millis=10)])
alone = TracerProvider()
alone.add_span_processor(SimpleSpanProcessor(Said()))
direct = alone.get_tracer("direct")


def main() -> None:
    stop = threading.Event()
    load = threading.Thread(target=busy, args=(stop,))
    load.start()
    ways = sys.argv[4:]
    children: deque[tuple[int, float]] = deque()
    hung = 0
    for number in range(forks):
        if (pid := WAYS[ways[number % len(ways)]]()) == 0:
            child()
        children.append((pid, time.monotonic()))
        hung += await_children(children, _OUTSTANDING)
    hung += await_children(children, 0)
    stop.set()
    load.join()
    took = sorted(took_s)
    print(
        json.dumps(
            {
                "hung": hung,
                "in_memory": os.fstat(in_memory).st_size,
                "took_ms": [round(1000 * took[int(share * (len(took) - 1))], 2) for share in (0.5, 0.99, 1.0)]
                if took
                else None,
            }
        ),
        flush=True,
    )


main()
