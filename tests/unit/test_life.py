"""What a running agent does beside its work, with every neighbour in the test's hands."""

import pytest

from otel_connect.encode.events import AgentEvent
from otel_connect.errors import ConfigError
from otel_connect.figures import Account, AgentState, Outlet
from otel_connect.life import Life, Losses
from otel_connect.model import Signal
from otel_connect.serve.report import Phase, Report, stuck_for_s
from otel_connect.serve.systemd import ServiceManager
from tests.support.figures import OUTLET, STATE


class Manager(ServiceManager):
    """Writes down what it is told."""

    def __init__(self, watchdog_every_s: float | None = None) -> None:
        super().__init__({}, 1)
        self.watchdog_every_s = watchdog_every_s
        self.told: list[str] = []

    def _send(self, *assignments: str) -> None:
        self.told.append(assignments[0])


class Held:
    """The agent's other parts."""

    def __init__(self, manager: Manager | None = None) -> None:
        self.now = 100.0
        self.manager = manager or Manager()
        self.reports: list[Report] = []
        self.events: list[AgentEvent] = []
        self.reloads = 0
        self.outlets = OUTLET
        self.reload = False
        self.problems: list[str] = []
        self.needs_restart: tuple[str, ...] = ()
        self.life = Life(
            lambda: STATE,
            self,
            self.manager,
            where="somewhere",
            pages=self,
            reload=self.read_again,
            reload_wanted=self.take_reload,
            clock=lambda: self.now,
        )

    def outlet(self, _state: AgentState) -> Outlet:
        return self.outlets

    def event(self, event: AgentEvent) -> None:
        self.events.append(event)

    def publish(self, report: Report) -> None:
        self.reports.append(report)

    def take_reload(self) -> bool:
        wanted, self.reload = self.reload, False
        return wanted

    def read_again(self) -> tuple[str, ...]:
        if self.problems:
            raise ConfigError(self.problems)
        self.reloads += 1
        return self.needs_restart

    def rounds(self, count: int, step_s: float) -> None:
        for _ in range(count):
            self.now += step_s
            self.life.round()


def test_a_report_about_once_a_second() -> None:
    held = Held()
    held.rounds(100, 0.05)
    assert len(held.reports) in {5, 6}
    assert held.reports[-1].phase is Phase.CAPTURING
    assert held.reports[-1].figures.state is STATE


def test_the_watchdog_is_fed_by_rounds_only() -> None:
    held = Held(Manager(watchdog_every_s=0.5))
    held.rounds(100, 0.05)
    assert held.manager.told.count("WATCHDOG=1") == pytest.approx(10, abs=1)
    held.now += 60  # the loop hangs
    assert held.manager.told.count("WATCHDOG=1") == pytest.approx(10, abs=1)


def test_a_reload_is_said_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    held = Held()
    held.reload, held.needs_restart = True, ("capture.ring_bytes",)
    held.rounds(1, 0.05)
    assert held.reloads == 1
    assert [event.name for event in held.events if not event.warning] == ["otel_connect.agent.config_reloaded"]
    assert held.manager.told[:2] == ["RELOADING=1", "READY=1"]
    assert held.reports[-1].last_reload is not None
    assert held.reports[-1].last_reload.problems == ()
    assert held.reports[-1].last_reload.needs_restart == ("capture.ring_bytes",)
    assert "capture.ring_bytes has changed: needs a restart, the running value stays" in caplog.messages


def test_a_reload_that_is_refused_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    held.reload, held.problems = True, ["a.toml: x: unknown key", "a.toml: y: unknown key"]
    held.rounds(1, 0.05)
    assert held.reloads == 0
    assert "otel_connect.agent.config_reloaded" not in {event.name for event in held.events}
    assert held.manager.told[:2] == ["RELOADING=1", "READY=1"]
    assert held.reports[-1].last_reload is not None
    assert held.reports[-1].last_reload.problems == tuple(held.problems)
    prefix = "configuration not reloaded, the old one stays in force: "
    assert caplog.messages == [prefix + problem for problem in held.problems]


def test_stopping_is_the_last_report() -> None:
    held = Held()
    held.life.stopping()
    assert [report.phase for report in held.reports] == [Phase.STOPPING]
    assert held.manager.told == ["STOPPING=1"]


def test_losses_are_said_once_a_minute_for_each_reason_and_completely() -> None:
    losses, said = Losses(), 0
    for second in range(600):
        accounts = {Signal.LOGS: Account(9999, 0, 0, 0, {"queue_full": second + 1, "sampled": second})}
        news = losses.news(accounts, float(second))
        assert [(signal, reason) for signal, reason, _ in news] == (
            [] if second % 60 else [(Signal.LOGS, "queue_full")]
        )
        said += sum(count for _, _, count in news)
        if news:
            assert said == second + 1


def test_no_loss_no_news() -> None:
    assert Losses().news({Signal.LOGS: Account(1, 0, 0, 1, {})}, 0.0) == []


def test_a_loss_is_an_event_once_and_what_is_left_out_by_design_is_none() -> None:
    held = Held()
    dropped = {"expired": 3, "sampled": 9, "filtered": 9, "kernel_throttled": 9, "shutdown": 9}
    held.outlets = OUTLET._replace(accounts={Signal.TRACES: Account(99, 0, 0, 0, dropped)})
    held.rounds(50, 1.0)
    (event,) = held.events
    assert (event.name, event.warning) == ("otel_connect.agent.data_lost", True)
    assert dict(event.attributes) == {
        "otel_connect.signal": "traces",
        "otel_connect.reason": "expired",
        "otel_connect.count": 3,
    }


def test_a_loop_that_has_not_gone_round_for_ten_seconds_is_stuck() -> None:
    report = Held().life.report()
    assert [stuck_for_s(report, report.at_monotonic_s + passed) for passed in (0.0, 10.0)] == [None, None]
    assert stuck_for_s(report, report.at_monotonic_s + 10.5) == 10.5


def test_the_service_manager_is_told_how_it_goes_every_ten_seconds() -> None:
    held = Held()
    held.rounds(300, 0.1)
    assert sum(line.startswith("STATUS=") for line in held.manager.told) == 3
