"""Answers that are slow, cut, lying or endless: none may cost a record, hold the sender, or be believed.

``test_delivery.py`` has the table of plain answers; here are the backends, and the things between us and
them, that break the protocol itself. In each case the data is good, so every record arrives in the end.
"""

import gzip
import itertools
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import grpc
import pytest

from otel_connect.config import Protocol
from otel_connect.export.answer import LONGEST_RETRY_AFTER_S, Action
from otel_connect.export.sender import State
from tests.support.delivery import GRPC, HTTP, PROTOBUF, Bench, configured, grpc_error, lengthy, logs, receive
from tests.support.receiver import (
    DATA,
    GOAWAY,
    HANG_UP,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Certificates,
    Frame,
    HttpReceiver,
    Reply,
    ServerTls,
    WireReceiver,
    http2_headers,
    make_certificates,
    signed_certificate,
)

BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MANY = 2000  # of what a client should not keep

HTTP_ANSWERS = {
    "cut in the status line": (Reply(raw=b"HTTP/1.1 2"), Action.RETRY),
    "cut in the headers": (Reply(raw=OK + b"Content-Length: 0\r\nX-"), Action.RETRY),
    "cut in a chunk": (Reply(raw=CHUNKED + b"64\r\nabc"), Action.RETRY),
    "no length of a chunk": (Reply(raw=CHUNKED + b"zz\r\nabc"), Action.RETRY),
    "a chunk of 16 exabytes": (
        Reply(raw=CHUNKED + b"f" * 16 + b"\r\n"),
        Action.RETRY,
    ),
    "two lengths": (Reply(raw=OK + b"Content-Length: 0\r\nContent-Length: 7\r\n\r\n"), Action.RETRY_UNHEALTHY),
    "headers without end": (Reply(raw=OK + b"X-A: b\r\n" * MANY + b"\r\n"), Action.RETRY),
    "a header of a mebibyte": (Reply(raw=OK + b"X-A: " + b"b" * (1 << 20) + b"\r\n\r\n"), Action.RETRY),
    "no number for a status": (Reply(raw=b"HTTP/1.1 fine\r\n\r\n"), Action.RETRY),
    "another protocol": (Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n"), Action.RETRY_UNHEALTHY),
    "an alert of TLS": (Reply(raw=b"\x15\x03\x01\x00\x02\x02\x46"), Action.RETRY_UNHEALTHY),
    "an error with a gzip bomb": (
        Reply(status=503, headers={"content-encoding": "gzip"}, body=gzip.compress(bytes(50 << 20))),
        Action.RETRY,
    ),
    "a bomb in a bomb": (
        Reply(
            headers={**PROTOBUF, "content-encoding": "gzip, gzip"},
            body=gzip.compress(gzip.compress(lengthy(50))),
        ),
        Action.RETRY_UNHEALTHY,
    ),
    "an encoding that does not exist": (
        Reply(headers={**PROTOBUF, "content-encoding": "gzip"}, body=b"\x1f\x8b\x08cut"),
        Action.RETRY_UNHEALTHY,
    ),
    "busy before the body was read": (Reply(status=503, unread=True), Action.RETRY),
}


@pytest.mark.parametrize(("reply", "action"), list(HTTP_ANSWERS.values()), ids=list(HTTP_ANSWERS))
def test_a_broken_http_answer_costs_nothing(reply: Reply, action: Action) -> None:
    with HttpReceiver([reply]) as receiver:
        bench = Bench(configured(receiver, HTTP))
        bench.put(logs("a", "b"))
        receiver.await_requests(2)
        account = bench.close()
    first, *between, last = bench.answers()
    assert (first.action, last.action) == (action, Action.DELIVERED)
    # Who answers before the body was read hangs up: the next request may still meet that connection.
    assert [one.action for one in between] == [Action.RETRY] * len(between)
    assert reply.unread or not between
    assert first.message.isprintable()
    assert receiver.acknowledged == ["a", "b"]
    assert (account.exported, account.dropped) == (2, {})


GRPC_HEADERS = http2_headers({":status": "200", "content-type": "application/grpc"}, last=False)
MESSAGE = Frame(DATA, 0, bytes(5))


def trailers(**fields: str) -> Frame:
    return http2_headers({name.replace("_", "-"): value for name, value in fields.items()}, last=True)


GRPC_ANSWERS = {
    "cut after the headers": ((GRPC_HEADERS, HANG_UP), Action.RETRY),
    "cut in the message": ((GRPC_HEADERS, Frame(DATA, 0, b"\0\0\0\0\7ab"), HANG_UP), Action.RETRY),
    "cut before the trailers": ((GRPC_HEADERS, MESSAGE, HANG_UP), Action.RETRY),
    "goaway in the middle": ((GRPC_HEADERS, Frame(GOAWAY, 0, bytes(4) + bytes(4)), HANG_UP), Action.RETRY),
    "goaway, enhance your calm": ((Frame(GOAWAY, 0, bytes(7) + b"\x0btoo_many_pings"), HANG_UP), Action.RETRY),
    "reset, refused stream": ((Frame(RST_STREAM, 0, (7).to_bytes(4, "big")),), Action.RETRY),
    "reset, enhance your calm": ((Frame(RST_STREAM, 0, (11).to_bytes(4, "big")),), Action.RETRY),
    "a frame of no kind, then nothing": ((Frame(0x99, 0, b"?"), HANG_UP), Action.RETRY),
    "headers that do not decode": ((Frame(HEADERS, 5, b"\xff\xff\xff\xff\xff"),), Action.RETRY),
    "a status of no number": ((GRPC_HEADERS, MESSAGE, trailers(grpc_status="fine")), Action.RETRY),
    "503 and a page": (
        (http2_headers({":status": "503", "content-type": "text/html"}, last=False), Frame(DATA, 1, b"<h1>busy</h1>")),
        Action.RETRY,
    ),
}


@pytest.mark.parametrize(("frames", "action"), list(GRPC_ANSWERS.values()), ids=list(GRPC_ANSWERS))
def test_a_broken_grpc_answer_costs_nothing(frames: tuple[Frame, ...], action: Action) -> None:
    with WireReceiver([frames]) as receiver:
        bench = Bench(configured(receiver, GRPC))
        bench.put(logs("a", "b"))
        first = bench.await_answers(1)
        account = bench.close()
    assert first.action is action, first
    assert (account.exported, account.dropped) == (2, {})


ENDLESS = 60_000
"""Bytes or frames of an answer that comes a hundred times a second: ten minutes, unless somebody has had enough."""

SLOW = {
    "http headers": (HTTP, [Reply(raw=OK + b"X-A: " + b"b" * ENDLESS, trickle_s=0.01)]),
    "http body": (HTTP, [Reply(raw=OK + b"Content-Length: 60000\r\n\r\n" + b"b" * ENDLESS, trickle_s=0.01)]),
    "http chunks": (
        HTTP,
        [Reply(raw=CHUNKED + b"1\r\nb\r\n" * ENDLESS, trickle_s=0.01)],
    ),
    "http silence": (HTTP, [Reply(delay_s=600)]),
    "grpc silence": (GRPC, [Reply(delay_s=600)]),
}


@pytest.mark.parametrize(("protocol", "script"), list(SLOW.values()), ids=list(SLOW))
def test_an_answer_that_trickles_in_is_given_up_in_time(protocol: Protocol, script: list[Reply]) -> None:
    with receive(protocol, script) as receiver:
        bench = Bench(configured(receiver, protocol, timeout_ms=1000))
        bench.put(logs("a"))
        assert bench.await_answers(1).action is Action.RETRY
        account = bench.close()
        assert (receiver.acknowledged, account.exported) == (["a"], 1)


TRICKLED_FRAMES = {
    "pings": (Frame(PING, 0, bytes(8), 0.01),) * ENDLESS,
    "settings": (Frame(SETTINGS, 0, b"", 0.01),) * ENDLESS,
    "a message": (GRPC_HEADERS, Frame(DATA, 0, b"\0\0\0\xea\x60"), *(Frame(DATA, 0, b"b", 0.01),) * ENDLESS),
}


@pytest.mark.parametrize("frames", list(TRICKLED_FRAMES.values()), ids=list(TRICKLED_FRAMES))
def test_frames_that_trickle_in_are_given_up_in_time(frames: tuple[Frame, ...]) -> None:
    with WireReceiver([frames]) as receiver:
        bench = Bench(configured(receiver, GRPC, timeout_ms=300))
        bench.put(logs("a"))
        assert bench.await_answers(1).action is Action.RETRY
        assert bench.close(0.1).difference == 0


@BOTH
def test_a_slow_answer_within_the_time_is_waited_for(protocol: Protocol) -> None:
    with receive(protocol, [Reply(delay_s=0.5)]) as receiver:
        bench = Bench(configured(receiver, protocol, timeout_ms=60_000))
        bench.put(logs("a"))
        account = bench.close(60)
    assert [one.ids for one in receiver.requests] == [("a",)]
    assert account.exported == 1


def test_a_connection_that_was_closed_while_idle_costs_nothing() -> None:
    closing = Reply(headers={"Connection": "close"})
    with HttpReceiver([closing, closing]) as receiver:
        bench = Bench(configured(receiver, HTTP))
        for number, one in enumerate("abc", start=1):
            bench.put(logs(one))
            bench.await_answers(number)
        account = bench.close()
    assert [one.ids for one in receiver.requests] == [("a",), ("b",), ("c",)]
    assert account.exported == 3


def test_a_backend_that_says_goaway_after_each_call_costs_nothing() -> None:
    success = (GRPC_HEADERS, MESSAGE, trailers(grpc_status="0"), Frame(GOAWAY, 0, bytes(3) + b"\1" + bytes(4)))
    with WireReceiver([(*success, HANG_UP)] * 3) as receiver:
        bench = Bench(configured(receiver, GRPC))
        for number, one in enumerate("abc", start=1):
            bench.put(logs(one))
            bench.await_answers(number)
        account = bench.close()
    assert {one.ids for one in receiver.requests} == {("a",), ("b",), ("c",)}
    assert account.exported == 3


@pytest.mark.parametrize("size", [1 << 10, 1 << 20], ids=["small", "large"])
def test_a_refusal_before_the_body_was_read_is_halved(size: int) -> None:
    with HttpReceiver([Reply(status=413, unread=True)]) as receiver:
        bench = Bench(configured(receiver, HTTP))
        bench.put(logs("a", "b", padding=size))
        account = bench.close()
    assert receiver.acknowledged == ["a", "b"]
    assert (account.exported, account.dropped) == (2, {})


SOON, LATE = "in 2 hours", "2 hours ago"
WAITS = {
    "seconds": ("7", 7.0),
    "none": ("0", 0.0),
    "a date to come": (SOON, LONGEST_RETRY_AFTER_S),
    "a date gone by": (LATE, 0.0),
    "a year": ("31536000", LONGEST_RETRY_AFTER_S),
    "more digits than a float has": ("9" * 400, LONGEST_RETRY_AFTER_S),
    "below zero": ("-5", None),
    "a fraction": ("1.5", None),
    "no number": ("soon\x1b]0;owned\x07", None),
    "a date of no calendar": ("Mon, 99 Foo 99999 99:99:99 GMT", None),
    "a year of no calendar": ("Fri, 31 Dec 99999 23:59:59 GMT", None),
}


def http_date(words: str) -> str:
    """Spell the moment when the request is answered, two hours before or after."""
    ahead = {SOON: timedelta(hours=2), LATE: timedelta(hours=-2)}
    return format_datetime(datetime.now(UTC) + ahead[words], usegmt=True) if words in ahead else words


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("value", "wait_s"), list(WAITS.values()), ids=list(WAITS))
def test_any_retry_after_is_understood_capped_or_ignored(status: int, value: str, wait_s: float | None) -> None:
    reply = Reply(status=status, headers={"Retry-After": http_date(value)})
    with HttpReceiver(itertools.repeat(reply)) as receiver:
        bench = Bench(configured(receiver, HTTP))
        bench.put(logs("a"))
        answer = bench.await_answers(1)
        bench.close(0.05)
    assert (answer.action, answer.retry_after_s) == (Action.RETRY, wait_s)


