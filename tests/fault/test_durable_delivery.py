"""The exporter with its spool: restarts, requests made of several batches, dead letters, changes while it runs."""

import base64
import json
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from otel_connect.config import Compression, ExportConfig, Protocol
from otel_connect.errors import ConfigError, SpoolInUseError
from otel_connect.export.answer import Action, Answer
from otel_connect.export.dead_letters import NAME
from otel_connect.export.delay import BOUNDARIES_S
from otel_connect.export.directory import Directory
from otel_connect.export.disk import DiskStore
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.forks import GATE
from otel_connect.export.ledger import Reason
from otel_connect.export.rows import Tally
from otel_connect.export.sender import State
from otel_connect.export.store import Head, Opened
from otel_connect.model import Request, Signal
from tests.support.delivery import (
    GRPC,
    HTTP,
    MEMORY,
    PATIENT,
    QUICK,
    Bench,
    configured,
    grpc_error,
    logs,
    receive,
    traces,
)
from tests.support.receiver import (
    Certificates,
    GrpcReceiver,
    HttpReceiver,
    Reply,
    ServerTls,
    make_certificates,
    partial_success,
)

BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])
DOWN = Reply(status=503, code=grpc_error.__globals__["grpc"].StatusCode.UNAVAILABLE)


def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def waiting(bench: Bench, requests: list[Request]) -> None:
    """Put requests while the sender pauses after its first try, so that they wait together."""
    bench.put(requests[0])
    bench.await_answers(1)
    for one in requests[1:]:
        bench.put(one)


