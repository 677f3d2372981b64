"""Every answer a backend can give, over real sockets, and what becomes of the records."""

import gzip
import itertools
import logging
import socket
import time
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from otel_connect.config import Compression, ExportConfig, Protocol, SignalConfig
from otel_connect.errors import ConfigError
from otel_connect.export.answer import Action
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.ledger import Reason
from otel_connect.export.sender import State
from otel_connect.model import Request, Signal
from tests.support.delivery import (
    GRPC,
    HTTP,
    MEMORY,
    PATIENT,
    PROTOBUF,
    Bench,
    configured,
    grpc_error,
    lengthy,
    logs,
    metrics,
    receive,
    traces,
)
from tests.support.receiver import (
    CUT,
    DATA,
    GOAWAY,
    RST_STREAM,
    SUCCESS,
    Certificates,
    Frame,
    GrpcReceiver,
    HttpReceiver,
    Reply,
    ServerTls,
    WireReceiver,
    http2_headers,
    make_certificates,
    partial_success,
)

JSON = {"content-type": "Application/JSON; charset=utf-8"}
BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# One table for each action: the protocol, and the answer that leads to it.

RETRIED = {
    **{f"http {status}": (HTTP, Reply(status=status)) for status in (429, 502, 503, 504)},
    "http cut": (HTTP, CUT),
    "http half an answer": (HTTP, Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")),
    **{
        f"grpc {code.name}": (GRPC, grpc_error(code))
        for code in (
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.ABORTED,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DATA_LOSS,
        )
    },
    "grpc RESOURCE_EXHAUSTED, RetryInfo": (GRPC, grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, 0.01)),
    "http too late": (HTTP, Reply(delay_s=60)),
    "grpc too late": (GRPC, Reply(delay_s=60)),
}

KEPT_AS_UNHEALTHY = {
    **{f"http {status}": (HTTP, Reply(status=status)) for status in (401, 403, 404, 405, 407, 501)},
    "http garbage": (HTTP, Reply(raw=b"\x00\xff\x1b]0;owned\x07\r\n\r\n")),
    **{
        f"http {status}": (HTTP, Reply(status=status, headers={"location": "/v1/logs"}))
        for status in (301, 302, 303, 307, 308)
    },
    "http 200 web page": (HTTP, Reply(headers={"content-type": "text/html"}, body=b"<h1>Welcome</h1>")),
    "http 200 web page as protobuf": (HTTP, Reply(headers=PROTOBUF, body=b"<h1>Welcome</h1>")),
    "http 200 failure in json": (HTTP, Reply(headers=JSON, body=b'{"code":16,"message":"who?"}')),
    "http 200 not gzip": (HTTP, Reply(headers={**PROTOBUF, "content-encoding": "gzip"}, body=b"abc")),
    "http 200 too large": (HTTP, Reply(headers=PROTOBUF, body=lengthy(5))),
    "http 200 gzip bomb": (
        HTTP,
        Reply(headers={**PROTOBUF, "content-encoding": "gzip"}, body=gzip.compress(lengthy(100))),
    ),
    "grpc OK unreadable": (GRPC, Reply(body=b"<h1>Welcome</h1>")),
    "grpc OK too large": (GRPC, Reply(body=lengthy(5))),
    **{
        f"grpc {code.name}": (GRPC, grpc_error(code))
        for code in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNIMPLEMENTED,
        )
    },
}

TOO_LARGE = {
    "http 413": (HTTP, Reply(status=413)),
    "grpc RESOURCE_EXHAUSTED": (GRPC, grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED)),
}

BELIEVED = {
    "http 204": (HTTP, Reply(status=204)),
    "http 202 json": (HTTP, Reply(status=202, headers=JSON, body=b'{"requestId":"a1"}')),
    "http 200 unknown field in json": (HTTP, Reply(headers=JSON, body=b'{"partialSuccess":{},"requestId":"a1"}')),
    "http 200 unknown field in protobuf": (HTTP, Reply(headers=PROTOBUF, body=b"\x7a\x02a1")),
    "http 200 json with a byte order mark": (HTTP, Reply(headers=JSON, body=b"\xef\xbb\xbf{}\r\n")),
    "http 200 gzipped json": (HTTP, Reply(headers={**JSON, "content-encoding": "GZIP"}, body=gzip.compress(b"{}"))),
    "grpc OK unknown field": (GRPC, Reply(body=b"\x7a\x02a1")),
}

