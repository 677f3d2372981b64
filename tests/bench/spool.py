"""What it costs to have a request on the medium: ``put`` beside a bare commit of the same bytes, and in memory."""

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from otel_connect.export.age import Ages
from otel_connect.export.ledger import Ledger
from otel_connect.export.recovery import open_disk
from otel_connect.export.spool import Limits, Spool
from otel_connect.model import Request, Signal
from tests.bench.figures import quartiles, table
from tests.bench.plan import Plan

_BODY = 60_000  # a hundred records
_PUTS = 40  # a round
_INSERT = "INSERT INTO batches (body) VALUES (?)"
_LIMITS = Limits(disk_bytes=1 << 30, memory_bytes=1 << 30)


@dataclass(slots=True)
class SpoolCost:
    """The rounds: seconds a request, and of them of CPU."""

    disk: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    disk_cpu: list[float] = field(default_factory=list)
    bare_cpu: list[float] = field(default_factory=list)
    balances: bool = True

    def render(self) -> str:
        """Lay the table out."""
        ratios = quartiles([ours / bare for ours, bare in zip(self.disk, self.bare, strict=True)])
        rows = [
            ("put, on disk", *_figures(self.disk), _microseconds(self.disk_cpu)),
            ("a bare SQLite commit of the same bytes", *_figures(self.bare), _microseconds(self.bare_cpu)),
            ("put, in memory", *_figures(self.memory), ""),
        ]
        head = (f"to have a request of {_BODY} bytes waiting", "µs", "a second", "µs of CPU")
        balance = "" if self.balances else "; DOES NOT BALANCE"
        return f"{table(head, rows)}\non disk, by a bare commit: × {ratios}{balance}"


def measure_spool(plan: Plan) -> SpoolCost:
    """Take the three in turn."""
    cost = SpoolCost()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        ledger = Ledger()
        disk = Spool(ledger, _LIMITS, lambda: open_disk(Path(directory, "spool")), ages=Ages(), clock=time.monotonic)
        memory = Spool(ledger, _LIMITS, None, ages=Ages(), clock=time.monotonic)
        bare = _bare(Path(directory, "bare.db"))
        request = Request(Signal.LOGS, os.urandom(_BODY), 100)
        for _ in range(4 * plan.rounds):
            for times, cpu, work in (
                (cost.bare, cost.bare_cpu, lambda: bare.execute(_INSERT, (request.body,))),
                (cost.disk, cost.disk_cpu, lambda: disk.put(request)),
                (cost.memory, [], lambda: memory.put(request)),
            ):
                _measure(times, cpu, work)
        bare.close()
        disk.close()
        memory.close()
        cost.balances = all(account.difference == 0 for account in ledger.snapshot().values())
    return cost


def _bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE batches (body BLOB)"):
        connection.execute(statement)
    return connection


def _measure(times: list[float], cpu: list[float], work: Callable[[], object]) -> None:
    began, cpu_began = time.perf_counter(), time.thread_time()
    for _ in range(_PUTS):
        work()
    times.append((time.perf_counter() - began) / _PUTS)
    cpu.append((time.thread_time() - cpu_began) / _PUTS)


def _figures(times: list[float]) -> tuple[str, str]:
    return _microseconds(times), f"{1 / quartiles(times).median:,.0f}"


def _microseconds(times: list[float]) -> str:
    return f"{quartiles(times).median * 1e6:,.0f}"