@BOTH
def test_what_was_not_sent_is_sent_by_the_next_run(
    protocol: Protocol, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = ExportConfig(endpoint=nowhere(), protocol=protocol, spool_directory=f"{tmp_path}/spool")
    first = Bench(config)
    for request in (logs("a", "b"), traces("t"), logs("c")):
        first.put(request)
    account = first.close(0.1)
    assert (account.accepted, account.queued, account.dropped) == (3, 3, {})
    assert "4 records stay in the spool and are sent at the next start" in caplog.messages
    with receive(protocol) as receiver:
        second = Bench(configured(receiver, protocol, spool_directory=f"{tmp_path}/spool"))
        account = second.close()
    assert sorted(receiver.acknowledged) == ["a", "b", "c", "t"]
    assert account == (0, 3, 0, {}, 3)


@BOTH
def test_batches_that_wait_share_a_request(protocol: Protocol) -> None:
    with receive(protocol, [DOWN]) as receiver:
        bench = Bench(configured(receiver, protocol, request_bytes=4096), PATIENT)
        waiting(bench, [logs(f"{number}", padding=900) for number in range(10)])
        account = bench.close()
    assert receiver.acknowledged == [f"{number}" for number in range(10)]
    assert [len(one.ids) for one in receiver.requests] == [1, 4, 4, 2]
    assert all(len(one.body) <= 4096 for one in receiver.requests)
    assert account.exported == 10


@BOTH
def test_a_partial_success_counts_over_all_that_shared_a_request(protocol: Protocol) -> None:
    with receive(protocol, [DOWN, partial_success(Signal.LOGS, 3, "too old")]) as receiver:
        bench = Bench(configured(receiver, protocol), PATIENT)
        waiting(bench, [logs("a", "b"), logs("c", "d")])
        account = bench.close()
    assert len(receiver.requests) == 2
    assert (account.exported, account.dropped) == (1, {Reason.REJECTED_PARTIAL: 3})


@pytest.mark.parametrize(
    ("protocol", "refusal"),
    [(HTTP, Reply(status=413)), (GRPC, grpc_error(DOWN.code.RESOURCE_EXHAUSTED))],
    ids=["http", "grpc"],
)
def test_what_is_too_large_together_goes_one_by_one_and_then_in_halves(protocol: Protocol, refusal: Reply) -> None:
    with receive(protocol, [DOWN, refusal, refusal]) as receiver:
        bench = Bench(configured(receiver, protocol), PATIENT)
        waiting(bench, [logs("a", "b"), logs("c"), logs("d")])
        account = bench.close()
    ids = [one.ids for one in receiver.requests]
    assert ids == [tuple("ab"), tuple("abcd"), tuple("ab"), ("a",), ("b",), ("c",), ("d",)]
    assert (account.exported, account.dropped) == (4, {})


def test_a_backend_with_a_limit_of_its_own_is_not_asked_for_more_again() -> None:
    with GrpcReceiver([DOWN], max_request_bytes=20_000) as receiver:
        bench = Bench(configured(receiver, GRPC), PATIENT)
        waiting(bench, [logs(f"{number}", padding=1000) for number in range(100)])
        account = bench.close()
    assert account.exported == 100
    assert sorted(receiver.acknowledged, key=int) == [f"{number}" for number in range(100)]


@pytest.mark.parametrize(
    ("protocol", "refusal", "said"),
    [
        (HTTP, Reply(status=400, headers={"content-type": "text/plain"}, body=b"no such\x1b tenant"), "HTTP 400"),
        (GRPC, grpc_error(DOWN.code.INVALID_ARGUMENT), "INVALID_ARGUMENT"),
    ],
    ids=["http", "grpc"],
)
def test_one_refused_batch_costs_no_neighbour_and_becomes_a_dead_letter(
    protocol: Protocol, refusal: Reply, said: str, tmp_path: Path
) -> None:
    bad = logs("bad", "worse")
    with receive(protocol, [DOWN, refusal, Reply(), refusal]) as receiver:
        bench = Bench(configured(receiver, protocol, spool_directory=f"{tmp_path}/spool"), PATIENT)
        waiting(bench, [logs("a"), bad, logs("c")])
        account = bench.close()
    assert receiver.acknowledged == ["a", "c"]
    assert (account.exported, account.dropped) == (2, {Reason.REJECTED_PERMANENT: 2})
    file = tmp_path / "spool" / NAME
    (line,) = file.read_text().splitlines()
    letter = json.loads(line)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (letter["signal"], letter["records"]) == ("logs", 2)
    assert base64.b64decode(letter["body"]) == bad.body
    assert said in letter["reason"]
    assert letter["reason"].isprintable()


def test_as_many_requests_are_under_way_as_configured() -> None:
    with HttpReceiver([Reply(delay_s=600)] * 3) as receiver:
        bench = Bench(configured(receiver, HTTP, concurrency=3, request_bytes=4096, timeout_ms=60_000))
        for number in range(3):
            bench.put(logs(f"{number}", padding=3000))
        receiver.await_requests(3)  # none has been answered
        bench.put(logs("3"))
        receiver.close()
        bench.close(0.1)


def test_while_delivery_fails_one_tries_for_all() -> None:
    with HttpReceiver(iter(lambda: DOWN, None)) as receiver:
        bench = Bench(configured(receiver, HTTP, concurrency=8, request_bytes=4096), PATIENT)
        for number in range(40):
            bench.put(logs(f"{number}", padding=3000))
        receiver.await_requests(1)
        receiver.answer()
        account = bench.close()
    assert account.exported == 40
    refused = [one for one in receiver.requests if one.reply.status == 503]
    assert len(refused) <= 8  # those that were on their way when the first answer came


class Crowd:
    """A way to a backend that refuses, first several requests at one moment; counts those under way after that."""

    def __init__(self, together: int) -> None:
        self._changed = threading.Condition()
        self._together = threading.Barrier(together)
        self._begun = self._under_way = 0
        self.most = 0

    def send(self, body: bytes) -> Answer:  # noqa: ARG002 - whatever it is
        with self._changed:
            self._begun += 1
            first = self._begun <= self._together.parties
        if first:
            self._together.wait(10)
            return Answer(Action.RETRY)
        with self._changed:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        time.sleep(0.005)  # what a request takes
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
        return Answer(Action.RETRY)

    def close(self) -> None:
        """Nothing to close."""

    def await_begun(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._begun >= count, 10)


def test_those_that_failed_together_do_not_go_on_trying_together() -> None:
    crowd = Crowd(4)
    config = ExportConfig(endpoint="http://x", spool_directory=MEMORY, concurrency=4, request_bytes=4096)
    exporter = OtlpExporter(config, backoff=QUICK, opener=lambda _: crowd)
    for number in range(8):
        exporter.put(logs(f"{number}", padding=3000))
    crowd.await_begun(40)
    exporter.close(0)
    assert crowd.most == 1
    account = exporter.accounts()[Signal.LOGS]
    assert (account.dropped, account.difference) == ({Reason.SHUTDOWN: 8}, 0)


class Mended:
    """A way to a backend that refuses two requests at one moment, a third once a fourth has come, and no more."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._together = threading.Barrier(2)
        self.third, self._fourth = threading.Event(), threading.Event()

    def send(self, body: bytes) -> Answer:  # noqa: ARG002 - whatever it is
        number = next(self._numbers)
        if number <= 2:
            self._together.wait(10)
        elif number == 3:
            self.third.set()
            self._fourth.wait(10)
        else:
            self._fourth.set()
        return Answer(Action.RETRY if number <= 3 else Action.DELIVERED)

    def close(self) -> None:
        """Nothing to close."""


def test_close_has_its_last_try_while_another_thread_tries_for_all() -> None:
    backend = Mended()
    pauses = iter([1.0, 0.0])  # the first to fail waits for minutes, the second goes on at once
    config = ExportConfig(endpoint="http://x", spool_directory=MEMORY, concurrency=2, request_bytes=4096)
    exporter = OtlpExporter(config, backoff=PATIENT, opener=lambda _: backend, random=lambda: next(pauses, 1.0))
    for number in range(4):
        exporter.put(logs(f"{number}", padding=3000))
    assert backend.third.wait(10)
    exporter.close(30)
    account = exporter.accounts()[Signal.LOGS]
    assert (account.exported, account.difference) == (4, 0)


@BOTH
def test_another_endpoint_is_used_from_the_next_request_on(protocol: Protocol) -> None:
    with receive(protocol, [DOWN]) as old, receive(protocol) as new:
        bench = Bench(configured(old, protocol), PATIENT)
        waiting(bench, [logs("a"), logs("b")])
        assert bench.exporter.health()[Signal.LOGS].state is State.RETRYING
        changed = configured(
            new,
            protocol,
            headers={"x-tenant": "blue"},
            compression=Compression.GZIP,
            concurrency=4,
            spool_directory=bench.exporter._config.spool_directory,
        )
        bench.exporter.reconfigure(changed)  # a pause of minutes ends with it
        (received, *_) = new.await_requests(1)
        assert received.metadata["x-tenant"] == "blue"
        bench.exporter.reconfigure(changed.model_copy(update={"concurrency": 1}))
        bench.put(logs("c"))
        account = bench.close()
    assert new.acknowledged == ["a", "b", "c"]
    assert (account.exported, account.dropped) == (3, {})


@BOTH
def test_the_late_failure_of_an_endpoint_that_was_left_makes_nobody_wait(
    protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    with receive(protocol, [replace(DOWN, delay_s=600)]) as old, receive(protocol) as new:
        bench = Bench(configured(old, protocol, timeout_ms=60_000), PATIENT)
        bench.put(logs("a"))
        old.await_requests(1)  # it hangs
        directory = bench.exporter._config.spool_directory
        bench.exporter.reconfigure(configured(new, protocol, spool_directory=directory))
        old.close()
        new.await_requests(1)
        account = bench.close()
    assert new.acknowledged == ["a"]
    assert (account.exported, account.dropped) == (1, {})
    assert "does not take requests" not in caplog.text  # the new one has not been asked yet


def test_a_configuration_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        config = configured(receiver, HTTP, spool_directory=f"{tmp_path}/spool")
        bench = Bench(config)
        for update, problem in (
            ({"endpoint": "ftp://x"}, "export.endpoint: has the unknown scheme"),
            ({"endpoint": None}, "export.endpoint: is not set"),
            ({"endpoint": "https://x", "certificate": tmp_path / "none"}, "certificate cannot be read"),
            ({"spool_directory": "/elsewhere"}, "export.spool_directory: cannot be changed while the agent runs"),
        ):
            with pytest.raises(ConfigError, match=problem):
                bench.exporter.reconfigure(config.model_copy(update=update))
        bench.put(logs("a"))
        account = bench.close()
    assert account.exported == 1


@BOTH
def test_requests_under_way_survive_many_changes(protocol: Protocol) -> None:
    with receive(protocol) as one, receive(protocol) as other:
        bench = Bench(configured(one, protocol))
        directory = bench.exporter._config.spool_directory
        for number in range(60):
            bench.put(logs(f"{number}"))
            target = other if number % 2 else one
            bench.exporter.reconfigure(
                configured(target, protocol, spool_directory=directory, concurrency=number % 3 + 1)
            )
        account = bench.close()
    assert account == (60, 60, 0, {}, 0)
    assert sorted(one.acknowledged + other.acknowledged, key=int) == [f"{number}" for number in range(60)]


def test_the_state_of_the_spool_and_the_delays_are_told(tmp_path: Path) -> None:
    now = [0.0]
    with HttpReceiver([DOWN]) as receiver:
        bench = Bench(configured(receiver, HTTP, spool_directory=f"{tmp_path}/spool"), PATIENT, clock=lambda: now[0])
        waiting(bench, [logs("a", "b")])
        now[0] += 0.4
        state = bench.exporter.spool_state()
        assert (state.records[Signal.LOGS], state.degraded) == (2, None)
        assert state.oldest_age_s == pytest.approx(0.4)
        bench.close()
    delays = bench.exporter.delays()[Signal.LOGS]
    assert dict(zip((*BOUNDARIES_S, "more"), delays.counts, strict=True))[0.5] == sum(delays.counts) == 2
    assert delays.sum_s == pytest.approx(0.8)


def test_a_locked_directory_can_be_told_from_other_errors(tmp_path: Path) -> None:
    config = ExportConfig(endpoint=nowhere(), spool_directory=f"{tmp_path}/spool")
    bench = Bench(config)
    with pytest.raises(SpoolInUseError):
        OtlpExporter(config)
    bench.close(0)
    Bench(config).close(0)


def test_the_child_of_a_fork_leaves_the_spool_to_its_parent(tmp_path: Path) -> None:
    config = ExportConfig(endpoint=nowhere(), spool_directory=f"{tmp_path}/spool")
    bench = Bench(config)
    bench.put(logs("a"))
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        GATE.after_fork_in_child()
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    bench.put(logs("b"))
    bench.close(0)
    second = Bench(config)  # the child lives, and does not hold the lock
    assert second.close(0).queued == 2
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)
    for descriptor in (*ready, *go_on):
        os.close(descriptor)


def test_a_fault_of_the_spool_does_not_end_delivery(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = iter([RuntimeError("no such thing")] * 3)

    class Faulty(DiskStore):
        """Finds nothing, but a fault of its own, a few times."""

        def oldest(self, signal: Signal, after: int, limit: int) -> Sequence[Head]:
            if (fault := next(faults, None)) is not None:
                raise fault
            return super().oldest(signal, after, limit)

    def open_faulty(path: Path) -> Opened:
        store = Faulty(Directory(path))
        store.verify(Tally())
        return Opened(store, {})

    with HttpReceiver() as receiver:
        config = configured(receiver, HTTP, spool_directory=f"{tmp_path}/spool")
        exporter = OtlpExporter(config, backoff=QUICK, disk=open_faulty)
        exporter.put(logs("a"))
        receiver.await_requests(1)
        exporter.close(10)
    account = exporter.accounts()[Signal.LOGS]
    assert (account.exported, account.difference) == (1, 0)
    assert "a fault of the agent (RuntimeError: no such thing); please report this" in caplog.text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@BOTH
def test_certificates_that_change_on_disk_are_taken_up(
    protocol: Protocol, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "otel_connect")
    (tmp_path / "new").mkdir()
    replaced = make_certificates(tmp_path / "new")
    authority, client, key = (tmp_path / name for name in ("ca.pem", "client.pem", "client.key"))
    for source, target in zip(
        (certificates.authority, certificates.client, certificates.client_key), (authority, client, key), strict=True
    ):
        shutil.copy(source, target)
    files = {"certificate": authority, "client_certificate": client, "client_key": key}
    old = ServerTls(certificates.server, certificates.server_key, certificates.authority)
    new = ServerTls(replaced.server, replaced.server_key, replaced.authority)
    with receive(protocol, tls=old) as receiver:
        bench = Bench(configured(receiver, protocol, **files))
        bench.put(logs("a"))
        receiver.await_requests(1)
        # Half of a renewal, and half of a file: the old ones stay in use.
        for broken in (replaced.client.read_bytes(), replaced.client.read_bytes()[:300]):
            client.write_bytes(broken)
            sent = len(receiver.requests)
            bench.put(logs("b"))
            receiver.await_requests(sent + 1)
        bench.await_answers(3)
        port = receiver.port
    with receive(protocol, tls=new, port=port) as receiver:
        bench.put(logs("c"))
        bench.await_answers(4)
        assert receiver.requests == []
        client.unlink()
        shutil.copy(replaced.client, client)
        shutil.copy(replaced.client_key, key)
        shutil.copy(replaced.authority, authority)
        receiver.await_requests(1)
        account = bench.close()
    assert receiver.acknowledged == ["c"]
    assert account.exported == 4
    about_files = [line for line in caplog.messages if "certificates" in line]
    assert len([line for line in about_files if "the old certificates stay in use" in line]) == 1
    assert about_files[-1] == "logs: the certificates have changed and are in use"


def test_a_reload_takes_up_mended_certificates_at_once(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    authority = tmp_path / "ca.pem"
    shutil.copy(make_certificates(tmp_path / "others").authority, authority)
    with HttpReceiver(tls=ServerTls(certificates.server, certificates.server_key)) as receiver:
        config = configured(receiver, HTTP, certificate=authority, spool_directory=f"{tmp_path}/spool")
        bench = Bench(config, PATIENT)
        bench.put(logs("a"))
        bench.await_answers(1)
        shutil.copy(certificates.authority, authority)
        bench.exporter.reconfigure(config)  # a pause of minutes ends with it
        receiver.await_requests(1)
        assert bench.close().exported == 1
