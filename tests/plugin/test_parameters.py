"""Exporters with parameters in real processes: from a configuration file of the SDK, and in code."""

import os
import subprocess
import sys
from pathlib import Path

from otel_connect.model import Signal
from tests.support.instrumented import INSTRUMENT
from tests.support.receiver import HttpReceiver

CONFIGURED = """
file_format: "1.0"
tracer_provider:
  processors:
    - simple:
        exporter:
          otel_connect:
            endpoint: {endpoint}/v1/traces
            protocol: http/protobuf
            headers: [{{name: tenant, value: blue}}]
            headers_list: tenant=red,x=1
            compression: gzip
            timeout: 5000
            session: none
            tls: {{min_version: "1.3"}}
resource:
  detection/development:
    detectors:
      - otel_connect:
"""
ONE_SPAN = "from opentelemetry import trace; trace.get_tracer('shop').start_span('order').end()"


def run(command: list[str | Path], variables: dict[str, str]) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_configuration_file_with_parameters_that_we_do_not_know(tmp_path: Path) -> None:
    file = tmp_path / "otel.yaml"
    with HttpReceiver() as receiver:
        file.write_text(CONFIGURED.format(endpoint=receiver.endpoint))
        variables = {"OTEL_CONFIG_FILE": str(file), "OTEL_CONNECT_SPOOL_DIRECTORY": str(tmp_path / "spool")}
        said = run([INSTRUMENT, sys.executable, "-c", ONE_SPAN], variables)
        (request,) = receiver.requests
    assert request.signal is Signal.TRACES
    assert b"host.arch" in request.body
    assert (request.metadata["tenant"], request.metadata["x"]) == ("blue", "1")
    assert request.metadata["content-encoding"] == "gzip"
    lines = [line for line in said.splitlines() if "is not supported" in line]
    assert [line.partition(": is not")[0] for line in lines] == [
        "otel-connect: the exporter of traces: session",
        "otel-connect: the exporter of traces: tls.min_version",
    ]


IN_CODE = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableLogExporter, DurableSpanExporter

logs = DurableLogExporter(endpoint=sys.argv[1] + "/v1/logs")
print(logs.force_flush(1000))
if sys.argv[2:]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(DurableSpanExporter(endpoint=sys.argv[2] + "/v1/traces")))
    provider.get_tracer("shop").start_span("order").end()
    provider.shutdown()
logs.shutdown()
"""
LEAVE_ONE = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(DurableSpanExporter()))
provider.get_tracer("shop").start_span("left").end()
provider.shutdown()
"""


def test_what_an_earlier_process_left_goes_nowhere_before_it_is_known_where(tmp_path: Path) -> None:
    with HttpReceiver() as default, HttpReceiver() as of_logs, HttpReceiver() as of_traces:
        spool = {"OTEL_CONNECT_SPOOL_DIRECTORY": str(tmp_path / "spool")}
        run([sys.executable, "-c", LEAVE_ONE], spool | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
        environ = spool | {"OTEL_EXPORTER_OTLP_ENDPOINT": default.endpoint}
        said = run([sys.executable, "-c", IN_CODE, of_logs.endpoint], environ)
        assert "no exporter of this signal has been made in this process" in said
        run([sys.executable, "-c", IN_CODE, of_logs.endpoint, of_traces.endpoint], environ)
        names = b"".join(request.body for request in of_traces.requests)
        assert (default.requests, of_logs.requests) == ([], [])
    assert b"left" in names
    assert b"order" in names
