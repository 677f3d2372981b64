"""What the agent itself takes: CPU when nothing happens and at a usual rate, memory, and that nothing is lost."""

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.bench.agent import Backend, Ledger, Memory, Watched
from tests.bench.figures import table
from tests.bench.load import Load
from tests.bench.plan import Plan

_USUAL_RATE = 1_000
_PORTION = 10_000  # made at full speed; the next one follows when the backend has them all
_SETTLE_S = 1.0


class Footprint(NamedTuple):
    """Shares of a core, memory, and the totals."""

    idle_share: float
    usual_share: float
    at_start: Memory
    at_end: Memory
    attempts: int
    """Made by this bench; the agent sees everybody else's too."""
    ledger: Ledger
    arrived: int

    @property
    def holds(self) -> bool:
        """Whether every attempt is accounted for and has arrived; more may, as delivery is at least once."""
        return self.ledger.holds and self.ledger.seen >= self.attempts and self.arrived >= self.ledger.exported

    def render(self) -> str:
        """Lay the table out."""
        rows = (
            ("CPU, idle", f"{self.idle_share:.2%} of a core"),
            (f"CPU, {_USUAL_RATE:,} attempts/s", f"{self.usual_share:.1%} of a core"),
            ("memory (RSS), after start", f"{self.at_start.now:.1f} MiB"),
            (f"memory (RSS), after {self.attempts:,} attempts", f"{self.at_end.now:.1f} MiB"),
            (f"memory (RSS), at its peak, behind by {_PORTION:,}", f"{self.at_end.peak:.1f} MiB"),
        )
        return f"{table(('the agent takes', ''), rows)}\n{self.ledger}; {self.arrived} arrived"


def measure_footprint(plan: Plan, load: Load, backend: Backend) -> Footprint:
    """Watch one agent, first idle, then with refused attempts to many peers."""
    agent = Watched(backend.endpoint)
    time.sleep(_SETTLE_S)
    at_start = agent.memory()
    idle_share = _share(agent, lambda: time.sleep(plan.watch_s))
    usual = int(_USUAL_RATE * plan.watch_s)
    usual_share = _share(agent, lambda: load.run("connects", "scattered", usual, _USUAL_RATE))
    for made in range(0, plan.attempts, _PORTION):
        load.run("connects", "scattered", _PORTION)
        backend.await_log_records(usual + made + _PORTION)
    at_end = agent.memory()
    ledger, arrived = agent.stop(), backend.log_records
    return Footprint(idle_share, usual_share, at_start, at_end, usual + plan.attempts, ledger, arrived)


def _share(agent: Watched, wait: Callable[[], object]) -> float:
    began, busy = time.monotonic(), agent.cpu_s()
    wait()
    return (agent.cpu_s() - busy) / (time.monotonic() - began)