DELAYS = {"1 ms": (0.001, 0.001), "none": (0, 0), "ten years": (3.2e8, LONGEST_RETRY_AFTER_S), "negative": (-60, 0)}


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
@pytest.mark.parametrize(("delay_s", "wait_s"), list(DELAYS.values()), ids=list(DELAYS))
def test_any_retry_info_is_capped(code: grpc.StatusCode, delay_s: float, wait_s: float) -> None:
    with receive(GRPC, itertools.repeat(grpc_error(code, delay_s))) as receiver:
        bench = Bench(configured(receiver, GRPC))
        bench.put(logs("a"))
        answer = bench.await_answers(1)
        bench.close(0.05)
    assert (answer.action, answer.retry_after_s) == (Action.RETRY, wait_s)


def test_details_that_are_no_status_are_ignored() -> None:
    reply = Reply(code=grpc.StatusCode.RESOURCE_EXHAUSTED, headers={"grpc-status-details-bin": b"\xff\xff\xff"})
    with receive(GRPC, [reply]) as receiver:
        bench = Bench(configured(receiver, GRPC))
        bench.put(logs("a", "b"))
        assert bench.await_answers(1).action is Action.SPLIT
        account = bench.close()
    assert (receiver.acknowledged, account.exported) == (["a", "b"], 2)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


