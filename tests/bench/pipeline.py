"""How fast one core turns bytes of the ring into OTLP, against the SDK as it comes."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from opentelemetry.sdk.resources import Resource

from otel_connect.agent import Agent
from otel_connect.config import Configuration, EncodeConfig
from otel_connect.encode.resource import agent_resource
from otel_connect.encode.spans import SpanSelection
from otel_connect.model import Attempt, Signal
from otel_connect.outputs import Telemetry
from tests.bench.figures import quartiles, table
from tests.bench.plan import Plan
from tests.bench.recorded import Discard, Keep, Recorded, fake_enricher
from tests.bench.records import READING, readings
from tests.bench.stages import time_of_stages
from tests.bench.stock import StockSdk

_STOCK_SHARE = 4  # the SDK gets a fourth of the records: it needs longer for each


@dataclass(slots=True)
class Speed:
    """The rounds: records a second of CPU time; and where it goes, µs a record."""

    ours: list[float] = field(default_factory=list)
    stock_logs: list[float] = field(default_factory=list)
    stock_all: list[float] = field(default_factory=list)
    stages: Mapping[str, float] = field(default_factory=dict)
    bytes_a_record: float = 0
    balances: bool = True

    def render(self) -> str:
        """Lay the two tables out."""
        whole = sum(self.stages.values())
        stages = [(name, f"{spent:.2f} µs", f"{spent / whole:.0%}") for name, spent in self.stages.items()]
        rows = (
            ("the agent: ring bytes to logs, metrics, spans", _rate(self.ours), "1"),
            ("stock SDK: attempts to logs, metrics, spans", _rate(self.stock_all), self._ratio(self.stock_all)),
            ("stock SDK: attempts to logs alone", _rate(self.stock_logs), self._ratio(self.stock_logs)),
        )
        speeds = table(("one core, no kernel", "records/s", "agent by stock (quartiles)"), rows)
        costs = table(("where a record's time goes", "CPU", "share"), [*stages, ("all", f"{whole:.2f} µs", "100%")])
        verdict = "balance" if self.balances else "DO NOT BALANCE"
        return f"{speeds}\na log record has {self.bytes_a_record:.0f} bytes; the totals {verdict}\n\n{costs}"

    def _ratio(self, stock: Sequence[float]) -> str:
        return str(quartiles([ours / theirs for ours, theirs in zip(self.ours, stock, strict=True)]))


def measure_speed(plan: Plan) -> Speed:
    """Run the agent and the SDK in turn on the same attempts."""
    resource = agent_resource(os.uname(), instance_id="bench", machine_id=None, node_name=None)
    rings = readings(plan.records)
    batches = _attempts(rings[: len(rings) // _STOCK_SHARE])
    stock, stock_records = StockSdk(resource), len(batches) * READING
    chosen = _with_span(batches)
    speed = Speed()
    _agent(speed, rings, resource)  # fills caches
    speed.ours.clear()
    for _ in range(plan.rounds):
        _agent(speed, rings, resource)
        speed.stock_all.append(stock_records / _cpu_s(lambda: _stock_all(stock, batches, chosen)))
        speed.stock_logs.append(stock_records / _cpu_s(lambda: _stock_logs(stock, batches)))
    stock.close()
    speed.stages = time_of_stages(rings, resource)
    return speed


def _agent(speed: Speed, rings: Sequence[bytes], resource: Resource) -> None:
    """Run the whole agent once, and check that every record came out."""
    stop, sink = Event(), Discard()
    telemetry = Telemetry(Configuration(), resource, sink)
    agent = Agent(Recorded(rings, stop), fake_enricher(), telemetry, drain_interval_s=0)
    began = time.process_time()
    balance = agent.run(stop)
    spent = time.process_time() - began
    logs = sink.accounts()[Signal.LOGS]
    records = len(rings) * READING
    speed.ours.append(records / spent)
    speed.bytes_a_record = sink.log_bytes / records
    speed.balances &= balance.difference == 0 and logs.exported == balance.shown == records


def _attempts(rings: Sequence[bytes]) -> list[Sequence[Attempt]]:
    stop, keep = Event(), Keep()
    Agent(Recorded(rings, stop), fake_enricher(), keep, drain_interval_s=0).run(stop)
    return keep.batches


def _with_span(batches: Sequence[Sequence[Attempt]]) -> list[list[Attempt]]:
    """Choose those that the agent makes a span of."""
    selection = SpanSelection(EncodeConfig())
    return [
        [attempt for attempt, context in zip(batch, selection.select(batch)[0], strict=True) if context]
        for batch in batches
    ]


def _stock_logs(stock: StockSdk, batches: Sequence[Sequence[Attempt]]) -> None:
    for batch in batches:
        stock.logs(batch)


def _stock_all(stock: StockSdk, batches: Sequence[Sequence[Attempt]], chosen: Sequence[Sequence[Attempt]]) -> None:
    for batch, with_span in zip(batches, chosen, strict=True):
        stock.everything(batch, with_span)
    stock.collect()


def _cpu_s(work: Callable[[], None]) -> float:
    """CPU time of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _rate(rates: Sequence[float]) -> str:
    return f"{quartiles(rates).median:,.0f}"