REJECTED = {
    **{f"http {status}": (HTTP, Reply(status=status)) for status in (400, 415, 422, 500)},
    **{
        f"grpc {code.name}": (GRPC, grpc_error(code))
        for code in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.ALREADY_EXISTS,
            grpc.StatusCode.FAILED_PRECONDITION,
        )
    },
}


def rows(table: dict[str, tuple[Protocol, Reply]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("protocol", "reply"), list(table.values()), ids=list(table))


@BOTH
@pytest.mark.parametrize("request_", [logs("a", "b"), metrics("a", "b"), traces("a", "b")], ids=list(Signal))
@pytest.mark.parametrize("compression", list(Compression))
def test_success_is_delivered_once(protocol: Protocol, request_: Request, compression: Compression) -> None:
    with receive(protocol) as receiver:
        bench = Bench(configured(receiver, protocol, compression=compression, headers={"X-Tenant": "blue"}))
        bench.put(request_)
        account = bench.close(signal=request_.signal)
    (received,) = receiver.requests
    assert (received.signal, received.body, received.ids) == (request_.signal, request_.body, ("a", "b"))
    assert received.metadata["x-tenant"] == "blue"
    assert received.metadata["user-agent"].startswith("OTel-OTLP-Exporter-otel-connect/")
    assert received.metadata.get("content-encoding") == ("gzip" if compression == "gzip" and protocol is HTTP else None)
    assert (account.accepted, account.exported, account.dropped) == (2, 2, {})


@BOTH
@pytest.mark.parametrize("signal", list(Signal))
def test_partial_success_is_counted_and_never_sent_again(protocol: Protocol, signal: Signal) -> None:
    make = {Signal.LOGS: logs, Signal.METRICS: metrics, Signal.TRACES: traces}[signal]
    script = [partial_success(signal, 2, "too old"), partial_success(signal, 99, "more than were sent")]
    with receive(protocol, [*script, partial_success(signal, 0, "only a warning")]) as receiver:
        bench = Bench(configured(receiver, protocol))
        for number in range(1, 4):
            bench.put(make("a", "b", "c"))
            bench.watched[signal].await_answers(number)
        account = bench.close(signal=signal)
    assert len(receiver.requests) == 3
    assert (account.exported, account.dropped) == (4, {Reason.REJECTED_PARTIAL: 5})


@rows(RETRIED)
def test_passing_trouble_is_retried_until_it_is_over(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, [reply, reply]) as receiver:
        bench = Bench(configured(receiver, protocol, timeout_ms=300 if reply.delay_s else 10_000))
        bench.put(logs("a", "b"))
        receiver.await_requests(3)
        account = bench.close()
        assert [one.ids for one in receiver.requests] == [("a", "b")] * 3
    assert [one.action for one in bench.watched[Signal.LOGS].answers] == [Action.RETRY] * 2 + [Action.DELIVERED]
    assert (account.exported, account.dropped) == (2, {})


@rows(BELIEVED)
def test_an_answer_that_says_more_than_we_know_is_a_success(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, [reply]) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a", "b"))
        account = bench.close()
    assert [one.ids for one in receiver.requests] == [("a", "b")]
    assert (account.exported, account.dropped) == (2, {})


@rows(KEPT_AS_UNHEALTHY)
def test_an_operators_error_is_kept_and_reported(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, itertools.repeat(reply)) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a"))
        assert bench.await_answers(2).action is Action.RETRY_UNHEALTHY
        assert bench.state() is State.UNHEALTHY
        receiver.answer()
        account = bench.close()
    assert receiver.acknowledged == ["a"]
    assert all("unexpected" not in one.metadata for one in receiver.requests)
    assert (bench.state(), account.exported, account.dropped) == (State.DELIVERING, 1, {})


@rows(TOO_LARGE)
def test_what_is_too_large_is_halved(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, [reply, SUCCESS, reply]) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a", "b", "c", "d"))
        account = bench.close()
    assert [one.ids for one in receiver.requests] == [tuple("abcd"), tuple("ab"), tuple("cd"), ("c",), ("d",)]
    assert (account.exported, account.dropped) == (4, {})


@rows(TOO_LARGE)
def test_a_single_record_that_is_too_large_is_dropped(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, [reply] * 5) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a", "b", "c"))
        bench.await_answers(1)
        bench.put(logs("d"))
        account = bench.close()
    assert receiver.acknowledged == ["d"]
    assert (account.exported, account.dropped) == (1, {Reason.TOO_LARGE: 3})


def test_the_limit_of_a_real_grpc_server_is_met_by_halving() -> None:
    with GrpcReceiver(max_request_bytes=5000) as receiver:
        bench = Bench(configured(receiver, GRPC))
        bench.put(logs(*"abcdefgh", padding=2000))
        account = bench.close()
    assert receiver.acknowledged == list("abcdefgh")
    assert [len(one.ids) for one in receiver.requests] == [2, 2, 2, 2]
    assert account.exported == 8


@rows(REJECTED)
def test_refused_data_is_dropped_and_the_next_delivered(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, [reply]) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a", "b"))
        bench.await_answers(1)
        bench.put(logs("c"))
        account = bench.close()
    assert [one.ids for one in receiver.requests] == [("a", "b"), ("c",)]
    assert (account.exported, account.dropped) == (1, {Reason.REJECTED_PERMANENT: 2})


# A gRPC call that something else than a gRPC server answers.
NOT_GRPC = {
    "cut": ((), Action.RETRY),
    "goaway": ((Frame(GOAWAY, 0, bytes(8)),), Action.RETRY),
    "reset": ((Frame(RST_STREAM, 0, (2).to_bytes(4, "big")),), Action.RETRY),
    "garbage": ((Frame(DATA, 8, b"\xff" * 9),), Action.RETRY),
    "503": ((http2_headers({":status": "503"}, last=True),), Action.RETRY),
    "302": ((http2_headers({":status": "302", "location": "https://elsewhere"}, last=True),), Action.RETRY_UNHEALTHY),
    "401": ((http2_headers({":status": "401"}, last=True),), Action.RETRY_UNHEALTHY),
    "404": ((http2_headers({":status": "404"}, last=True),), Action.RETRY_UNHEALTHY),
    "413": ((http2_headers({":status": "413"}, last=True),), Action.SPLIT),
    "no status": ((http2_headers({":status": "200"}, last=True),), Action.RETRY_UNHEALTHY),
    "web page": (
        (http2_headers({":status": "200", "content-type": "text/html"}, last=False), Frame(DATA, 1, b"<h1>Hi</h1>")),
        Action.RETRY_UNHEALTHY,
    ),
}


@pytest.mark.parametrize(("frames", "action"), list(NOT_GRPC.values()), ids=list(NOT_GRPC))
def test_what_is_no_grpc_at_all_loses_nothing(frames: tuple[Frame, ...], action: Action) -> None:
    with WireReceiver([frames]) as receiver:
        bench = Bench(configured(receiver, GRPC))
        bench.put(logs("a", "b"))
        answer = bench.await_answers(1)
        account = bench.close()
    assert answer.action is action, answer
    assert receiver.requests[-1].ids in {("a", "b"), ("b",)}
    assert (account.exported, account.dropped) == (2, {})


@BOTH
def test_a_refused_connection_is_retried_until_somebody_listens(protocol: Protocol) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    bench = Bench(ExportConfig(endpoint=f"http://127.0.0.1:{port}", protocol=protocol))
    bench.put(logs("a"))
    answer = bench.await_answers(2)
    assert answer.action is Action.RETRY
    assert "Connection refused" in answer.message
    assert bench.state() is State.RETRYING
    with (HttpReceiver if protocol is HTTP else GrpcReceiver)(port=port) as receiver:
        receiver.await_requests(1)
        account = bench.close()
    assert account.exported == 1


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        (HTTP, Reply(status=503, headers={"Retry-After": "1"})),
        (GRPC, grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, 0.5)),
        (GRPC, grpc_error(grpc.StatusCode.UNAVAILABLE, 0.5)),
    ],
    ids=["http", "grpc exhausted", "grpc unavailable"],
)
def test_the_wait_the_backend_asks_for_is_kept(protocol: Protocol, reply: Reply) -> None:
    with receive(protocol, [reply]) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a"))
        began = bench.await_answers(1).retry_after_s, time.monotonic()
        receiver.await_requests(2)
        waited = time.monotonic() - began[1]
        bench.close()
    assert began[0] in {0.5, 1.0}
    assert waited >= began[0] - 0.05


