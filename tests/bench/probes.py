"""What the probes cost: the same calls with the agent running and without it, in turn, for each way to run it."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from tests.bench.agent import Backend, Ledger, Watched
from tests.bench.figures import quartiles, table
from tests.bench.load import Load
from tests.bench.plan import Plan, Variant


class Work(NamedTuple):
    """What the load makes again and again."""

    program: str
    mode: str
    label: str
    factor: int
    """Cycles for one of the plan's, so that every measurement takes about as long."""


CONNECTING = (
    Work("connects", "accepted", "socket + connect + accept + close", 1),
    Work("connects", "refused", "socket + connect (refused) + close", 1),
)
OTHERS = (
    Work("bystanders", "tcp", "64 bytes there and back, established TCP", 3),
    Work("bystanders", "stream", "64 KiB written and read, established TCP", 1),
    Work("bystanders", "udp", "64 bytes there and back, connected UDP", 4),
    Work("bystanders", "unconnected", "64 bytes there and back, unconnected UDP", 4),
    Work("bystanders", "files", "open + close, each of 10,000 files", 10),
    Work("bystanders", "getppid", "getppid", 40),
)
_TABLES = {"one core makes": CONNECTING, "one core makes, not connecting": OTHERS}
_ALL = (*CONNECTING, *OTHERS)

_HOOKS = {"inet_sock_set_state", "sys_enter_connect", "sys_exit_connect"}
"""Every agent has a program on the first of these, whatever else it has."""
_MORE_STARTS = 4
"""Of an agent, when others' probes disturbed every pair: mostly they are there for a short time only."""


class Sample(NamedTuple):
    """One measurement of everything, ns of CPU time a cycle."""

    times: dict[Work, float]
    disturbed: bool
    """Somebody else's probes were on our hooks meanwhile: it says nothing."""


class Pair(NamedTuple):
    """Two measurements next to each other in time."""

    detached: Sample
    attached: Sample


@dataclass(slots=True)
class Cost:
    """What one way to run the agent costs: all pairs, and what its agents say about their totals."""

    variant: Variant
    pairs: list[Pair] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every attempt is accounted for, and none lost, and there is a pair to tell the cost by."""
        return bool(self.telling()) and all(ledger.holds for ledger in self.ledgers)

    def row(self, work: Work) -> Sequence[str]:
        """Return the cells for one kind of work; none without a pair to tell by."""
        pairs = self.telling()
        if not pairs:
            return (work.label, self.variant.name, "–", "–", "–")
        detached, attached = ([half.times[work] for half in halves] for halves in zip(*pairs, strict=True))
        ratios = [with_agent / without for without, with_agent in zip(detached, attached, strict=True)]
        return (work.label, self.variant.name, _time(detached), _time(attached), str(quartiles(ratios)))

    def totals(self) -> str:
        """Say how much the figures rest upon."""
        telling = len(self.telling())
        left_out = len(self.pairs) - telling
        return (
            f"{self.variant.name}: {telling} pairs, {left_out} more left out because of others' probes;"
            f" {sum(ledger.seen for ledger in self.ledgers):,} attempts,"
            f" {sum(ledger.lost for ledger in self.ledgers)} lost"
        )

    def telling(self) -> list[Pair]:
        """Return the pairs that nobody else's probes disturbed."""
        return [pair for pair in self.pairs if not (pair.detached.disturbed or pair.attached.disturbed)]


class Costs(NamedTuple):
    """The result, for each way to run the agent."""

    costs: list[Cost]

    @property
    def holds(self) -> bool:
        """Whether each of them holds."""
        return all(cost.holds for cost in self.costs)

    def render(self) -> str:
        """Lay the tables out: of those who connect, and of those who do not."""
        tables = [
            table((title, "agent", "without", "with", "ratio (quartiles)"), self._rows(works))
            for title, works in _TABLES.items()
        ]
        return "\n\n".join([*tables, "\n".join(cost.totals() for cost in self.costs)])

    def _rows(self, works: Sequence[Work]) -> Iterator[Sequence[str]]:
        for work in works:
            for cost in self.costs:
                yield cost.row(work)


def measure_cost(plan: Plan, load: Load, backend: Backend) -> Costs:
    """Measure pairs of each variant in turn, and some more of one that others' probes disturbed every time."""
    costs = [Cost(variant) for variant in plan.variants]
    for cost in costs * plan.agent_starts:
        _add_pairs(cost, plan, load, backend)
    for cost in costs * _MORE_STARTS:
        if not cost.telling():
            _add_pairs(cost, plan, load, backend)
    return Costs(costs)


def _add_pairs(cost: Cost, plan: Plan, load: Load, backend: Backend) -> None:
    """Start one agent for two pairs, of which the second has its two halves the other way round."""
    before = _sample(plan, load)
    agent = Watched(backend.endpoint, cost.variant.settings)
    first, second = (_sample(plan, load, agent) for _ in range(2))
    cost.ledgers.append(agent.stop())
    after = _sample(plan, load)
    cost.pairs += (Pair(before, first), Pair(after, second))


def _sample(plan: Plan, load: Load, agent: Watched | None = None) -> Sample:
    expected = set() if agent is None else {agent.pid}
    seen = [_observers()]
    runs = [
        {work: load.run(work.program, work.mode, plan.cycles * work.factor) for work in _ALL}
        for _ in range(plan.repeats)
    ]
    times = {work: median(run[work] for run in runs) for work in _ALL}
    seen.append(_observers())
    return Sample(times, disturbed=any(pids != expected for pids in seen))


def _observers() -> set[int]:
    """Return the processes that have programs on our hooks, whosever they are."""
    listing = subprocess.run(["bpftool", "-j", "perf"], check=True, stdout=subprocess.PIPE).stdout
    return {one["pid"] for one in json.loads(listing) if one.get("tracepoint") in _HOOKS}


def _time(times: Sequence[float]) -> str:
    ns = median(times)
    return f"{ns:.0f} ns" if ns < 1000 else f"{ns / 1000:.1f} µs"
