"""How much of everything: the whole bench, or a quick one that only shows that it works."""

import os
from dataclasses import dataclass
from typing import NamedTuple


class Variant(NamedTuple):
    """A way to run the agent whose cost is measured by itself."""

    name: str
    settings: str
    """Lines of the configuration, each a dotted key."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Amounts of one run, and who runs where."""

    agent_starts: int
    """Each gives two pairs of attached and detached measurements."""
    cycles: int
    """Connects of one run of the load; of what takes less time it makes a multiple."""
    repeats: int
    """Runs of a measurement, of which the median counts."""
    rounds: int
    """Pairs of the pipeline and the stock SDK."""
    records: int
    """Records that the pipeline takes in a round; the stock SDK takes a quarter of them."""
    watch_s: float
    """For how long the agent's CPU time is watched."""
    attempts: int
    """Attempts between the first and the last look at the agent's memory."""
    variants: tuple[Variant, ...] = (Variant("names", ""), Variant("no names", "enrich.names = false"))
    """The ways to run the agent that the cost of the probes is told for."""
    load_core: int = min(os.sched_getaffinity(0))
    agent_core: int = max(os.sched_getaffinity(0))


WHOLE = Plan(agent_starts=12, cycles=1_500, repeats=5, rounds=5, records=20_000, watch_s=5, attempts=200_000)
QUICK = Plan(agent_starts=1, cycles=1_000, repeats=1, rounds=2, records=4_000, watch_s=1, attempts=10_000)
