"""What holds for every test: a skipped test is a failure where nobody reads the summary."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import soak
from tests.support.hidden import HiddenEnds
from tests.support.reruns import Reruns
from tests.support.turns import Turns

HIDDEN = pytest.StashKey[HiddenEnds]()
RELIABILITY = Path(__file__).parents[1] / "docs" / "reliability.md"

settings.register_profile("loaded", deadline=None)  # on a busy machine any example may take long
settings.load_profile("loaded")


def pytest_report_header() -> str:
    absent = [name for name in ("node", "java") if shutil.which(name) is None]
    return f"client runtimes that are not on this machine: {', '.join(absent) or 'none'}"


def pytest_configure(config: pytest.Config) -> None:
    # nohup and a shell's & have their programs ignore these, and so would all that the tests start.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hidden = config.stash[HIDDEN] = HiddenEnds()
    config.pluginmanager.register(Reruns(lambda: hidden.count))
    config.pluginmanager.register(Turns(Path(__file__), RELIABILITY))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the one that runs tests again
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    with session.config.stash[HIDDEN]:
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tell_long_runs(terminalreporter)


@pytest.fixture(scope="session")
def hidden_ends(request: pytest.FixtureRequest) -> HiddenEnds:
    """Return the ends of attempts that this machine has hidden from every probe during this run of the tests."""
    return request.config.stash[HIDDEN]


@pytest.fixture
def long_run(record_property: Callable[[str, object], None]) -> soak.LongRun:
    """Say what a test with a long form did: a row of the table in docs/reliability.md."""

    def note(done: str, result: str) -> None:
        record_property(soak.PROPERTY, (done, result))

    return note


def tell_long_runs(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the long runs did; the full ones also in docs/reliability.md."""
    ended = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [
        row
        for report in ended
        if (row := soak.row(report.nodeid, report.user_properties, passed=report.passed, seconds=report.duration))
    ]
    if rows:
        terminalreporter.section("long runs, in full" if soak.SOAK else "long runs, in their short form")
    for row in rows:
        terminalreporter.write_line(f"{row.test}: {row.done}: {row.result} ({row.took})")
    if rows and soak.SOAK:
        RELIABILITY.write_text(soak.with_rows(RELIABILITY.read_text(encoding="utf-8"), rows), encoding="utf-8")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus or not os.environ.get("CI"):
        return
    if skipped := len(reporter.stats.get("skipped", [])):
        reporter.write_line(f"{skipped} skipped: in CI every test must run", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
