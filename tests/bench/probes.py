"""What the probes cost: the same calls with the agent running and without it, in turn."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

from otel_connect.capture.hooks import NAMES, STATE
from tests.bench.agent import Backend, Ledger, Watched
from tests.bench.figures import quartiles, table
from tests.bench.load import Load
from tests.bench.plan import Plan

_MODES = {
    "accepted": "socket + connect + accept + close",
    "refused": "socket + connect (refused) + close",
    "getppid": "getppid, an unrelated call",
}
_FACTORS = {"accepted": 1, "refused": 1, "getppid": 40}
_HOOKS = {hook for hook, _ in (*STATE, *NAMES)} | {"sys_enter_connect", "sys_exit_connect"}
_OURS = len((*STATE, *NAMES)) + 2
"""Programs that one agent has on them."""


class Sample(NamedTuple):
    """One measurement of every mode, ns of CPU time a cycle."""

    times: dict[str, float]
    disturbed: bool
    """Somebody else's probes were on these hooks meanwhile: it says nothing."""


class Pair(NamedTuple):
    """Two measurements next to each other in time."""

    detached: Sample
    attached: Sample


class Cost(NamedTuple):
    """The result: all pairs, and what the agents say about their totals."""

    pairs: list[Pair]
    ledgers: list[Ledger]

    @property
    def holds(self) -> bool:
        """Whether every attempt is accounted for, and none lost, and there is a pair to tell the cost by."""
        return bool(self._telling()) and all(ledger.holds for ledger in self.ledgers)

    def render(self) -> str:
        """Lay the table out."""
        telling = self._telling()
        rows = [(label, *_times(mode, telling), self._ratio(mode)) for mode, label in _MODES.items() if telling]
        costs = table(("one core makes", "without", "with agent", "ratio (quartiles)"), rows)
        left_out = len(self.pairs) - len(telling)
        return (
            f"{costs}\n{len(telling)} pairs, {left_out} more left out because of others' probes;"
            f" {sum(ledger.seen for ledger in self.ledgers):,} attempts,"
            f" {sum(ledger.lost for ledger in self.ledgers)} lost"
        )

    def _ratio(self, mode: str) -> str:
        return str(quartiles([pair.attached.times[mode] / pair.detached.times[mode] for pair in self._telling()]))

    def _telling(self) -> list[Pair]:
        return [pair for pair in self.pairs if not (pair.detached.disturbed or pair.attached.disturbed)]


def measure_cost(plan: Plan, load: Load, backend: Backend) -> Cost:
    """Measure pairs, of which every second has its two halves the other way round."""
    pairs: list[Pair] = []
    ledgers = []
    for _ in range(plan.agent_starts):
        before = _sample(plan, load, attachments=0)
        agent = Watched(backend.endpoint)
        first, second = (_sample(plan, load, attachments=_OURS) for _ in range(2))
        ledgers.append(agent.stop())
        after = _sample(plan, load, attachments=0)
        pairs += (Pair(before, first), Pair(after, second))
    return Cost(pairs, ledgers)


def _sample(plan: Plan, load: Load, attachments: int) -> Sample:
    seen = {_attachments()}
    runs = [
        {mode: load.run(mode, plan.cycles * factor) for mode, factor in _FACTORS.items()} for _ in range(plan.repeats)
    ]
    times = {mode: median(run[mode] for run in runs) for mode in _MODES}
    seen.add(_attachments())
    return Sample(times, disturbed=seen != {attachments})


def _attachments() -> int:
    """Count the programs on our hooks, whosever they are."""
    listing = subprocess.run(["bpftool", "-j", "perf"], check=True, stdout=subprocess.PIPE).stdout
    return sum(one.get("tracepoint") in _HOOKS for one in json.loads(listing))


def _times(mode: str, pairs: Iterable[Pair]) -> Iterator[str]:
    for half in ("detached", "attached"):
        ns = median(getattr(pair, half).times[mode] for pair in pairs)
        yield f"{ns:.0f} ns" if ns < 1000 else f"{ns / 1000:.1f} µs"
