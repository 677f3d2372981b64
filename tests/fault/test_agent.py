"""The whole agent with real attempts: backends that are away, and ends that are not asked for.

Each agent that is stopped gives an account that adds up; ``RunningAgent.stop`` asserts that. What must have
arrived is known from the programs that made the attempts, and from the spool as a killed agent left it.
"""

import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_connect.model import Signal
from tests.support.agent import RunningAgent
from tests.support.collector import await_until, free_ports
from tests.support.delivery import GRPC, HTTP
from tests.support.ledger import exit_ledgers
from tests.support.network import closed_port
from tests.support.receiver import GrpcReceiver, HttpReceiver, Receiver, Reply
from tests.support.soak import LongRun, by_length
from tests.support.status import Status, unix_listen

pytestmark = pytest.mark.captures

DOWN = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)
EVENT_ID, PID = "otel_connect.event.id", "process.pid"

CLIENT = """
import socket, sys, time
for _ in range(int(sys.argv[2])):
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", int(sys.argv[1])))
    time.sleep(float(sys.argv[3]))
"""


@contextmanager
def client(attempts: int, pause_s: float = 0) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program that makes refused attempts."""
    with closed_port() as port:
        argv = [sys.executable, "-I", "-S", "-c", CLIENT, str(port), str(attempts), str(pause_s)]
        with subprocess.Popen(argv) as process:
            try:
                yield process
            finally:
                process.kill()


def make_attempts(attempts: int) -> int:
    """Make refused attempts, and return the pid of who made them."""
    with client(attempts) as process:
        assert process.wait() == 0
    return process.pid


def ids_of(body: bytes) -> Iterator[tuple[int, str]]:
    """Give the pid and the event id of each log record of a request that is an attempt."""
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                facts: dict[str, Any] = {one.key: one.value for one in record.attributes}
                if EVENT_ID in facts:
                    yield facts[PID].int_value, facts[EVENT_ID].string_value


class Backend:
    """What has arrived at any number of receivers, by process."""

    def __init__(self) -> None:
        self.receivers: list[Receiver] = []

    def arrived(self, *pids: int) -> Counter[str]:
        """Count how often each attempt of these processes, or of all, arrived and was taken."""
        return Counter(
            one
            for receiver in self.receivers
            for request in receiver.requests
            if request.signal is Signal.LOGS and request.reply != DOWN
            for pid, one in ids_of(request.body)
            if not pids or pid in pids
        )


def environment(endpoint: str, state: Path, protocol: str = HTTP, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "STATE_DIRECTORY": str(state),
        **more,
    }


BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])


@BOTH
def test_a_backend_that_is_dead_at_the_start_gets_everything_later(protocol: str, tmp_path: Path) -> None:
    backend = Backend()
    (port,) = free_ports(1)
    with RunningAgent(environment=environment(f"http://127.0.0.1:{port}", tmp_path, protocol)) as agent:
        pid = make_attempts(50)
        agent.until(lambda: any("does not take requests" in line for line in agent.errors))
        with (HttpReceiver if protocol == HTTP else GrpcReceiver)(port=port) as receiver:
            backend.receivers.append(receiver)
            await_until(lambda: len(backend.arrived(pid)) == 50, 60)
            assert agent.stop() == 0
    assert set(backend.arrived(pid).values()) == {1}
    assert exit_ledgers(agent.errors)["logs"].dropped == {}
    assert not any("stay in the spool" in line for line in agent.errors)


def test_a_backend_that_dies_and_comes_back_gets_everything(tmp_path: Path) -> None:
    backend, listen = Backend(), unix_listen(tmp_path)
    (port,) = free_ports(1)
    where = environment(f"http://127.0.0.1:{port}", tmp_path / "state", OTEL_CONNECT_LISTEN=listen)
    (tmp_path / "state").mkdir()
    status = Status(listen)
    with RunningAgent(environment=where) as agent:
        pids = []
        for _ in range(3):
            with HttpReceiver(port=port) as receiver:
                backend.receivers.append(receiver)
                pids.append(make_attempts(40))
                await_until(lambda: len(backend.arrived(*pids)) == 40 * len(pids), 60)
            pids.append(make_attempts(40))
            document = status.document()
            assert all(account["difference"] == 0 for account in document["ledger"].values()), document
        with HttpReceiver(port=port) as receiver:
            backend.receivers.append(receiver)
            await_until(lambda: len(backend.arrived(*pids)) == 40 * len(pids), 60)
            assert agent.stop() == 0
    # A request that was on its way when the backend died may have come twice; nothing else can.
    assert len(backend.arrived(*pids)) == 40 * len(pids)
    assert exit_ledgers(agent.errors)["logs"].dropped == {}


def test_what_a_dead_backend_did_not_get_is_sent_by_the_next_start(tmp_path: Path) -> None:
    backend = Backend()
    (port,) = free_ports(1)
    where = environment(f"http://127.0.0.1:{port}", tmp_path)
    with RunningAgent(environment=where) as agent:
        pid = make_attempts(60)
        agent.until(lambda: any("does not take requests" in line for line in agent.errors))
        assert agent.stop() == 0
    (said,) = [line for line in agent.errors if "stay in the spool" in line]
    left = exit_ledgers(agent.errors)
    assert left["logs"].queued >= 60
    assert left["logs"].dropped == {}
    assert int(said.split("records")[0].split()[-1]) >= sum(ledger.queued for ledger in left.values())
    with HttpReceiver(port=port) as receiver, RunningAgent(environment=where) as agent:
        backend.receivers.append(receiver)
        await_until(lambda: len(backend.arrived(pid)) == 60, 60)
        assert agent.stop() == 0
    assert set(backend.arrived(pid).values()) == {1}
    recovered = exit_ledgers(agent.errors)
    assert {name: ledger.recovered for name, ledger in recovered.items()} == {
        name: ledger.queued for name, ledger in left.items()
    }


KILLS = by_length(full=200, short=5)


def on_disk(spool: Path, copy: Path) -> set[str]:
    """Read the ids that a killed agent has left, from a copy and without the project's own reader."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(spool, copy, ignore=shutil.ignore_patterns("*-shm"))
    connection = sqlite3.connect(copy / "spool.db")
    try:
        # The signal is in the high bits of the key: 0 is log records.
        rows = connection.execute("SELECT body FROM batches WHERE key >> 56 = 0").fetchall()
    finally:
        connection.close()
    return {one for (body,) in rows for _, one in ids_of(body)}