OURS = "IP:127.0.0.1,DNS:localhost"
BAD_CERTIFICATES = {"expired": (OURS, -1, "expired"), "for another host": ("DNS:elsewhere.example", 1, "")}


@pytest.fixture(scope="module", params=list(BAD_CERTIFICATES))
def bad_certificate(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ServerTls, str]:
    names, days, said = BAD_CERTIFICATES[request.param]
    return signed_certificate(certificates, tmp_path_factory.mktemp("bad"), names=names, days=days), said


@BOTH
def test_a_bad_certificate_is_an_operators_error_until_it_is_replaced(
    protocol: Protocol, certificates: Certificates, bad_certificate: tuple[ServerTls, str]
) -> None:
    with receive(protocol, tls=bad_certificate[0]) as receiver:
        port = receiver.port
        bench = Bench(configured(receiver, protocol, certificate=certificates.authority))
        bench.put(logs("a"))
        answer = bench.await_answers(2)
        assert (answer.action, bench.state()) == (Action.RETRY_UNHEALTHY, State.UNHEALTHY)
        if protocol is HTTP:  # gRPC does not say why
            assert bad_certificate[1] in answer.message
        assert receiver.requests == []
    good = ServerTls(certificates.server, certificates.server_key)
    with receive(protocol, tls=good, port=port) as receiver:
        receiver.await_requests(1, 30)
        account = bench.close()
    assert (receiver.acknowledged, account.exported, account.dropped) == (["a"], 1, {})


@BOTH
def test_a_client_certificate_of_a_stranger_is_never_delivered(
    protocol: Protocol, certificates: Certificates, tmp_path: Path
) -> None:
    theirs = make_certificates(tmp_path)
    tls = ServerTls(certificates.server, certificates.server_key, certificates.authority)
    files = {"client_certificate": theirs.client, "client_key": theirs.client_key}
    with receive(protocol, tls=tls) as receiver:
        bench = Bench(configured(receiver, protocol, certificate=certificates.authority, **files))
        bench.put(logs("a"))
        # With TLS 1.3 the client learns of it only after its own handshake; gRPC then sees a closed socket.
        assert bench.await_answers(2).action in {Action.RETRY, Action.RETRY_UNHEALTHY}
        account = bench.close(0.1)
    assert receiver.requests == []
    assert (account.exported, account.difference) == (0, 0)
