"""A service that makes a span for each request or task, for servers of any kind; the SDK is set up when it is imported.

    gunicorn tests.support.served:application
    celery -A tests.support.served worker        gives itself COUNT tasks, and then makes the file ENDED
    python tests/support/served.py KIND COUNT

PROCESSOR is ``batch`` or ``simple``, the SDK's processor of spans, EXPORTER is ``otel_connect`` or
``otlp_proto_http``, the SDK's own. KIND is how the work is given to other processes:
``daemon``, ``fork``, ``spawn``, ``forkserver``, ``posix_spawn`` or ``none``; each span has the name ``span-N``.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import celery
import daemon
from celery.signals import worker_ready
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

[exporter] = entry_points(group="opentelemetry_traces_exporter", name=os.environ["EXPORTER"])
provider = TracerProvider()
if os.environ["PROCESSOR"] == "simple":
    provider.add_span_processor(SimpleSpanProcessor(exporter.load()()))
else:
    provider.add_span_processor(BatchSpanProcessor(exporter.load()(), schedule_delay_millis=20))
tracer = provider.get_tracer("served")

tasks = celery.Celery("served", broker="filesystem://")
tasks.conf.broker_transport_options = dict.fromkeys(
    ("data_folder_in", "data_folder_out", "control_folder"), os.environ.get("QUEUE", "")
)


def application(environ: dict[str, str], start: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Answer a request; that for ``/ready`` makes no span."""
    if (path := environ["PATH_INFO"]) != "/ready":
        tracer.start_span(path.strip("/")).end()
    start("200 OK", [("Content-Length", "0")])
    return [b""]


def work(number: int) -> None:
    """Do one piece of work."""
    tracer.start_span(f"span-{number}").end()


task = tasks.task(work, name="served.work")


def give(**_: object) -> None:
    """Give the worker its tasks; here, as another process would have all of this to import."""
    for number in range(int(os.environ["COUNT"])):
        task.delay(number)
    Path(os.environ["ENDED"]).touch()


worker_ready.connect(give)


def main(kind: str, count: int) -> None:
    if kind in {"fork", "spawn", "forkserver"}:
        context: Any = multiprocessing.get_context(kind)
        workers = [context.Process(target=work, args=(number,)) for number in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        return
    if kind == "posix_spawn":
        command = [sys.executable, __file__, "none", str(count)]
        pid = os.posix_spawn(sys.executable, command, os.environ)
        assert os.waitpid(pid, 0)[1] == 0
        return
    if kind == "daemon":
        ended = Path(os.environ["ENDED"])
        with daemon.DaemonContext(umask=0o077):
            work_all(count)
            provider.shutdown()
            ended.touch()
        return
    work_all(count)


def work_all(count: int) -> None:
    for number in range(count):
        work(number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
