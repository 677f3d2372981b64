"""Build the agent from a configuration, and run it."""

import gc
import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from io import FileIO
from typing import Protocol

from otel_connect.agent import Agent, StopSignal
from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.privileges import drop_privileges
from otel_connect.config import Configuration, Loaded
from otel_connect.config import Output as OutputKind
from otel_connect.encode.events import started
from otel_connect.enrich.asking import start_reader
from otel_connect.enrich.backends import Backends
from otel_connect.enrich.filters import Filters
from otel_connect.enrich.procfs import sees_host_processes
from otel_connect.errors import OutputError
from otel_connect.export.endpoint import output_kind, resolve
from otel_connect.export.exporter import OtlpExporter
from otel_connect.json_output import JsonLines
from otel_connect.life import Life
from otel_connect.outputs import ConsoleView, Telemetry, make_telemetry
from otel_connect.running import Running, StatusPages, first_process, make_enricher
from otel_connect.serve.console import ConsoleOutput, colour_wanted, terminal_width
from otel_connect.serve.lines import Lines
from otel_connect.serve.systemd import ServiceManager

_log = logging.getLogger(__name__)


class Signals(StopSignal, Protocol):
    """What the operator wants of a running agent."""

    def take_reload(self) -> bool:
        """Say whether the configuration is to be read again; true once for each time it was asked for."""


def run_agent(
    loaded: Loaded[Configuration],
    signals: Signals,
    duration_s: float | None,
    load: Callable[[], Loaded[Configuration]],
) -> None:
    """Capture until ``signals`` say so or the time is over; raises ProbeError or ConfigError.

    ``load`` reads the configuration again. Raises OutputError at the end if standard output did not take everything.
    """
    configuration = loaded.configuration
    host_processes = sees_host_processes()
    if not host_processes:
        _log.warning("this PID namespace is not the host's: the agent's own attempts are not left out (use --pid=host)")
    calm_collector()
    with ExitStack() as stack:
        stack.enter_context(loaded.places.named())
        manager = ServiceManager(os.environ, os.getpid())
        stack.callback(manager.close)
        pages = StatusPages(configuration)
        stack.callback(pages.close)
        reader = stack.enter_context(start_reader()) if host_processes else None
        own_pid, enrich = os.getpid() if host_processes else 0, configuration.enrich
        capture = stack.enter_context(
            KernelCapture(configuration.capture, own_pid, names=enrich.names, command_args=enrich.command_args)
        )
        if reader is not None:
            reader.await_first()
        init = first_process() if host_processes else None
        # Before the first thread: each thread has what the one that starts it has.
        backends = stack.enter_context(Backends()) if configuration.enrich.conntrack else None
        drop_privileges(lambda: (capture.in_progress(), capture.missed()), asks_conntrack=backends is not None)
        output, where, lines = _open_output(configuration)
        new_enricher = partial(make_enricher, reader=reader, init=init, backends=backends)
        interval_s = configuration.capture.drain_interval_ms / 1000
        agent = Agent(capture, new_enricher(configuration.enrich), output, interval_s, listening=capture.packets)
        agent.filter(Filters(configuration.filter))
        running = Running(configuration, agent, output, pages, new_enricher)

        def reload() -> tuple[str, ...]:
            new = load()
            with new.places.named():
                return running.apply(new.configuration)

        life = Life(
            agent.state,
            output,
            manager,
            where=where,
            pages=pages,
            reload=reload,
            reload_wanted=signals.take_reload,
        )
        pages.start(life.report())
        _log.info("capturing every TCP connect attempt of this host, to %s (%s probes)", where, capture.probes)
        manager.ready(f"capturing, to {where}")
        output.event(started(capture.hooks))
        agent.run(signals, duration_s, life)
    if lines is not None and lines.problem:
        raise OutputError(
            f"standard output could not be written ({lines.problem}): what is missing there is counted as lost"
        )


def calm_collector() -> None:
    """Look for garbage seldom: attempts are short-lived tuples without cycles, of which thousands are normal."""
    gc.freeze()  # what is here now stays
    gc.set_threshold(20_000, 50, 100)


def _standard_output(encoding: str) -> Lines:
    return Lines(FileIO(sys.stdout.fileno(), "wb", closefd=False), encoding=encoding)


def _open_output(configuration: Configuration) -> tuple[ConsoleView | Telemetry, str, Lines | None]:
    """Return the output, what it is called, and the lines on standard output that it writes, if it does."""
    kind = output_kind(configuration.export)
    if kind is OutputKind.CONSOLE:
        lines = _standard_output(sys.stdout.encoding)
        colour = colour_wanted(sys.stdout, os.environ)
        console = ConsoleOutput(lines, colour=colour, width=partial(terminal_width, sys.stdout))
        return ConsoleView(console, lines), "the console", lines
    if kind is OutputKind.JSON:
        lines = _standard_output("utf-8")
        return make_telemetry(configuration, JsonLines(lines)), "standard output as OTLP JSON", lines
    places = dict.fromkeys(endpoint.server for endpoint in resolve(configuration.export).values())
    return make_telemetry(configuration, OtlpExporter(configuration.export)), ", ".join(places), None
