"""Logging handlers of an application: such as export while they hold their locks, and such as raise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.test_application import variables
from tests.plugin.test_forks import environment
from tests.support.collector import free_ports
from tests.support.instrumented import Arrived
from tests.support.receiver import HttpReceiver

# The handler of the SDK's instrumentation and its processor that does not wait: ``Handler.handle`` holds the handler's
# lock during ``export()``. What the sending threads log about the spool needs that lock as well.
PROGRAM = """
import faulthandler, json, logging, os, sys, threading, time
from itertools import count
from pathlib import Path
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from otel_connect.config import ExportConfig
from otel_connect.export.exporter import OtlpExporter
from otel_connect.model import Signal
from otel_connect.plugin.delivery import Delivery, Station
from otel_connect.plugin.exporters import DurableLogExporter
from otel_connect.plugin.quiet import quiet_context

faulthandler.dump_traceback_later(30, exit=True)
trouble, root, endpoint, rounds = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
spool = root / "spool"

def opener():
    config = ExportConfig(endpoint=endpoint, protocol="http/protobuf", spool_directory=str(spool))
    return Station(OtlpExporter(config, context=quiet_context(), look_every_s=0.01))

class Notes(logging.Handler):
    '''What is said of the spool, and which threads said it.'''

    lines, threads = [], set()

    def emit(self, record):
        if record.getMessage().startswith("spool: "):
            self.lines.append(record.getMessage())
            self.threads.add(threading.current_thread().name)

def put_a_damaged_database_in_its_place():
    damaged = root / "damaged.db"
    damaged.write_bytes(os.urandom(8192))
    damaged.rename(spool / "spool.db")

def put_a_file_in_its_place():
    spool.rename(root / str(len(notes.lines)))
    spool.write_text("a file")

make = {"damaged": put_a_damaged_database_in_its_place, "unusable": put_a_file_in_its_place}[trouble]
over = {"damaged": "records were intact", "unusable": "is in use again"}[trouble]
delivery, notes = Delivery(opener), Notes()
provider = LoggerProvider(shutdown_on_exit=False)
provider.add_log_record_processor(SimpleLogRecordProcessor(DurableLogExporter(delivery)))
logging.getLogger().addHandler(LoggingHandler(logger_provider=provider))
logging.getLogger().addHandler(notes)
logging.getLogger().setLevel(logging.INFO)
ended, logged = threading.Event(), count()

def work():
    while not ended.is_set():
        logging.getLogger("shop").info("ordered %d", next(logged))

workers = [threading.Thread(target=work, daemon=True) for _ in range(2)]
for worker in workers:
    worker.start()
for _ in range(rounds):
    said = len(notes.lines)
    make()
    while len(notes.lines) == said:
        time.sleep(0.001)
    if spool.is_file():
        spool.unlink()
    while over not in notes.lines[-1]:
        time.sleep(0.001)
ended.set()
for worker in workers:
    worker.join()
account = delivery.accounts()[Signal.LOGS]
provider.shutdown()
print(json.dumps({
    "logged": next(logged), "accepted": account.accepted, "difference": account.difference,
    "lines": notes.lines, "threads": sorted(notes.threads),
}))
"""


ROUNDS = 10


@pytest.mark.parametrize(
    ("trouble", "lines"),
    [
        (
            "damaged",
            ["is not a database; it moves aside, and what is intact is kept", "0 records were intact, 0 are lost"],
        ),
        ("unusable", ["cannot be used (Not a directory); what comes in waits in memory", "is in use again after 0 s"]),
    ],
)
def test_a_handler_that_exports_never_waits_for_a_line_about_the_spool(
    trouble: str, lines: list[str], tmp_path: Path
) -> None:
    with HttpReceiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, trouble, str(tmp_path), receiver.endpoint, str(ROUNDS)],
            env=environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert [sum(line in one for one in result["lines"]) for line in lines] == [ROUNDS, ROUNDS]
    assert "export-logs-0" in result["threads"]
    assert (result["accepted"], result["difference"]) == (result["logged"], 0)


RAISING = """
import logging, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_connect.plugin.exporters import DurableSpanExporter

class Chat(logging.Handler):
    '''Sends warnings over the network, which is away as well.'''

    def emit(self, record):
        print(record.getMessage(), flush=True)
        raise ConnectionError("the chat is away")

logging.getLogger("otel_connect").addHandler(Chat())
exporter = DurableSpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("shop").start_span("order").end()
sys.stdin.readline()
print(exporter.force_flush(20_000), flush=True)
provider.shutdown()
"""


def test_a_handler_that_raises_does_not_end_delivery(tmp_path: Path) -> None:
    [port] = free_ports(1)
    shop = variables(tmp_path, f"http://127.0.0.1:{port}", "http/protobuf")
    with subprocess.Popen(
        [sys.executable, "-c", RAISING],
        env=environment(shop),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as application:
        assert application.stdout is not None
        assert "does not take requests" in application.stdout.readline()
        with HttpReceiver(port=port) as receiver:
            said, errors = application.communicate("go on\n", timeout=60)
            assert Arrived(receiver).names == ["order"]
    assert said.splitlines()[-1] == "True"
    assert errors == ""
