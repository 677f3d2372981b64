"""The real collector in its bad hours: out of memory, queue full, restarting, particular about size and TLS."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from otel_connect.config import ExportConfig, Protocol
from otel_connect.export.answer import Action
from otel_connect.export.sender import State
from tests.support.collector import Collector
from tests.support.delivery import GRPC, HTTP, Bench, logs
from tests.support.feed import EVENT_ID
from tests.support.receiver import Certificates, HttpReceiver, Reply, make_certificates

BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])

# One mebibyte is less than the collector needs for itself, so that it refuses everything.
NO_MEMORY = (
    "processors: {memory_limiter: {check_interval: 10ms, limit_mib: 1, spike_limit_mib: 0}}",
    "service: {pipelines: {logs: {processors: [memory_limiter]}}}",
)
LIMIT = 1 << 20
SMALL_REQUESTS = (
    "receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 1}, http: {max_request_body_size: 1048576}}}}",
)


def to(collector: Collector, protocol: Protocol, **options: object) -> ExportConfig:
    endpoint = collector.grpc_endpoint if protocol is GRPC else collector.http_endpoint
    return ExportConfig.model_validate({"endpoint": endpoint, "protocol": protocol, **options})


def arrived(collector: Collector) -> Counter[str]:
    return Counter(record["attributes"][EVENT_ID] for record in collector.log_records())


def once(*ids: str) -> Counter[str]:
    return Counter(ids)


@BOTH
def test_a_memory_limiter_that_refuses_is_waited_for(protocol: Protocol, tmp_path: Path) -> None:
    with Collector(tmp_path, overrides=NO_MEMORY) as collector:
        collector.await_until(lambda: "Memory usage is above" in collector.stderr)
        bench = Bench(to(collector, protocol))
        bench.put(logs("a", "b"))
        answer = bench.await_answers(2)
        assert (answer.action, bench.state()) == (Action.RETRY, State.RETRYING)
        assert "high memory usage" in answer.message
        assert arrived(collector) == once()
        collector.restart()
        account = bench.close(30)
        assert arrived(collector) == once("a", "b")
    assert (account.exported, account.dropped) == (2, {})


@BOTH
def test_a_full_sending_queue_is_waited_for(protocol: Protocol, tmp_path: Path) -> None:
    with HttpReceiver(itertools.repeat(Reply(status=503))) as backend:
        queue = "sending_queue: {queue_size: 1, num_consumers: 1, block_on_overflow: false}"
        again = "retry_on_failure: {initial_interval: 10ms, max_interval: 10ms, max_elapsed_time: 0}"
        behind = f"exporters: {{otlp_http: {{endpoint: '{backend.endpoint}', compression: none, {queue}, {again}}}}}"
        to_backend = "service: {pipelines: {logs: {exporters: [otlp_http]}}}"
        with Collector(tmp_path, overrides=(behind, to_backend)) as collector:
            bench = Bench(to(collector, protocol))
            waiting = iter("abcde")
            for number, one in enumerate(waiting, 1):  # each in a request of its own, until the queue is full
                bench.put(logs(one))
                full = bench.await_answers(number)
                if full.action is not Action.DELIVERED:
                    break
            assert full.action is Action.RETRY
            assert "queue is full" in full.message
            for one in waiting:
                bench.put(logs(one))
            backend.answer()
            account = bench.close(30)
        # The collector has stopped, so its queue is empty.
        assert Counter(backend.acknowledged) == once(*"abcde")
    assert (account.exported, account.dropped) == (5, {})


@BOTH
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_exceeds_the_limit_of_the_receiver_is_halved(protocol: Protocol, compression: str, tmp_path: Path) -> None:
    with Collector(tmp_path, overrides=SMALL_REQUESTS) as collector:
        bench = Bench(to(collector, protocol, compression=compression))
        bench.put(logs(*"abcdefgh", padding=LIMIT * 3 // 10))
        bench.put(logs("huge", padding=LIMIT + 1))
        bench.put(logs("small"))
        account = bench.close(30)
        assert arrived(collector) == once(*"abcdefgh", "small")
    actions = Counter(answer.action for answer in bench.answers())
    assert actions[Action.REJECTED] == 0
    assert (account.exported, account.dropped) == (9, {"too_large": 1})


@BOTH
def test_restarts_lose_nothing(protocol: Protocol, tmp_path: Path) -> None:
    ids = [f"{number}" for number in range(40)]
    with Collector(tmp_path) as collector:
        bench = Bench(to(collector, protocol))
        for position, one in enumerate(ids):
            if position % 10 == 5:
                collector.restart()
            bench.put(logs(one))
        account = bench.close(30)
        # It stops gracefully: what it has taken it has answered.
        assert arrived(collector) == once(*ids)
    assert (account.exported, account.dropped) == (40, {})


@BOTH
def test_a_collector_that_comes_late_gets_everything(protocol: Protocol, tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    bench = Bench(to(collector, protocol))
    for one in "abc":
        bench.put(logs(one))
    answer = bench.await_answers(2)
    assert (answer.action, bench.state()) == (Action.RETRY, State.RETRYING)
    with collector:
        collector.await_until(lambda: arrived(collector) == once(*"abc"))
        account = bench.close()
    assert (account.exported, account.dropped) == (3, {})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def receivers_tls(certificates: Certificates, *, mutual: bool) -> str:
    tls = f"cert_file: {certificates.server}, key_file: {certificates.server_key}"
    if mutual:
        tls += f", client_ca_file: {certificates.authority}"
    return f"receivers: {{otlp: {{protocols: {{grpc: {{tls: {{{tls}}}}}, http: {{tls: {{{tls}}}}}}}}}}}"


@BOTH
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
def test_tls_with_the_collectors_own_certificates(
    protocol: Protocol, mutual: bool, certificates: Certificates, tmp_path: Path
) -> None:
    with Collector(tmp_path, overrides=[receivers_tls(certificates, mutual=mutual)]) as collector:
        plain = to(collector, protocol, certificate=certificates.authority)
        config = plain.model_copy(update={"endpoint": str(plain.endpoint).replace("http:", "https:")})
        own = {"client_certificate": certificates.client, "client_key": certificates.client_key}
        bench = Bench(config.model_copy(update=own if mutual else {}))
        bench.put(logs("a"))
        account = bench.close(30)
        if mutual:
            stranger = Bench(config)
            stranger.put(logs("b"))
            assert stranger.await_answers(2).action in {Action.RETRY, Action.RETRY_UNHEALTHY}
            stranger.close(0.1)
        assert arrived(collector) == once("a")
    assert account.exported == 1
