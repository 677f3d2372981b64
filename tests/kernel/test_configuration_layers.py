"""Which layer of the configuration wins, flag by flag and pair by pair; and how long a run lasts."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from otel_connect.model import Signal
from tests.support.agent import RunningAgent
from tests.support.collector import await_until
from tests.support.network import closed_port
from tests.support.otlp_json import data_points, log_records
from tests.support.receiver import GrpcReceiver, HttpReceiver

OTLP = "OTEL_EXPORTER_OTLP_"


def connect(port: int) -> None:
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", port))


def test_later_layers_win(tmp_path: Path) -> None:
    """Of each pair of neighbours both say something, and only the later one may be heard."""
    file, state = tmp_path / "otel-connect.toml", tmp_path / "state"
    with HttpReceiver() as of_file, HttpReceiver() as of_environment, HttpReceiver() as of_flags, closed_port() as port:
        file.write_text(
            f'export.endpoint = "{of_file.endpoint}"\n'
            'export.compression = "gzip"\n'  # the default: none
            f'export.spool_directory = "{tmp_path / "spool"}"\n'  # the unit's: STATE_DIRECTORY
            'export.headers = { "x-from" = "file" }\n'
            'log.format = "text"\n'
            'serve.listen = "off"\n'
        )
        environment = {
            "STATE_DIRECTORY": str(state),
            f"{OTLP}ENDPOINT": of_environment.endpoint,
            f"{OTLP}LOGS_ENDPOINT": f"{of_environment.endpoint}/v1/logs",
            f"{OTLP}METRICS_ENDPOINT": f"{of_environment.endpoint}/v1/metrics",
            f"{OTLP}TRACES_ENDPOINT": f"{of_environment.endpoint}/v1/traces",
            f"{OTLP}HEADERS": "x-from=environment",
            f"{OTLP}PROTOCOL": "grpc",
            "OTEL_CONNECT_LOG_FORMAT": "text",
        }
        flags = ("--endpoint", of_flags.endpoint, "--protocol", "http/protobuf", "--log-format", "json")
        with RunningAgent("--config", str(file), *flags, environment=environment) as agent:
            connect(port)
            of_flags.await_requests(2)
    assert {one.signal for one in of_flags.requests} == set(Signal)
    assert not of_environment.requests
    assert not of_file.requests
    for request in of_flags.requests:
        assert request.metadata["content-encoding"] == "gzip"
        assert request.metadata["x-from"] == "environment"
    assert (tmp_path / "spool" / "spool.db").exists()
    assert not (state / "spool").exists()
    assert all(json.loads(line) for line in agent.errors)


def test_the_state_directory_of_a_unit_wins_over_the_default(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        environment = {"STATE_DIRECTORY": str(tmp_path), f"{OTLP}ENDPOINT": receiver.endpoint}
        with RunningAgent(environment=environment | {"OTEL_CONNECT_LISTEN": "off"}):
            assert (tmp_path / "spool" / "spool.db").exists()


def test_the_flags_that_say_where_and_how() -> None:
    with GrpcReceiver() as receiver, closed_port() as port:
        flags = ("--endpoint", receiver.endpoint, "--protocol", "grpc", "--output", "otlp")
        with RunningAgent(*flags, environment={"OTEL_CONNECT_LISTEN": "off"}):
            connect(port)
            receiver.await_requests(2)
    assert {one.signal for one in receiver.requests} == set(Signal)
    with RunningAgent("--output", "json", environment={f"{OTLP}ENDPOINT": "http://127.0.0.1:1"}) as agent:
        agent.until(lambda: True)
    assert all(line.startswith('{"resource') for line in agent.output)


def test_it_stops_after_the_duration() -> None:
    with RunningAgent("--duration", "1", "--output", "json") as agent:
        began = time.monotonic()
        assert agent.process.wait(20) == 0
        assert 0.5 <= time.monotonic() - began < 10


def test_without_a_duration_it_does_not_stop() -> None:
    with RunningAgent("--output", "json") as agent:
        with pytest.raises(TimeoutError):
            await_until(lambda: agent.process.poll() is not None, 2)
        agent.process.send_signal(signal.SIGINT)
        assert agent.process.wait(20) == 0


def test_another_output_takes_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text("export.output = 'json'\n")
    with RunningAgent("--config", str(file)) as agent:
        file.write_text("export.output = 'console'\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.until(lambda: any("export.output has changed: needs a restart" in line for line in agent.errors))
    assert all(line.startswith('{"resource') for line in agent.output)


def test_variables_that_are_no_keys() -> None:
    environment = {
        f"{OTLP}METRICS_TEMPORALITY_PREFERENCE": "delta",
        f"{OTLP}METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
        "OTEL_RESOURCE_ATTRIBUTES": "cloud.region=here,team=night%20shift",
        "OTEL_SERVICE_NAME": "connections",
        "K8S_NODE_NAME": "node-7",
    }
    with closed_port() as port, RunningAgent("--output", "json", environment=environment) as agent:
        seen = len(agent.output)
        connect(port)
        agent.until(lambda: len(agent.output) > seen)
    documents = [json.loads(line) for line in agent.output]
    points = data_points(documents)
    of_agent = next(one["resource"] for one in points if one["resource"]["service.name"] == "connections")
    assert (of_agent["cloud.region"], of_agent["team"], of_agent["k8s.node.name"]) == ("here", "night shift", "node-7")
    (duration,) = {one["kind"] for one in points if one["name"] == "otel_connect.attempt.duration"}
    assert duration == "exponentialHistogram"
    assert {one["aggregationTemporality"] for one in points if one["name"] == "otel_connect.attempts"} == {1}
    ours = [one for one in log_records(documents) if one["attributes"].get("process.pid") == os.getpid()]
    assert [one["resource"].get("cloud.region") for one in ours] == ["here"]
    assert [one["resource"].get("team") for one in ours] == [None]
