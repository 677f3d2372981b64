"""Build the agent from a configuration, and run it."""

import gc
import os
import sys
import uuid
from pathlib import Path

import click

from otel_connect.agent import Agent, Output, StopSignal
from otel_connect.capture.kernel import KernelCapture
from otel_connect.config import Configuration
from otel_connect.config import Output as OutputKind
from otel_connect.encode.resource import NODE_NAME_VARIABLE, agent_resource
from otel_connect.enrich.processes import Processes
from otel_connect.enrich.procfs import executable, sees_host_processes, user_name
from otel_connect.export.endpoint import resolve
from otel_connect.export.exporter import OtlpExporter
from otel_connect.outputs import ConsoleView, JsonLines, Telemetry
from otel_connect.serve.console import ConsoleOutput, colour_wanted, terminal_width


def run_agent(configuration: Configuration, stop: StopSignal, duration_s: float | None) -> None:
    """Capture until ``stop`` says so or the time is over; raises ProbeError or ConfigError."""
    host_processes = sees_host_processes()
    if not host_processes:
        _say("this PID namespace is not the host's: programs are named as the kernel does (use --pid=host)")
    # What is here now stays; attempts are short-lived tuples without cycles, of which thousands are normal.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    with KernelCapture(configuration.capture, os.getpid() if host_processes else 0) as capture:
        output, where = _open_output(configuration)
        # A pid of another namespace would name an unrelated process.
        lookup = executable if host_processes else lambda _pid, _start: None
        processes = Processes(lookup, user_name, configuration.enrich.process_cache_size)
        agent = Agent(capture, processes, output, configuration.capture.drain_interval_ms / 1000)
        _say(f"capturing every TCP connect attempt of this host, to {where} ({', '.join(capture.hooks)})")
        agent.run(stop, duration_s)


def _open_output(configuration: Configuration) -> tuple[Output, str]:
    endpoints = resolve(configuration.export)
    kind = configuration.export.output or (OutputKind.OTLP if endpoints else OutputKind.CONSOLE)
    if kind is OutputKind.CONSOLE:
        colour = colour_wanted(sys.stdout, os.environ)
        console = ConsoleOutput(sys.stdout, colour=colour, width=terminal_width(sys.stdout))
        return ConsoleView(console, sys.stdout), "the console"
    resource = agent_resource(
        os.uname(),
        instance_id=str(uuid.uuid4()),
        machine_id=_machine_id(),
        node_name=os.environ.get(NODE_NAME_VARIABLE),
    )
    if kind is OutputKind.JSON:
        return Telemetry(configuration, resource, JsonLines(sys.stdout)), "standard output as OTLP JSON"
    places = dict.fromkeys(endpoint.url for endpoint in endpoints.values())
    return Telemetry(configuration, resource, OtlpExporter(configuration.export)), ", ".join(places)


def _machine_id(path: Path = Path("/etc/machine-id")) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _say(line: str) -> None:
    click.echo(f"otel-connect: {line}", err=True)
