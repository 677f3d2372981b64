"""The programs of the scene: who connects to what, how often, and how each is run."""

import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.bench import Bench, Run, Target
from tests.support.naming import with_files
from tests.support.runtimes import Runtime, available

DATABASE, CACHE, PARTNER = "db.internal", "cache.internal", "api.partner.example"
LEGACY, MAIL, NAMELESS = "legacy.internal", "mail.internal", "192.0.2.99"
PARTNER_UPLOAD = 9443
"""Another port of the partner."""
ADDRESSES: Mapping[str, str] = {
    DATABASE: "192.0.2.10",
    CACHE: "192.0.2.11",
    PARTNER: "192.0.2.12",
    LEGACY: "192.0.2.13",
    MAIL: "203.0.113.1",  # this host forbids it: a "prohibit" route of the bench
    NAMELESS: NAMELESS,
}
RESOLVER = "127.0.0.53"
_RUNS_AT_ONCE = 64
_TICK_S = 1.0

Rate = Callable[[float], float]
"""Attempts a second, at a second of the scene."""


class Program(NamedTuple):
    """A program and a server that it connects to."""

    runtime: str
    host: str
    port: int
    rate: Rate
    service: str = ""
    """What it says it belongs to; empty: nothing."""
    patience_ms: int = 0
    """When it gives up; 0: it does not."""
    binary: str = ""
    """What its executable is called; empty: as its runtime."""


def _about(rate: float, swing: float, period_s: float) -> Rate:
    """Return a rate that goes up and down."""
    return lambda second: rate * (1 + swing * math.sin(2 * math.pi * second / period_s))


def _checkout(second: float) -> float:
    """Storm while the database refuses."""
    return _about(6, 0.15, 90)(second) * (2.5 if 45 <= second < 85 else 1)


PROGRAMS: Sequence[Program] = (
    Program("python", DATABASE, 5432, _checkout, service="checkout"),
    Program("go", DATABASE, 5432, _about(3, 0.15, 60), binary="billing"),
    Program("python", CACHE, 6379, _about(4, 0.2, 120), service="checkout"),
    Program("node", CACHE, 6379, _about(8, 0.3, 100), service="storefront"),
    Program("curl", PARTNER, 443, _about(4, 0.2, 70)),
    Program("curl", PARTNER, PARTNER_UPLOAD, _about(0.5, 0.2, 70)),
    Program("curl", LEGACY, 8443, lambda second: 1.5 if second >= 100 else 0.3, patience_ms=400),
    Program("perl", NAMELESS, 514, _about(0.8, 0.5, 80)),
    Program("python", MAIL, 25, lambda second: 2.5 if 120 <= second < 180 else 0.3, service="newsletter"),
)


class Traffic:
    """Runs the programs on a bench; for the length of a ``with`` block as often as they want."""

    def __init__(self, bench: Bench, folder: Path, second: Callable[[], float]) -> None:
        """``second`` tells where in the scene it is; ``folder`` is for files of the programs."""
        self._bench = bench
        self._folder = folder
        self._second = second
        self._runtimes = {runtime.name: runtime for runtime in available()}
        (folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\n", encoding="ascii")
        (folder / "hosts").write_text("", encoding="ascii")
        for program in PROGRAMS:
            if program.binary:
                shutil.copy(self._runtimes[program.runtime].executable_path, folder / program.binary)
        self._runs: list[Future[Run]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drive, name="traffic")
        self._pool = ThreadPoolExecutor(_RUNS_AT_ONCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._pool.shutdown()
        if error is None:
            for run in self._runs:
                run.result()

    def run(self, program: Program, attempts: int) -> Run:
        """Run a program to its end."""
        target = Target(program.host, ADDRESSES[program.host], program.port)
        return self._bench.run_runtime(self._as(program), target, attempts=attempts, timeout_ms=program.patience_ms)

    def _drive(self) -> None:
        owed = dict.fromkeys(PROGRAMS, 0.0)
        while not self._over.wait(_TICK_S):
            for program in PROGRAMS:
                owed[program] += program.rate(self._second()) * _TICK_S
                if attempts := int(owed[program]):
                    owed[program] -= attempts
                    self._runs.append(self._pool.submit(self.run, program, attempts))

    def _as(self, program: Program) -> Runtime:
        """Return the runtime with the files, the name and the environment that a program has."""
        runtime = self._runtimes[program.runtime]

        def argv(host: str, port: int, count: int, timeout_ms: int) -> list[str]:
            first, *others = runtime.argv(host, port, count, timeout_ms)
            first = str(self._folder / program.binary) if program.binary else first
            environment = ["env", f"OTEL_SERVICE_NAME={program.service}"] if program.service else []
            files = {"resolv_conf": self._folder / "resolv.conf", "hosts": self._folder / "hosts"}
            return with_files([*environment, first, *others], **files)

        return runtime._replace(argv=argv)
