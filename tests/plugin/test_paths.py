"""Relative paths given to an application that changes its working directory, as daemons do."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.receiver import HttpReceiver, ServerTls, make_certificates

PROGRAM = """
import os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

os.chdir("/")
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(DurableSpanExporter()))
provider.get_tracer("shop").start_span("order").end()
provider.shutdown()
"""


def run(directory: Path, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ = clean | {"XDG_STATE_HOME": str(directory / "state"), "OTEL_SERVICE_NAME": "shop"} | variables
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_relative_spool_directory_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    spool = {"OTEL_CONNECT_SPOOL_DIRECTORY": "spool"}
    said = run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **spool)
    default = tmp_path / "state" / "otel-connect" / "spool" / "shop"
    line = f"OTEL_CONNECT_SPOOL_DIRECTORY: must be an absolute path, not 'spool'; {default} is used"
    assert said.count(line) == 1
    assert not (tmp_path / "spool").exists()
    assert not Path("/spool").exists()
    with HttpReceiver() as receiver:
        run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **spool)
        assert b"".join(request.body for request in receiver.requests).count(b"order") == 2


def test_a_relative_certificate_is_found_where_the_application_was_started(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    relative = {"OTEL_EXPORTER_OTLP_CERTIFICATE": certificates.authority.name}
    with HttpReceiver(tls=ServerTls(certificates.server, certificates.server_key)) as receiver:
        run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **relative)
        assert len(receiver.requests) == 1
    said = run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="https://127.0.0.1:1", OTEL_EXPORTER_OTLP_CERTIFICATE="none.pem")
    assert f"OTEL_EXPORTER_OTLP_CERTIFICATE: {tmp_path}/none.pem: certificate cannot be read" in said