@BOTH
def test_records_expire_after_a_day(protocol: Protocol) -> None:
    now = [0.0]
    down = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)
    with receive(protocol, itertools.repeat(down)) as receiver:
        bench = Bench(configured(receiver, protocol), clock=lambda: now[0])
        bench.put(logs("old"))
        bench.await_answers(2)
        now[0] = 24 * 3600.0 - 1
        bench.await_answers(len(bench.watched[Signal.LOGS].answers) + 2)
        bench.put(logs("new"))
        now[0] = 24 * 3600.0
        bench.await_answers(len(bench.watched[Signal.LOGS].answers) + 2)
        receiver.answer()
        account = bench.close()
    assert receiver.acknowledged == ["new"]
    assert (account.exported, account.dropped) == (1, {Reason.EXPIRED: 1})


@BOTH
def test_a_full_queue_drops_the_oldest_requests(protocol: Protocol) -> None:
    down = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)
    with receive(protocol, itertools.repeat(down)) as receiver:
        bench = Bench(configured(receiver, protocol, queue_bytes=1 << 16, spool_directory=MEMORY))
        for number in range(100):
            bench.put(logs(f"{number}", padding=4000))
        receiver.answer()
        account = bench.close()
    delivered = [int(one) for one in receiver.acknowledged]
    assert delivered == sorted(delivered)
    # At most half of the queue is on its way, and never dropped; the youngest are in the other half.
    assert delivered[-7:] == list(range(93, 100))
    assert (account.exported, account.dropped) == (len(delivered), {Reason.QUEUE_FULL: 100 - len(delivered)})


