"""What the pictures are of: four minutes of a shop's programs and their servers, with some troubles.

The database refuses for a while, and the program that needs it storms; a partner becomes slow, then loses packets; two
servers never answer; a policy forbids the way to the mail server. The backend of logs and traces is away for a while;
that of metrics stays, or else nobody would see it.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.pictures.cast import ADDRESSES, CACHE, DATABASE, PARTNER, PARTNER_UPLOAD, PROGRAMS, RESOLVER, Traffic
from tests.support.agent import RunningAgent
from tests.support.bench import Bench
from tests.support.collector import Collector, await_until
from tests.support.peer import Answer, Behaviour
from tests.support.prometheus import Monitoring
from tests.support.resolver import Resolver

LENGTH_S = 240
WINDOW_S = 15
"""Of rates; a scrape is every second."""
_STEP_S = 3

_EXAMPLES = Path(__file__).parents[2] / "examples" / "collector-config"
_NOBODY = "http://127.0.0.1:9/"
_FASTER = 15
_LEAD_S = 2 * WINDOW_S
"""Traffic before the first second, so that rates have become what they are."""
_SETTINGS = """
[encode]
span_successes_per_second = 5
[export]
spool_bytes = 2097152
# Whatever else happens on this machine is not in the metrics.
[filter]
count = false
"""
_ALLOW = """
[[filter.allow]]
cidr = "{}"
port = {}
"""


def _accept(delay_ms: float, on_syn: int = 1) -> Behaviour:
    return Behaviour(Answer.ACCEPT, delay_ms / 1000, on_syn)


_AT_FIRST: Mapping[str | int, Behaviour] = {
    DATABASE: _accept(4),
    CACHE: _accept(1),
    PARTNER: _accept(35),
    PARTNER_UPLOAD: _accept(35),
}
"""How servers answer, or whoever has a port; those that are not here never do."""
_CHANGES: Sequence[tuple[float, str | int, Behaviour]] = (
    (45, DATABASE, Behaviour(Answer.REFUSE, 0.002)),
    (85, DATABASE, _accept(9)),
    (100, PARTNER, _accept(80)),
    (110, DATABASE, _accept(4)),
    (130, PARTNER, _accept(50)),
    (165, PARTNER_UPLOAD, _accept(35, on_syn=2)),
    (195, PARTNER_UPLOAD, _accept(35)),
    (210, PARTNER, _accept(35)),
)
"""From which second on it is different."""
_AWAY, _BACK = 150, 185
"""When the backend of logs and traces goes, and when it returns."""


class Scene:
    """All that takes part, for the length of a ``with`` block; needs root."""

    def __init__(self, folder: Path, pace: float = 1.0) -> None:
        """``pace`` is how long a second of the scene takes: for a rehearsal less than one."""
        self._folder = folder
        self._pace = pace
        self._began = time.time()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._records = stack.enter_context(Collector(self._folder / "records", config=_EXAMPLES / "minimal.yaml"))
            metrics = stack.enter_context(Collector(self._folder / "metrics", config=_EXAMPLES / "prometheus.yaml"))
            self._bench = stack.enter_context(Bench())
            names = {name: [("A", address)] for name, address in ADDRESSES.items()}
            stack.enter_context(Resolver(names, self._bench.namespace, [RESOLVER]))
            stack.enter_context(self._agent(metrics))
            page = metrics.prometheus_url
            self.monitoring = stack.enter_context(
                Monitoring(self._folder / "monitoring", page_url=page, webhook_url=_NOBODY, factor=_FASTER)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def play(self) -> range:
        """Let it all happen; returns the Unix times that there is something to be drawn of."""
        traffic = Traffic(self._bench, self._folder, lambda: (time.time() - self._began) / self._pace)
        for where, behaviour in _AT_FIRST.items():
            self._answer(where, behaviour)
        await_until(lambda: self._named(traffic), 60)
        self._began = math.ceil(time.time()) + _LEAD_S
        with traffic:
            for second, change in self._acts():
                self._wait_for(second)
                change()
            self._wait_for(LENGTH_S)
        return range(int(self._began), int(self._began + LENGTH_S * self._pace) + 1, _STEP_S)

    def _acts(self) -> list[tuple[float, Callable[[], None]]]:
        """Return what is to be changed at which second, in order."""
        acts: list[tuple[float, Callable[[], None]]] = [(_AWAY, self._records.stop), (_BACK, self._records.start)]
        acts += [(second, partial(self._answer, where, behaviour)) for second, where, behaviour in _CHANGES]
        return sorted(acts, key=itemgetter(0))

    def _answer(self, where: str | int, behaviour: Behaviour) -> None:
        self._bench.peer.on(ADDRESSES[where] if isinstance(where, str) else where, behaviour)

    def _wait_for(self, second: float) -> None:
        time.sleep(max(0.0, self._began + second * self._pace - time.time()))

    def _named(self, traffic: Traffic) -> bool:
        """Make an attempt, and say whether one has been counted by the name of its server."""
        (program, *_) = [program for program in PROGRAMS if program.host == CACHE]
        traffic.run(program, 1)
        return bool(self.monitoring.query(f'otel_connect_attempts_total{{server_address="{CACHE}"}}'))

    def _agent(self, metrics: Collector) -> RunningAgent:
        settings = self._folder / "otel-connect.toml"
        allowed = [_ALLOW.format(ADDRESSES[program.host], program.port) for program in PROGRAMS]
        settings.write_text(_SETTINGS + "".join(allowed), encoding="utf-8")
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._records.http_endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{metrics.http_endpoint}/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=shop-1",
            "OTEL_CONNECT_LISTEN": "off",
        }
        return RunningAgent("--config", str(settings), environment=environment)
