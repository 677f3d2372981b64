"""What the standard error of an application says when it ends before everything was delivered, by how it logs."""

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.instrumented import INSTRUMENT
from tests.support.receiver import HttpReceiver

PROGRAM = """
import logging, os, sys
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_connect.plugin.exporters import DurableLogExporter, DurableSpanExporter

exec(os.environ.get("SETUP", ""))
logs, traces = LoggerProvider(), TracerProvider()
logs.add_log_record_processor(BatchLogRecordProcessor(DurableLogExporter()))
traces.add_span_processor(BatchSpanProcessor(DurableSpanExporter()))
for name in ("one", "two"):
    traces.get_tracer("shop").start_span(name).end()
logs.get_logger("shop").emit(body="three")
exec(os.environ.get("FINALLY", ""))
"""
BY_NAME = """
import logging
from opentelemetry import trace
for name in ("one", "two"):
    trace.get_tracer("shop").start_span(name).end()
logging.getLogger("shop").warning("three")
"""
SAYS = "not delivered when the application ended: logs 1 waiting, traces 2 waiting; what waits is in "
REASON = "(last trouble: Connection refused: nothing listens at 127.0.0.1:1; "
BY_HAND = "otel-connect: "


def run(tmp_path: Path, *program: str | Path, **variables: str) -> list[str]:
    """Run an application whose backend is away, unless told otherwise; return its lines about the end.

    An empty variable is not set at all.
    """
    return [line for line in run_and_read(tmp_path, *program, **variables) if "not delivered" in line]


def run_and_read(tmp_path: Path, *program: str | Path, **variables: str) -> list[str]:
    """Run it and return all of its lines."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    usual = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_CONNECT_SPOOL_DIRECTORY": str(tmp_path / "spool"),
    }
    command = program or (sys.executable, "-c", PROGRAM)
    environ = {name: value for name, value in (clean | usual | variables).items() if value}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


UNHEARD = {
    "not configured": "",
    "no last resort": "logging.lastResort = None",
    "errors alone": "logging.basicConfig(level=logging.ERROR)",
    "a handler that shows nothing": "logging.getLogger().addHandler(logging.NullHandler())",
    "disabled": "logging.disable(logging.WARNING)",
}
HEARD = {"warnings": "logging.basicConfig()", "everything": "logging.basicConfig(level=logging.DEBUG)"}
SILENCED = {
    "by level": "logging.getLogger('otel_connect').setLevel(logging.CRITICAL)",
    "cut off": "logging.getLogger('otel_connect').propagate = False",
    "by itself": "logging.getLogger('otel_connect').disabled = True",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """Run one application for each way to log, at the same time: each waits for the backend for a while."""
    setups = UNHEARD | HEARD | SILENCED
    with ThreadPoolExecutor(len(setups)) as pool:
        places = {name: tmp_path_factory.mktemp("application") for name in setups}
        running = {name: pool.submit(run, places[name], SETUP=setup) for name, setup in setups.items()}
        return {
            name: [line.replace(str(places[name]), "HERE") for line in one.result()] for name, one in running.items()
        }


@pytest.mark.parametrize("how", UNHEARD)
def test_one_line_where_no_handler_shows_it(how: str, said: Mapping[str, list[str]]) -> None:
    (line,) = said[how]
    assert line.startswith(f"{BY_HAND}{SAYS}HERE/spool/0, and the next process of the application sends it")
    assert REASON in line


@pytest.mark.parametrize("how", HEARD)
def test_one_line_in_the_log_where_there_is_one(how: str, said: Mapping[str, list[str]]) -> None:
    (line,) = said[how]
    assert line.startswith(f"WARNING:otel_connect.plugin.last_words:{SAYS}")
    assert REASON in line


@pytest.mark.parametrize("how", SILENCED)
def test_a_logger_that_was_silenced_stays_so(how: str, said: Mapping[str, list[str]]) -> None:
    assert said[how] == []


def test_one_line_where_only_opentelemetry_logs(tmp_path: Path) -> None:
    selected = {f"OTEL_{signal}_EXPORTER": "otel_connect" for signal in ("LOGS", "TRACES")}
    selected |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true"}
    (line,) = run(tmp_path, INSTRUMENT, sys.executable, "-c", BY_NAME, **selected)
    assert line.startswith(f"{BY_HAND}not delivered when the application ended: logs ")
    assert "traces 2 waiting" in line


def test_the_protocol_that_the_distribution_sets_is_named(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        selected = {
            "OTEL_TRACES_EXPORTER": "otel_connect",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        }
        selected |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": ""}
        (line,) = run(tmp_path, INSTRUMENT, sys.executable, "-c", BY_NAME, **selected)
    remedy = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    assert line.endswith(f"(last trouble: gRPC met an HTTP/1 answer at port {receiver.port}: {remedy})")


def test_nothing_when_everything_has_arrived(tmp_path: Path) -> None:
    run(tmp_path)
    with HttpReceiver() as receiver:
        assert run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) == []
        bodies = b"".join(request.body for request in receiver.requests)
    assert (bodies.count(b"three"), bodies.count(b"two")) == (2, 2)  # with what the first one has left


def test_what_cannot_wait_on_a_disk_is_said_to_be_lost(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (line,) = run(tmp_path, OTEL_CONNECT_SPOOL_DIRECTORY=str(tmp_path / "file"))
    assert line.startswith(f"{BY_HAND}not delivered when the application ended: logs 1 dropped, traces 2 dropped (")


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
def test_a_child_speaks_for_itself_if_it_ends_as_a_program_does(end: str, tmp_path: Path) -> None:
    fork = f"if not (pid := os.fork()):\n    traces.get_tracer('shop').start_span('of child').end()\n    {end}"
    lines = run(tmp_path, FINALLY=f"{fork}\nos.waitpid(pid, 0)")
    assert len(lines) == (1 if "_exit" in end else 2)
    assert any("traces 2 waiting" in line for line in lines)


def test_a_closed_standard_error_ends_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, FINALLY="os.close(2)") == []
    assert run(tmp_path, FINALLY="sys.stderr = None") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
    ],
)
@pytest.mark.parametrize("setup", ["", HEARD["warnings"]])
def test_a_variable_that_cannot_be_used_is_named_at_the_start_and_at_the_end(
    name: str, value: str, setup: str, tmp_path: Path
) -> None:
    first, last = run_and_read(tmp_path, **{name: value, "SETUP": setup})
    prefix = "WARNING:otel_connect.plugin.last_words:" if setup else BY_HAND
    assert first.startswith(f"{prefix}{name}: ")
    assert first.endswith("; until that is mended, nothing is sent")
    assert last.startswith(f"{prefix}{SAYS}")
    assert f"(last trouble: {name}: " in last
    assert "http://localhost" not in first + last


def test_what_a_signal_without_an_exporter_has_waiting_is_no_trouble_of_a_server(tmp_path: Path) -> None:
    run(tmp_path)
    with_parameters = "DurableSpanExporter(endpoint='http://127.0.0.1:1/v1/traces')"
    program = PROGRAM.replace("DurableSpanExporter()", with_parameters).replace(
        "logs.add_log_record_processor(BatchLogRecordProcessor(DurableLogExporter()))", ""
    )
    lines = run_and_read(tmp_path, sys.executable, "-c", program)
    assert not [line for line in lines if "no exporter of this signal" in line and "does not take requests" in line]
    assert [line for line in lines if "not delivered when the application ended: logs 1 waiting, traces 4" in line]
