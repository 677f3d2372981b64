"""Every key of the configuration, every variable and every flag: set on a real agent, and its effect seen from outside.

Of each effect it is also held that it is not there without the key.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple

import pytest

from otel_connect.config import Configuration
from otel_connect.config.words import keys as keys_of
from otel_connect.enrich.masks import hash_mask
from otel_connect.environment import variables
from otel_connect.model import Signal
from otel_connect.running import MADE_AT_START
from tests.support.configured import (
    KEY,
    PEER,
    PEER_6,
    SPACED,
    TOKEN,
    Keys,
    Place,
    Run,
    Scenario,
    Seen,
    observe,
)
from tests.support.receiver import Reply

EVERY = set(Signal)
AWAY = [Reply(status=503)] * 10_000
SLOW = [Reply(delay_s=0.5)] * 10_000


def of_signals(**values: Callable[[Run, Signal], Any]) -> Callable[[Run], Keys]:
    return lambda run: {
        f"export.{signal}.{name}": value(run, signal) for signal in Signal for name, value in values.items()
    }


SCENARIOS = {
    "none": Scenario(lambda _: {}),
    "start": Scenario(
        lambda _: {
            "capture.probes": "lite",
            "capture.ring_bytes": 1 << 18,
            "capture.max_in_progress": 1000,
            "capture.process_rate": 1,
            "capture.process_burst": 80,
            "enrich.names": False,
            "enrich.command_args": True,
            "enrich.conntrack": True,
        }
    ),
    "enrich": Scenario(
        lambda _: {
            "capture.drain_interval_ms": 1000,
            "enrich.process_cache_size": 16,
            "enrich.process_context": False,
            "enrich.vpid": True,
            "enrich.cgroup_path": True,
            "enrich.known_peers": [{"cidr": f"{PEER}/32", "name": "the-orders"}],
            "enrich.user_names": False,
            "enrich.mask_addresses": "prefix",
            "enrich.mask_ipv4_prefix": 8,
            "enrich.mask_ipv6_prefix": 16,
        }
    ),
    "told": Scenario(
        lambda run: {
            "enrich.kubelet_url": run.kubelet.url,
            "enrich.kubelet_token_file": run.place.token_file,
            "enrich.kubelet_certificate": run.place.certificates.authority,
            "enrich.mask_addresses": "hash",
            "enrich.mask_key_file": run.place.key_file,
            "filter.deny": [{"port": run.place.ports.filtered}],
            "filter.count": False,
            "encode.span_name": "peer",
            "encode.span_kind": "client",
            "encode.span_successes_per_second": 0,
            "encode.collapse_repeats": 1000,
        }
    ),
    "slow spans": Scenario(
        lambda run: {
            "filter.allow": [{"port": run.place.ports.refused}, {"port": run.place.ports.open}],
            "encode.span_successes_per_second": 0,
            "encode.span_slow_ms": 0,
            "encode.collapse_repeats": 1000,
            "encode.collapse_window_ms": 100,
        }
    ),
    "cgroups": Scenario(
        lambda _: {
            "export.output": "json",
            "capture.process_rate": 0,
            "capture.cgroup_rate": 1,
            "capture.cgroup_burst": 40,
        }
    ),
    "sending": Scenario(
        lambda run: {
            "export.endpoint": run.plain.endpoint,
            "export.headers": {"x-own": "yes"},
            "export.compression": "gzip",
            "export.metric_interval_ms": 200,
            "export.request_bytes": 1 << 14,
            "export.spool_directory": str(run.folder / "spool"),
            "serve.listen": f"unix:{run.folder / 'other.sock'}",
            "log.format": "json",
        }
    ),
    "several at once": Scenario(lambda _: {"export.concurrency": 4}, SLOW),
    "impatient": Scenario(lambda _: {"export.timeout_ms": 100}, SLOW),
    "impatient signals": Scenario(
        lambda run: {
            "export.metric_interval_ms": 200,
            **of_signals(timeout_ms=lambda _run, _signal: 100)(run),
        },
        SLOW,
    ),
    "gRPC": Scenario(
        lambda run: {
            "export.endpoint": run.grpc.endpoint.removeprefix("http://"),
            "export.protocol": "grpc",
            "export.insecure": True,
        }
    ),
    "gRPC signals": Scenario(
        of_signals(
            endpoint=lambda run, _: run.grpc.endpoint.removeprefix("http://"),
            protocol=lambda _run, _signal: "grpc",
            insecure=lambda _run, _signal: True,
        )
    ),
    "TLS": Scenario(
        lambda run: {
            "export.endpoint": run.secure.endpoint,
            "export.certificate": run.place.certificates.authority,
            "export.client_certificate": run.place.certificates.client,
            "export.client_key": run.place.certificates.client_key,
        }
    ),
    "TLS signals": Scenario(
        lambda run: {
            "export.flush_interval_ms": 3000,
            **of_signals(
                endpoint=lambda run, signal: f"{run.secure.endpoint}/v1/{signal}",
                headers=lambda _, signal: {"x-own": signal.value},
                compression=lambda _run, _signal: "gzip",
                certificate=lambda run, _: run.place.certificates.authority,
                client_certificate=lambda run, _: run.place.certificates.client,
                client_key=lambda run, _: run.place.certificates.client_key,
            )(run),
        }
    ),
    "memory": Scenario(lambda _: {"export.spool_directory": "", "export.queue_bytes": 1 << 16}, AWAY),
    "disk": Scenario(lambda _: {"export.spool_bytes": 1 << 20}, AWAY, flood=3000),
}
TOGETHER = (
    ("none", "start", "enrich", "told", "slow spans", "cgroups"),
    ("sending", "several at once", "impatient", "impatient signals", "memory", "disk"),
    ("gRPC", "gRPC signals", "TLS", "TLS signals"),
)
"""Whose agents run beside each other and see the same attempts: none of them has to do with what another is set to."""


class Effect(NamedTuple):
    """What a key does, in a scenario that sets it; and one without it, in which that is not so."""

    scenario: str
    holds: Callable[[Seen], bool]
    without: str = "none"


def dropped(seen: Seen, reason: str) -> bool:
    return bool(seen.status["ledger"]["logs"]["dropped"].get(reason))


def resources(seen: Seen, who: str) -> dict[str, Any]:
    found: dict[str, Any] = seen.records(who)[-1]["resource"]
    return found


def few_of_a_flood(seen: Seen) -> bool:
    return len(seen.records("flood")) < 100 and dropped(seen, "kernel_throttled")


def repeated(seen: Seen) -> bool:
    return any(one["attributes"].get("otel_connect.repeat.count", 1) > 1 for one in seen.records())


def renamed_path(seen: Seen) -> bool:
    """Whether the last attempt of the client shows what its file is called now, for want of memory of what it was."""
    return bool(seen.records()[-1]["attributes"]["process.executable.path"] == seen.paths[-1])


EFFECTS: dict[str, Effect] = {
    "capture.probes": Effect("start", lambda seen: seen.status["probes"] == "lite"),
    "capture.drain_interval_ms": Effect("enrich", lambda seen: seen.delay_s > 0.3),
    "capture.ring_bytes": Effect("start", lambda seen: seen.status["ring"]["limit_bytes"] == 1 << 18),
    "capture.max_in_progress": Effect("start", lambda seen: seen.status["in_progress_limit"] == 1000),
    "capture.process_rate": Effect("start", few_of_a_flood),
    "capture.process_burst": Effect("start", few_of_a_flood),
    "capture.cgroup_rate": Effect("cgroups", few_of_a_flood),
    "capture.cgroup_burst": Effect("cgroups", few_of_a_flood),
    "enrich.process_cache_size": Effect("enrich", renamed_path),
    "enrich.process_context": Effect(
        "enrich", lambda seen: resources(seen, "publisher")["service.name"] != "published-name"
    ),
    "enrich.names": Effect("start", lambda seen: seen.status["enrichment"]["names"] is None),
    "enrich.command_args": Effect(
        "start",
        lambda seen: (
            "--password" in seen.records()[0]["attributes"].get("process.command_args", ())
            and "hunter2" not in str(seen.documents)
        ),
    ),
    "enrich.vpid": Effect("enrich", lambda seen: seen.records()[0]["attributes"].get("process.vpid") is not None),
    "enrich.cgroup_path": Effect(
        "enrich", lambda seen: "kubepods" in seen.records()[0]["attributes"].get("process.linux.cgroup", "")
    ),
    "enrich.kubelet_url": Effect("told", lambda seen: resources(seen, "flood").get("k8s.pod.name") == "web-1"),
    "enrich.kubelet_token_file": Effect("told", lambda seen: f"Bearer {TOKEN}" in seen.tokens),
    "enrich.kubelet_certificate": Effect("told", lambda seen: resources(seen, "flood").get("k8s.pod.name") == "web-1"),
    "enrich.known_peers": Effect("enrich", lambda seen: "the-orders" in seen.values),
    "enrich.user_names": Effect(
        "enrich",
        lambda seen: (
            not any("process.owner" in one["attributes"] for one in seen.records())
            and all("process.user.id" in one["attributes"] for one in seen.records())
        ),
    ),
    "enrich.mask_addresses": Effect("enrich", lambda seen: not {PEER, PEER_6} & seen.values),
    "enrich.mask_ipv4_prefix": Effect("enrich", lambda seen: "10.0.0.0" in seen.values),
    "enrich.mask_ipv6_prefix": Effect("enrich", lambda seen: "fd77::" in seen.values),
    "enrich.mask_key_file": Effect("told", lambda seen: hash_mask(KEY)(PEER) in seen.values),
    "enrich.conntrack": Effect("start", lambda seen: bool(seen.capabilities >> 12 & 1)),
    "filter.deny": Effect("told", lambda seen: not seen.records(port=seen.ports.filtered)),
    "filter.allow": Effect(
        "slow spans", lambda seen: not seen.records(port=seen.ports.filtered) and bool(seen.records())
    ),
    "filter.count": Effect("told", lambda seen: not seen.counted(seen.ports.filtered), without="slow spans"),
    "encode.span_name": Effect(
        "told", lambda seen: seen.spans(seen.ports.refused)[0]["name"].startswith("tcp connect h-")
    ),
    "encode.span_kind": Effect(
        "told", lambda seen: seen.spans(seen.ports.refused)[0]["kind"] in {3, "SPAN_KIND_CLIENT"}
    ),
    "encode.span_successes_per_second": Effect("told", lambda seen: not seen.spans(seen.ports.open)),
    "encode.span_slow_ms": Effect("slow spans", lambda seen: bool(seen.spans(seen.ports.open)), without="told"),
    "encode.collapse_repeats": Effect("told", repeated),
    "encode.collapse_window_ms": Effect(
        "slow spans",
        lambda seen: len(seen.records(port=seen.ports.refused)) >= SPACED,
        without="told",
    ),
    "export.output": Effect("cgroups", lambda seen: any(line.startswith('{"resourceLogs"') for line in seen.output)),
    "export.endpoint": Effect("gRPC", lambda seen: seen.signals("grpc") == EVERY),
    "export.protocol": Effect("gRPC", lambda seen: seen.signals("grpc") == EVERY),
    "export.insecure": Effect("gRPC", lambda seen: seen.signals("grpc") == EVERY),
    "export.headers": Effect(
        "sending", lambda seen: all(one.metadata.get("x-own") == "yes" for one in seen.requests["plain"])
    ),
    "export.compression": Effect(
        "sending", lambda seen: all(one.metadata.get("content-encoding") == "gzip" for one in seen.requests["plain"])
    ),
    "export.timeout_ms": Effect(
        "impatient", lambda seen: seen.status["delivery"]["logs"]["state"] == "retrying", without="several at once"
    ),
    "export.certificate": Effect("TLS", lambda seen: seen.signals("secure") == EVERY),
    "export.client_certificate": Effect("TLS", lambda seen: seen.signals("secure") == EVERY),
    "export.client_key": Effect("TLS", lambda seen: seen.signals("secure") == EVERY),
    "export.flush_interval_ms": Effect(
        "TLS signals", lambda seen: len(seen.requests_of(seen.records(port=seen.ports.refused)[:SPACED])) < 3
    ),
    "export.metric_interval_ms": Effect(
        "sending", lambda seen: sum(one.signal is Signal.METRICS for one in seen.requests["plain"]) > 3
    ),
    "export.spool_directory": Effect("sending", lambda seen: seen.spooled),
    "export.spool_bytes": Effect("disk", lambda seen: dropped(seen, "spool_full"), without="memory"),
    "export.queue_bytes": Effect("memory", lambda seen: dropped(seen, "queue_full"), without="disk"),
    "export.concurrency": Effect("several at once", lambda seen: seen.connections > 3, without="impatient"),
    "export.request_bytes": Effect(
        "sending", lambda seen: max(len(one.body) for one in seen.requests_of(seen.records("flood"))) <= 1 << 14
    ),
    "serve.listen": Effect("sending", lambda seen: bool(seen.status), without=""),
    "log.format": Effect("sending", lambda seen: all(line.startswith('{"time"') for line in seen.errors)),
}


def of_signal(signal: Signal) -> dict[str, Effect]:
    def secure(seen: Seen) -> bool:
        return signal in seen.signals("secure") and signal not in seen.signals("plain")

    def sent(name: str, value: str) -> Callable[[Seen], bool]:
        return lambda seen: (
            {one.metadata.get(name) for one in seen.requests["secure"] if one.signal is signal} == {value}
        )

    return {
        f"export.{signal}.{name}": effect
        for name, effect in {
            "endpoint": Effect("TLS signals", secure),
            "protocol": Effect("gRPC signals", lambda seen: signal in seen.signals("grpc")),
            "insecure": Effect("gRPC signals", lambda seen: signal in seen.signals("grpc")),
            "headers": Effect("TLS signals", sent("x-own", signal.value)),
            "compression": Effect("TLS signals", sent("content-encoding", "gzip")),
            "timeout_ms": Effect(
                "impatient signals",
                lambda seen: seen.status["delivery"][signal.value]["state"] == "retrying",
                without="several at once",
            ),
            "certificate": Effect("TLS signals", secure),
            "client_certificate": Effect("TLS signals", secure),
            "client_key": Effect("TLS signals", secure),
        }.items()
    }


for each in Signal:
    EFFECTS |= of_signal(each)

A_MINUTE = {"capture.stale_after_s", "encode.series_expire_s"}
"""What takes a minute at the least: in test_capture.py and test_outputs.py, with a clock that is set."""
RELOADED = ("enrich", "told", "slow spans", "sending", "impatient signals", "gRPC signals", "TLS signals")

RELOADED_KEYS = [
    key
    for key, effect in EFFECTS.items()
    if effect.scenario in RELOADED and tuple(key.split(".", 1)) not in MADE_AT_START
]

WAYS = {
    "file": {name for effect in EFFECTS.values() for name in (effect.scenario, effect.without) if name},
    "environment": {EFFECTS[key].scenario for key in variables().values()},
    "reload": {EFFECTS[key].scenario for key in RELOADED_KEYS},
}
"""The scenarios that are wanted with the keys set in each way."""

Observed = Callable[[str, str], Seen]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path_factory.mktemp("place"), stack)


@pytest.fixture(scope="module")
def observed(place: Place) -> Observed:
    """Run each agent once for each way to set its keys, with those that run beside it."""

    @cache
    def together(names: tuple[str, ...], way: str) -> dict[str, Seen]:
        return observe(place, {name: SCENARIOS[name] for name in names if name in WAYS[way]}, way)

    return lambda name, way: together(next(names for names in TOGETHER if name in names), way)[name]


def test_every_key_is_in_the_table() -> None:
    assert EFFECTS.keys() | A_MINUTE == set(keys_of(Configuration))
    assert not EFFECTS.keys() & A_MINUTE


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_of_the_file(key: str, observed: Observed) -> None:
    scenario, holds, without = EFFECTS[key]
    seen = observed(scenario, "file")
    assert key in seen.keys
    assert holds(seen)
    if without:
        assert not holds(observed(without, "file"))


@pytest.mark.parametrize("key", RELOADED_KEYS)
def test_a_key_that_a_reload_brings(key: str, observed: Observed) -> None:
    assert EFFECTS[key].holds(observed(EFFECTS[key].scenario, "reload"))


@pytest.mark.parametrize("name", variables())
def test_a_variable(name: str, observed: Observed) -> None:
    key = variables()[name]
    scenario, holds, _ = EFFECTS[key]
    assert holds(observed(scenario, "environment"))


def test_what_the_kernel_told_before_a_reload_is_known_after_it(observed: Observed) -> None:
    seen = observed("told", "reload")
    paths = [one["attributes"]["process.executable.path"] for one in seen.records(port=seen.ports.refused)]
    assert len(paths) > 1
    assert set(paths) == {seen.paths[0]}
