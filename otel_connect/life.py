"""What a running agent does beside its work: tell how it is, answer the service manager, follow its configuration.

The loop calls ``round`` each time it has gone round; nothing here waits for anyone.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from otel_connect.encode.events import AgentEvent, config_reloaded, data_lost
from otel_connect.encode.self_metrics import self_metrics
from otel_connect.errors import ConfigError
from otel_connect.export.ledger import Reason
from otel_connect.figures import Account, AgentState, Figures, Outlet
from otel_connect.model import Signal
from otel_connect.serve.report import Phase, Reload, Report, status_line
from otel_connect.serve.systemd import ServiceManager

_log = logging.getLogger(__name__)

_PUBLISH_EVERY_S = 1.0
_STATUS_EVERY_S = 10.0
_LOSS_EVERY_S = 60.0

_BY_DESIGN = frozenset({Reason.SAMPLED, Reason.FILTERED, Reason.NO_SYN, Reason.KERNEL_THROTTLED, Reason.SHUTDOWN})


class Output(Protocol):
    """What is asked of an output beside taking attempts."""

    def outlet(self, state: AgentState) -> Outlet:
        """Say what became of everything that was handed over."""

    def event(self, event: AgentEvent) -> None:
        """Take an event of the agent."""


class Pages(Protocol):
    """Where reports go."""

    def publish(self, report: Report) -> None:
        """Take the latest report."""


class Life:
    """One run of an agent, from when it captures to its end.

    ``state`` tells how the agent is; ``reload`` reads the configuration again, puts it in force and returns the keys
    that need a restart, or raises ConfigError and changes nothing.
    """

    def __init__(
        self,
        state: Callable[[], AgentState],
        output: Output,
        manager: ServiceManager,
        *,
        where: str,
        pages: Pages,
        reload: Callable[[], tuple[str, ...]],
        reload_wanted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._output = output
        self._manager = manager
        self._where = where
        self._reload = reload
        self._reload_wanted = reload_wanted
        self._clock = clock
        self._started = (time.time_ns(), clock())
        self._phase = Phase.CAPTURING
        self._last_reload: Reload | None = None
        self._losses = Losses()
        self._next_publish = self._next_status = self._next_alive = 0.0
        self._pages = pages

    def round(self) -> None:
        """Do what is due."""
        now = self._clock()
        if self._reload_wanted():
            self._read_again()
        if self._manager.watchdog_every_s is not None and now >= self._next_alive:
            self._next_alive = now + self._manager.watchdog_every_s
            self._manager.alive()
        if now >= self._next_publish:
            self._next_publish = now + _PUBLISH_EVERY_S
            self._publish(now)

    def report(self) -> Report:
        """Say how it is going, now."""
        state = self._state()
        figures = Figures(state, self._output.outlet(state))
        started_unix_ns, started_monotonic_s = self._started
        return Report(
            pid=os.getpid(),
            phase=self._phase,
            started_unix_ns=started_unix_ns,
            started_monotonic_s=started_monotonic_s,
            at_monotonic_s=self._clock(),
            output=self._where,
            figures=figures,
            metrics=self_metrics(figures),
            last_reload=self._last_reload,
        )

    def stopping(self) -> None:
        """Tell that the end has begun; this is the last report."""
        self._phase = Phase.STOPPING
        self._manager.stopping()
        self._pages.publish(self.report())

    def _publish(self, now: float) -> None:
        report = self.report()
        self._pages.publish(report)
        for loss in self._losses.news(report.figures.outlet.accounts, now):
            self._output.event(data_lost(*loss))
        if now >= self._next_status:
            self._next_status = now + _STATUS_EVERY_S
            self._manager.status(status_line(report.figures))

    def _read_again(self) -> None:
        self._manager.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        problems: tuple[str, ...] = ()
        needs_restart: tuple[str, ...] = ()
        try:
            needs_restart = self._reload()
        except ConfigError as error:
            problems = error.problems
            for problem in problems:
                _log.error("configuration not reloaded, the old one stays in force: %s", problem)
        else:
            _log.info("configuration reloaded")
            self._output.event(config_reloaded())
        for key in needs_restart:
            _log.warning("%s has changed: needs a restart, the running value stays", key)
        self._last_reload = Reload(time.time_ns(), problems, needs_restart)
        self._next_publish = 0.0
        self._manager.ready("configuration not reloaded, see the log" if problems else "capturing")


class Losses:
    """Notices what was lost, and says so of each signal and reason at most once a minute."""

    def __init__(self) -> None:
        self._said: dict[tuple[Signal, str], tuple[int, float]] = {}

    def news(self, accounts: Mapping[Signal, Account], now_s: float) -> list[tuple[Signal, str, int]]:
        """Return what to say now: signal, reason, and how many records since that was last said."""
        news = []
        for signal, account in accounts.items():
            for reason, count in account.dropped.items():
                said, at = self._said.get((signal, reason), (0, -_LOSS_EVERY_S))
                if count > said and reason not in _BY_DESIGN and now_s - at >= _LOSS_EVERY_S:
                    self._said[signal, reason] = (count, now_s)
                    news.append((signal, str(reason), count - said))
        return news
