"""What a signal handler raises in the middle of an export reaches the application, and costs it nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.test_application import KINDS, variables
from tests.plugin.test_durable import assert_empty
from tests.plugin.test_forks import environment
from tests.support.instrumented import Arrived
from tests.support.receiver import HttpReceiver
from tests.support.soak import by_length

STORM = """
import gc, itertools, json, os, signal, sys, threading, time
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from otel_connect.plugin.exporters import DurableLogExporter, DurableMetricExporter, DurableSpanExporter
from otel_connect.plugin.process import DELIVERY

EXCEPTIONS, LONGEST_S = int(sys.argv[1]), 20
tracer = TracerProvider(shutdown_on_exit=False).get_tracer("storm")

class Boom(Exception):
    pass

def handle(*_):
    global handled
    handled += 1
    raise (Boom, KeyboardInterrupt)[raised % 2]

gc.disable()  # what is raised in a callback of the collector is only printed, by any program
signal.signal(signal.SIGALRM, handle)
handled, raised, numbers, said = 0, 0, itertools.count(), {"logs": [], "metrics": [], "traces": []}

class Collected(SimpleLogRecordProcessor):
    def __init__(self):
        self.records = []

    def on_emit(self, log_data):
        self.records.append(log_data)

    def shutdown(self): pass

def batch(kind, name):
    if kind == "traces":
        span = tracer.start_span(name)
        span.end()
        return [span]
    if kind == "logs":
        provider, collected = LoggerProvider(shutdown_on_exit=False), Collected()
        provider.add_log_record_processor(collected)
        provider.get_logger("storm").emit(body=name)
        return collected.records
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False).get_meter("storm").create_counter(name).add(1)
    return reader.get_metrics_data()

def make():
    return {"logs": DurableLogExporter(), "metrics": DurableMetricExporter(), "traces": DurableSpanExporter()}

def interrupted(act):
    '''Run it with a signal on its way; whether it came to its end.'''
    global raised
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, .00005 + (next(numbers) * 37 % 101) * .00003)
            act()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (Boom, KeyboardInterrupt):
        raised += 1
        return False
    return True

def export(kind, name):
    if exporters[kind].export(batches[kind, name]).name == "SUCCESS":
        said[kind].append(name)

def beside(kind, name):
    batches[kind, name] = batch(kind, name)
    thread = threading.Thread(target=export, args=(kind, name), daemon=True)
    thread.start()
    thread.join(LONGEST_S)
    assert not thread.is_alive(), "another thread hangs"

exporters, batches = make(), {}
for number in itertools.count():
    if raised >= EXCEPTIONS:
        break
    kind = list(said)[number % 3]
    name = f"{kind}.{number}"
    batches[kind, name] = batch(kind, name)
    if not interrupted(lambda: export(kind, name)) and raised % 10 == 0:
        beside(kind, f"{kind}.beside.{number}")
    if number % 100 == 0:
        gc.collect()
    if number % 20 == 0:
        interrupted(lambda: exporters[kind].force_flush(5))
    if number % 50 == 0:
        interrupted(lambda: [one.shutdown(5000) for one in exporters.values()])
        for one in exporters.values():
            one.shutdown(5000)
        exporters = make()
assert handled == raised, "not everything that was raised has reached the application"
for one in exporters.values():
    assert one.force_flush(1000 * LONGEST_S), "not everything is delivered"
    assert one.force_flush(0)

def fork():
    began = time.monotonic()
    if (child := os.fork()) == 0:
        os._exit(0)
    forked_s.append(time.monotonic() - began)
    assert os.waitpid(child, 0)[1] == 0

forked_s = []
for target in (fork, fork):
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
assert max(forked_s) < 1, "a fork waits for somebody who is not there"
differences = [account.difference for account in DELIVERY.accounts().values()]
for one in exporters.values():
    one.shutdown()
print(json.dumps({"said": said, "differences": differences, "raised": raised}))
"""
EXCEPTIONS = {"http/protobuf": by_length(full=20_000, short=600), "grpc": by_length(full=5_000, short=200)}


@pytest.mark.timeout(by_length(full=1200, short=180))
@pytest.mark.parametrize("protocol", KINDS)
def test_a_storm_of_exceptions(protocol: str, tmp_path: Path) -> None:
    with KINDS[protocol]() as receiver:
        command = [sys.executable, "-c", STORM, str(EXCEPTIONS[protocol])]
        shop = environment(variables(tmp_path, receiver.endpoint, protocol))
        done = subprocess.run(command, env=shop, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        arrived = Arrived(receiver)
    result = json.loads(done.stdout)
    assert result["differences"] == [0, 0, 0]
    assert set(result["said"]["traces"]) <= set(arrived.names)
    assert set(result["said"]["logs"]) <= {record["body"] for record in arrived.logs}
    assert set(result["said"]["metrics"]) <= {point["name"] for point in arrived.points}
    assert all(result["said"].values())
    assert_empty(tmp_path)


FORKED = """
import os, signal
from opentelemetry.sdk.trace import TracerProvider
from otel_connect.plugin.exporters import DurableSpanExporter

exporter, parent, children = DurableSpanExporter(), os.getpid(), []
tracer = TracerProvider(shutdown_on_exit=False).get_tracer("forked")
signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
while not children:
    span = tracer.start_span(f"span-{os.getpid()}")
    span.end()
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    result = exporter.export([span]).name
    signal.setitimer(signal.ITIMER_REAL, 0)
if result == "SUCCESS":
    os.write(1, f"{span.name}\\n".encode())
if os.getpid() != parent:
    span = tracer.start_span("child")
    span.end()
    assert exporter.export([span]).name == "SUCCESS"
    exporter.shutdown()
    os._exit(0)
assert os.waitpid(children[0], 0)[1] == 0
exporter.shutdown()
"""


@pytest.mark.timeout(60)
def test_a_child_that_returns_into_an_export_of_its_parent_does_not_wait_for_it(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        shop = environment(variables(tmp_path, receiver.endpoint))
        done = subprocess.run([sys.executable, "-c", FORKED], env=shop, stdout=subprocess.PIPE, text=True, check=True)
        assert {*done.stdout.split(), "child"} <= set(Arrived(receiver).names)
