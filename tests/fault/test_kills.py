"""Killed at any moment (R7), and a backend that is away for long (R6): what was committed arrives.

The oracle is a file: a feeding process writes an id into it after the exporter has taken the record, so what the
file knows was promised. The backend keeps every id it has answered, and which run of the process sent it.
"""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event

import grpc
import pytest

from otel_connect.config import Protocol
from tests.support.collector import Collector
from tests.support.delivery import GRPC, HTTP, receive
from tests.support.feed import EVENT_ID
from tests.support.feeder import RUN_HEADER, Feeder, Order, committed_ids
from tests.support.receiver import SUCCESS, Received, Reply
from tests.support.soak import LongRun, by_length

KILLS = by_length(full=200, short=10)
"""For each protocol."""
DOWN = Reply(status=503, code=grpc.StatusCode.UNAVAILABLE)

SLOW = Reply(delay_s=0.1)


def taken(requests: list[Received]) -> list[Received]:
    return [request for request in requests if request.reply != DOWN]


def repeated_outside_the_last_request(requests: list[Received]) -> set[str]:
    """Find ids that came twice although the run that sent them first had gone on to another request since.

    A run that is killed may not have heard that its last request arrived, or not have settled it; the ones
    before it are settled, for a sender leases the next only then.
    """
    by_run: dict[str, list[Received]] = {}
    for request in requests:
        by_run.setdefault(request.metadata[RUN_HEADER], []).append(request)
    arrivals = Counter(one for request in requests for one in request.ids)
    unsettled = {one for sent in by_run.values() for one in sent[-1].ids}
    return {one for one, times in arrivals.items() if times > 1 and one not in unsettled}


@pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])
@pytest.mark.timeout(3600)
def test_kills_lose_nothing_that_was_committed(protocol: Protocol, tmp_path: Path, long_run: LongRun) -> None:
    chance = random.Random(7)
    outage = Event()

    def script() -> Iterator[Reply]:
        # Some are refused, some take long to be answered: kills also find retries, and requests under way.
        for number in count():
            yield DOWN if outage.is_set() or number % 8 == 0 else SLOW if number % 2 else SUCCESS

    committed = tmp_path / "committed"
    with receive(protocol, script()) as receiver:
        export = {
            "endpoint": receiver.endpoint,
            "protocol": protocol,
            "spool_directory": f"{tmp_path}/spool",
            "request_bytes": 1 << 16,
        }
        for run in range(KILLS):
            if chance.random() < 0.3:
                outage.set() if not outage.is_set() else outage.clear()
            with Feeder(Order(export, run, str(committed), per_put=10, puts_per_second=100)) as feeder:
                Event().wait(chance.uniform(0, 0.5))
                feeder.kill()
        outage.clear()
        with Feeder(Order(export, KILLS, str(committed), puts_per_second=0)) as feeder:
            account = feeder.finish()
        requests = taken(receiver.requests)
    promised = committed_ids(committed)
    arrived = Counter(one for request in requests for one in request.ids)
    twice = sum(times - 1 for times in arrived.values())
    long_run(
        f"{KILLS} SIGKILLs of a process that puts 1,000 records/s by {protocol}, outages between",
        f"{len(promised)} records committed, {sum(not arrived[one] for one in promised)} lost, {twice} sent twice",
    )
    assert len(promised) >= KILLS * 10
    assert [one for one in promised if not arrived[one]] == []
    assert (account["queued"], account["dropped"]) == (0, {})
    assert repeated_outside_the_last_request(requests) == set()


@pytest.mark.timeout(3600)
def test_kills_on_both_sides_lose_nothing_that_was_committed(tmp_path: Path, long_run: LongRun) -> None:
    chance = random.Random(11)
    committed = tmp_path / "committed"
    with Collector(tmp_path / "collector") as collector:
        export = {
            "endpoint": collector.http_endpoint,
            "spool_directory": f"{tmp_path}/spool",
            "request_bytes": 1 << 16,
        }
        for run in range(KILLS):
            with Feeder(Order(export, run, str(committed), per_put=10, puts_per_second=100)) as feeder:
                Event().wait(chance.uniform(0, 0.3))
                if run in {KILLS // 4, KILLS * 3 // 4}:
                    collector.kill()
                Event().wait(chance.uniform(0, 0.3))
                feeder.kill()
            if run in {KILLS // 2, KILLS - 1}:
                collector.start()
        with Feeder(Order(export, KILLS, str(committed), puts_per_second=0)) as feeder:
            account = feeder.finish()
        arrived = Counter(record["attributes"][EVENT_ID] for record in collector.log_records())
    promised = committed_ids(committed)
    long_run(
        f"{KILLS} SIGKILLs of a process that puts 1,000 records/s to a real collector, which is killed twice",
        f"{len(promised)} records committed, {sum(not arrived[one] for one in promised)} lost, "
        f"{arrived.total() - len(arrived)} sent twice",
    )
    assert [one for one in promised if not arrived[one]] == []
    assert (account["queued"], account["dropped"]) == (0, {})


SECONDS_DOWN = by_length(full=600, short=8)
RATE = 1000
PUTS_PER_SECOND = 5  # as the agent's flush interval has it


@pytest.mark.timeout(3600)
def test_a_long_outage_loses_nothing(tmp_path: Path, long_run: LongRun) -> None:
    committed = tmp_path / "committed"
    outage = Event()
    outage.set()

    def script() -> Iterator[Reply]:
        while True:
            yield DOWN if outage.is_set() else SUCCESS

    with receive(HTTP, script()) as receiver:
        export = {"endpoint": receiver.endpoint, "spool_directory": f"{tmp_path}/spool"}
        order = Order(export, 0, str(committed), per_put=RATE // PUTS_PER_SECOND, puts_per_second=PUTS_PER_SECOND)
        with Feeder(order) as feeder:
            Event().wait(SECONDS_DOWN)
            assert taken(receiver.requests) == []
            outage.clear()
            account = feeder.finish()
        arrived = Counter(one for request in taken(receiver.requests) for one in request.ids)
    promised = committed_ids(committed)
    long_run(
        f"backend down for {SECONDS_DOWN} s at {RATE} records/s, then back",
        f"{len(promised)} records spooled, {sum(not arrived[one] for one in promised)} lost, "
        f"{sum(times - 1 for times in arrived.values())} sent twice",
    )
    assert arrived == Counter(promised)
    assert (account["exported"], account["queued"], account["dropped"]) == (len(promised), 0, {})
