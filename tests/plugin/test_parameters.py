"""Exporters with parameters in real processes: from a configuration file of the SDK, and in code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from otel_connect.config import ExportConfig
from otel_connect.export.exporter import OtlpExporter
from otel_connect.model import Signal
from otel_connect.plugin.process import _Way
from tests.support.collector import await_until
from tests.support.instrumented import INSTRUMENT
from tests.support.ordered import Ordered
from tests.support.receiver import HttpReceiver, make_certificates

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


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


def run(command: list[str | Path], variables: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=clean_environment() | variables, capture_output=True, text=True, timeout=60, check=False
    )
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

ONE_AFTER_THE_OTHER = """
import json, sys
from otel_connect.plugin.exporters import DurableLogExporter, DurableSpanExporter

kinds = {"logs": DurableLogExporter, "traces": DurableSpanExporter}
exporters = []
for line in sys.stdin:
    signal, parameters = json.loads(line)
    exporters.append(kinds[signal](**parameters))
    print("done", flush=True)
for exporter in exporters:
    exporter.shutdown(0)
"""


class Making(Ordered):
    """A process that makes exporters one after the other, and finds what another process ``left`` in slot 1."""

    def __init__(self, left: Path, root: Path, variables: dict[str, str]) -> None:
        shutil.copytree(left, root / "1")
        self._lock = root / "1" / "spool.lock"
        spool = {"OTEL_CONNECT_SPOOL_DIRECTORY": str(root)}
        super().__init__([sys.executable, "-c", ONE_AFTER_THE_OTHER], clean_environment() | spool | variables)

    def make(self, signal: Signal, **parameters: object) -> None:
        """Have it make another exporter."""
        self.order(json.dumps([signal, parameters]))

    def holds_the_other_slot(self) -> bool:
        """Whether what is left there is about to be sent."""
        opened = Path(f"/proc/{self.pid}/fd")
        return self._lock in {one.readlink() for one in opened.iterdir() if one.is_symlink()}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spool")
    spool = {"OTEL_CONNECT_SPOOL_DIRECTORY": str(root)}
    run([sys.executable, "-c", LEAVE_ONE], spool | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    return root / "0"


OF_TRACES = "OTEL_EXPORTER_OTLP_TRACES_"


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({f"{OF_TRACES}ENDPOINT": "https://127.0.0.1:1", f"{OF_TRACES}CERTIFICATE": "/nowhere.pem"}, (Signal.LOGS, {})),
        ({}, (Signal.TRACES, {"endpoint": "collector:4318"})),
        ({}, (Signal.TRACES, {"headers": "s3cret"})),
    ],
    ids=["variables", "endpoint", "headers"],
)
def test_what_others_left_is_sent_once_the_parameters_say_where_to(
    variables: dict[str, str], first: tuple[Signal, dict[str, object]], left: Path, tmp_path: Path
) -> None:
    with HttpReceiver() as receiver, Making(left, tmp_path / "spool", variables) as process:
        process.make(first[0], **{"endpoint": receiver.endpoint} | first[1])
        assert not process.holds_the_other_slot()
        process.make(Signal.TRACES, endpoint=f"{receiver.endpoint}/v1/traces")
        await_until(lambda: any(b"left" in request.body for request in receiver.requests))


@pytest.mark.parametrize(
    "first", [(Signal.LOGS, {}), (Signal.TRACES, {"endpoint": "http://127.0.0.1:1"})], ids=["other signal", "backend"]
)
def test_what_others_left_goes_the_way_of_the_exporter_that_was_made_last(
    first: tuple[Signal, dict[str, object]], left: Path, tmp_path: Path
) -> None:
    with HttpReceiver() as receiver, Making(left, tmp_path / "spool", {}) as process:
        process.make(first[0], **{"endpoint": receiver.endpoint} | first[1])
        await_until(process.holds_the_other_slot)
        process.make(Signal.TRACES, endpoint=f"{receiver.endpoint}/v1/traces")
        await_until(lambda: any(b"left" in request.body for request in receiver.requests))


def test_what_others_left_is_let_go_when_nothing_may_be_sent_any_more(left: Path, tmp_path: Path) -> None:
    with Making(left, tmp_path / "spool", {}) as process:
        process.make(Signal.TRACES, endpoint="http://127.0.0.1:1")
        await_until(process.holds_the_other_slot)
        process.make(Signal.LOGS, endpoint="collector:4318")
        await_until(lambda: not process.holds_the_other_slot())


SECOND_WITHOUT_AUTHORITIES = """
import sys
from otel_connect.plugin.exporters import DurableLogExporter, DurableSpanExporter

logs = DurableLogExporter(endpoint=sys.argv[1] + "/v1/logs")
files = {"client_certificate_file": sys.argv[2], "client_key_file": sys.argv[3]}
traces = DurableSpanExporter(endpoint="https://127.0.0.1:1/v1/traces", **files)
for exporter in (logs, traces):
    exporter.shutdown(0)
print("goes on")
"""


def test_authorities_that_cannot_be_used_are_said_and_nothing_is_raised(tmp_path: Path) -> None:
    bundle = tmp_path / "authorities.pem"
    bundle.write_text("no certificate")
    variables = {"REQUESTS_CA_BUNDLE": str(bundle), "OTEL_CONNECT_SPOOL_DIRECTORY": str(tmp_path / "spool")}
    made = make_certificates(tmp_path)
    files = made.client, made.client_key
    said = run([sys.executable, "-c", SECOND_WITHOUT_AUTHORITIES, "http://127.0.0.1:1", *files], variables)
    [line] = [line for line in said.splitlines() if "nothing is sent" in line]
    assert f"REQUESTS_CA_BUNDLE: {bundle}: no usable certificate" in line
    assert "Traceback" not in said


class _Exhausted(OtlpExporter):
    def __init__(self) -> None:
        """Open nothing."""

    def reconfigure(self, config: ExportConfig) -> None:  # noqa: ARG002 - whatever it is
        raise RuntimeError("can't start new thread")


def test_an_exporter_whose_way_cannot_be_opened_is_said_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    way = _Way()
    for _ in range(2):
        assert not way.redirect(_Exhausted(), None)
    line = "can't start new thread; until that is fixed, the parameters of the last exporter are not used"
    assert [said for said in caplog.messages if "parameters" in said] == [line]


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
