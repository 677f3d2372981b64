"""The backend goes away and comes back: what the stock SDK pipeline loses, and what we do.

Both get the same records at the same moments and send them to the same backend. The full run is a minute at
1,000 records a second with 30 seconds of outage (`make soak`). The short one has only ours: what a stock pipeline
keeps in memory covers an outage of some seconds.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event

import grpc
import pytest

from otel_connect.config import ExportConfig, Protocol
from tests.support.collector import Collector
from tests.support.feed import EVENT_ID, Feed, OurPipeline, Pipeline, StockPipeline
from tests.support.receiver import SUCCESS, GrpcReceiver, HttpReceiver, Reply
from tests.support.soak import SOAK, LongRun, by_length

HTTP, GRPC = Protocol.HTTP_PROTOBUF, Protocol.GRPC
NAMES = {HTTP: "http", GRPC: "grpc"}

SECONDS = by_length(full=60, short=6)
RATE = 1000
LEAST_STOCK_LOSS = 0.2
"""Of all records, in an outage of half the time; it lost 46.9 % when this was first measured."""
FLUSH_S = 120.0

DOWN = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE, details="down")


def ours_to(name: str, endpoint: str, wire: Protocol, directory: Path) -> OurPipeline:
    config = {"endpoint": endpoint, "protocol": wire, "spool_directory": f"{directory}/spool-{name}"}
    return OurPipeline(f"ours-{name}", ExportConfig.model_validate(config))


def with_stock(ours: Sequence[OurPipeline], places: Mapping[Protocol, str]) -> list[Pipeline]:
    """Add a stock pipeline to each place, in the full run."""
    stock = [StockPipeline(f"stock-{NAMES[wire]}", place, wire) for wire, place in places.items()]
    return [*ours, *(stock if SOAK else ())]


def flush(pipelines: Sequence[Pipeline]) -> None:
    for pipeline in pipelines:
        pipeline.close(FLUSH_S)


def losses(feed: Feed, pipelines: Sequence[Pipeline], arrived: Counter[str]) -> dict[str, float]:
    """Give for each pipeline the share of its records that never arrived."""
    lost = {pipeline.name: sum(not arrived[one] for one in feed.ids(pipeline)) for pipeline in pipelines}
    return {name: number / feed.fed for name, number in lost.items()}


def assert_only_stock_loses(lost: dict[str, float], ours: Sequence[OurPipeline], fed: int) -> None:
    for name, share in lost.items():
        if name.startswith("stock"):
            assert share > LEAST_STOCK_LOSS, lost
        else:
            assert share == 0, lost
    for pipeline in ours:
        account = pipeline.account
        assert (account.accepted, account.exported, account.queued, account.dropped) == (fed, fed, 0, {})


@pytest.mark.timeout(600)
def test_an_outage_costs_the_stock_pipeline_records_and_us_none(tmp_path: Path, long_run: LongRun) -> None:
    outage = Event()

    def script() -> Iterator[Reply]:
        while True:
            yield DOWN if outage.is_set() else SUCCESS

    with HttpReceiver(script()) as http, GrpcReceiver(script()) as over_grpc:
        places = {HTTP: http.endpoint, GRPC: over_grpc.endpoint}
        ours = [ours_to(NAMES[wire], place, wire, tmp_path) for wire, place in places.items()]
        pipelines = with_stock(ours, places)
        with Feed(pipelines, RATE) as feed:
            feed.await_fed(SECONDS * RATE // 4)
            outage.set()
            feed.await_fed(SECONDS * RATE * 3 // 4)
            outage.clear()
            feed.await_fed(SECONDS * RATE)
        flush(pipelines)
        arrived = Counter([*http.acknowledged, *over_grpc.acknowledged])
    lost = losses(feed, pipelines, arrived)
    long_run(f"{SECONDS} s at {RATE} records/s, {SECONDS // 2} s of it answered with 503", f"lost: {shares(lost)}")
    assert_only_stock_loses(lost, ours, feed.fed)
    # A refusal stores nothing, so there is no reason for a duplicate.
    assert all(arrived[one] == 1 for each in ours for one in feed.ids(each))


@pytest.mark.timeout(600)
def test_a_collector_killed_twice_costs_the_stock_pipeline_records_and_us_none(
    tmp_path: Path, long_run: LongRun
) -> None:
    with Collector(tmp_path / "collector") as collector:
        places = {HTTP: collector.http_endpoint, GRPC: collector.grpc_endpoint}
        ours = [ours_to(NAMES[wire], place, wire, tmp_path) for wire, place in places.items()]
        pipelines = with_stock(ours, places)
        with Feed(pipelines, RATE) as feed:
            for part in (1, 4):
                feed.await_fed(SECONDS * RATE * part // 7)
                collector.kill()
                feed.await_fed(SECONDS * RATE * (part + 2) // 7)
                collector.start()
            feed.await_fed(SECONDS * RATE)
        flush(pipelines)
        arrived = Counter(record["attributes"][EVENT_ID] for record in collector.log_records())
    lost = losses(feed, pipelines, arrived)
    twice = {one.name: sum(arrived[each] > 1 for each in feed.ids(one)) for one in ours}
    long_run(
        f"{SECONDS} s at {RATE} records/s, the collector killed twice for {SECONDS * 2 // 7} s each",
        f"lost: {shares(lost)}; sent twice: {sum(twice.values())}",
    )
    assert_only_stock_loses(lost, ours, feed.fed)


def shares(lost: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in lost.items())