@pytest.mark.timeout(3600)
def test_kills_under_load_lose_nothing_that_was_committed(tmp_path: Path, long_run: LongRun) -> None:
    chance = random.Random(3)
    backend = Backend()
    state = tmp_path / "state"
    state.mkdir()

    def script() -> Iterator[Reply]:
        for number in count():
            yield DOWN if number % 3 else Reply(delay_s=0.05)

    committed: set[str] = set()
    with HttpReceiver(script()) as receiver, client(100_000_000, 0.001) as load:
        backend.receivers.append(receiver)
        where = environment(receiver.endpoint, state)
        for _ in range(KILLS):
            with RunningAgent(environment=where) as agent:
                make_attempts(20)
                Event().wait(chance.uniform(0, 0.6))
                agent.kill()
            left = on_disk(state / "spool", tmp_path / "copy")
            committed |= left
        load.kill()
        receiver.answer()
        with RunningAgent(environment=where) as agent:
            await_until(lambda: committed <= backend.arrived().keys(), 120)
            assert agent.stop() == 0
    arrived = backend.arrived()
    lost = committed - arrived.keys()
    long_run(
        f"{KILLS} SIGKILLs of the agent under load, with a backend that is slow and refuses two of three requests",
        f"{len(committed)} attempts found in the spool after a kill, {len(lost)} lost, "
        f"{arrived.total() - len(arrived)} sent twice",
    )
    assert left
    assert lost == set()
    assert exit_ledgers(agent.errors)["logs"].recovered >= len(left)  # and events of the agent, which have no id
    ledger = exit_ledgers(agent.errors)["logs"]
    assert (ledger.queued, ledger.dropped) == (0, {})