def test_a_large_request_is_split_before_it_waits() -> None:
    with HttpReceiver() as receiver:
        bench = Bench(configured(receiver, HTTP, request_bytes=4096))
        bench.put(logs(*"abcdefgh", padding=1000))
        bench.put(logs("huge", padding=5000))
        account = bench.close()
    assert receiver.acknowledged == list("abcdefgh")
    assert all(len(one.body) <= 4096 for one in receiver.requests)
    assert (account.exported, account.dropped) == (8, {Reason.TOO_LARGE: 1})


@BOTH
def test_close_cuts_a_pause_short_and_flushes(protocol: Protocol) -> None:
    with receive(protocol, [Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)]) as receiver:
        bench = Bench(configured(receiver, protocol), PATIENT)
        for one in "abc":
            bench.put(logs(one))
        bench.await_answers(1)
        began = time.monotonic()
        account = bench.close()
    assert time.monotonic() - began < 5
    assert receiver.acknowledged == ["a", "b", "c"]
    assert account.exported == 3


def test_close_does_not_knock_before_the_time_the_backend_asked_for() -> None:
    with HttpReceiver([Reply(status=429, headers={"Retry-After": "60"})]) as receiver:
        bench = Bench(configured(receiver, HTTP, spool_directory=MEMORY))
        bench.put(logs("a"))
        bench.await_answers(1)
        began = time.monotonic()
        account = bench.close()
    assert time.monotonic() - began < 5
    assert len(receiver.requests) == 1
    assert account.dropped == {Reason.SHUTDOWN: 1}


@BOTH
def test_close_keeps_its_time_when_the_backend_hangs(protocol: Protocol) -> None:
    with receive(protocol, itertools.repeat(Reply(delay_s=60))) as receiver:
        bench = Bench(configured(receiver, protocol, timeout_ms=4000, spool_directory=MEMORY))
        for one in "abc":
            bench.put(logs(one))
        receiver.await_requests(1)
        began = time.monotonic()
        bench.exporter.close(0.3)
        assert time.monotonic() - began < 3
        account = bench.close()
        bench.put(logs("late"))
        assert bench.exporter.ledger.snapshot()[Signal.LOGS].dropped == {Reason.SHUTDOWN: 4}
    assert (account.exported, account.dropped) == (0, {Reason.SHUTDOWN: 3})


@BOTH
def test_trouble_is_logged_when_it_begins_and_when_it_ends(
    protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "otel_connect")
    down = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE, details="busy\x1b]0;owned\x07")
    with receive(protocol, [down] * 5) as receiver:
        bench = Bench(configured(receiver, protocol))
        bench.put(logs("a"))
        receiver.await_requests(6)
        bench.close()
    first, last = [record.getMessage() for record in caplog.records if record.name.startswith("otel_connect")]
    assert "does not take requests (retrying)" in first
    assert "takes requests again" in last
    assert first.isprintable()
    assert all(record.exc_info is None for record in caplog.records)


@BOTH
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
def test_tls_with_the_configured_authority(protocol: Protocol, mutual: bool, certificates: Certificates) -> None:
    tls = ServerTls(certificates.server, certificates.server_key, certificates.authority if mutual else None)
    files: dict[str, object] = {"certificate": certificates.authority}
    if mutual:
        files |= {"client_certificate": certificates.client, "client_key": certificates.client_key}
    with receive(protocol, tls=tls) as receiver:
        bench = Bench(configured(receiver, protocol, **files))
        bench.put(logs("a"))
        account = bench.close()
    assert (receiver.acknowledged, account.exported) == (["a"], 1)


@BOTH
def test_a_strange_certificate_is_an_operators_error(protocol: Protocol, certificates: Certificates) -> None:
    tls = ServerTls(certificates.server, certificates.server_key)
    with receive(protocol, tls=tls) as receiver:
        bench = Bench(configured(receiver, protocol, certificate=certificates.stranger, spool_directory=MEMORY))
        bench.put(logs("a"))
        answer = bench.await_answers(2)
        assert (answer.action, bench.state()) == (Action.RETRY_UNHEALTHY, State.UNHEALTHY)
        account = bench.close(0.1)
    assert receiver.requests == []
    assert account.dropped == {Reason.SHUTDOWN: 1}


@BOTH
def test_a_missing_client_certificate_is_never_delivered(protocol: Protocol, certificates: Certificates) -> None:
    tls = ServerTls(certificates.server, certificates.server_key, certificates.authority)
    with receive(protocol, tls=tls) as receiver:
        bench = Bench(configured(receiver, protocol, certificate=certificates.authority, spool_directory=MEMORY))
        bench.put(logs("a"))
        # With TLS 1.3 the client learns of it only after its own handshake; gRPC then sees a closed socket.
        assert bench.await_answers(2).action in {Action.RETRY, Action.RETRY_UNHEALTHY}
        account = bench.close(0.1)
    assert receiver.requests == []
    assert account.dropped == {Reason.SHUTDOWN: 1}


@BOTH
def test_tls_to_a_plain_port_is_an_operators_error(protocol: Protocol) -> None:
    with receive(protocol) as receiver:
        secure = receiver.endpoint.replace("http:", "https:")
        bench = Bench(ExportConfig(endpoint=secure, protocol=protocol, spool_directory=MEMORY))
        bench.put(logs("a"))
        assert bench.await_answers(1).action is Action.RETRY_UNHEALTHY
        assert bench.close(0.1).dropped == {Reason.SHUTDOWN: 1}


def test_certificate_files_are_looked_at_before_the_start(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    config = ExportConfig(
        endpoint="https://localhost:4318",
        certificate=tmp_path / "missing.pem",
        logs=SignalConfig(certificate=tmp_path / "text.pem"),
        client_certificate=certificates.client,
        client_key=certificates.server_key,
    )
    with pytest.raises(ConfigError) as caught:
        OtlpExporter(config)
    missing, text, pair = sorted(caught.value.problems, key=lambda line: ("missing" not in line, "text" not in line))
    assert "missing.pem: certificate cannot be read (No such file or directory)" in missing
    assert "text.pem: no usable certificate" in text
    assert "client.pem" in pair
    assert "belong together" in pair


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("netrc")
def test_configured_credentials_win_over_netrc() -> None:
    with HttpReceiver() as receiver:
        bench = Bench(configured(receiver, HTTP, headers={"authorization": "Bearer ours"}))
        bench.put(logs("a"))
        bench.close()
    assert receiver.requests[0].metadata["authorization"] == "Bearer ours"


def test_each_signal_goes_its_own_way() -> None:
    with HttpReceiver() as common, GrpcReceiver() as own:
        traces_config = SignalConfig(endpoint=own.endpoint, protocol=GRPC)
        bench = Bench(ExportConfig(endpoint=common.endpoint, traces=traces_config))
        for request in (logs("l"), metrics("m"), traces("t")):
            bench.put(request)
        bench.close()
    assert sorted(common.acknowledged) == ["l", "m"]
    assert own.acknowledged == ["t"]


def test_the_codes_of_the_tables_are_grpcs_own() -> None:
    assert {code.name: code.value[0] for code in grpc.StatusCode} == dict(code_pb2.Code.items())
