"""What holds for every test: a skipped test is a failure where nobody reads the summary."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

from tests.support import soak
from tests.support.hidden import HiddenEnds

HIDDEN = pytest.StashKey[HiddenEnds]()
BEGAN = pytest.StashKey[int]()
"""How many ends had been hidden when the first test of a module began."""
AGAIN = pytest.StashKey[list[str]]()
RELIABILITY = Path(__file__).parents[1] / "docs" / "reliability.md"

settings.register_profile("loaded", deadline=None)  # on a busy machine any example may take long
settings.load_profile("loaded")


def pytest_report_header() -> str:
    absent = [name for name in ("node", "java") if shutil.which(name) is None]
    return f"client runtimes that are not on this machine: {', '.join(absent) or 'none'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    session.config.stash[AGAIN] = []
    with HiddenEnds() as session.config.stash[HIDDEN]:
        return (yield)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test, and once more if it failed while this machine hid an end from every probe."""
    hidden = item.config.stash[HIDDEN]
    module = item.getparent(pytest.Module)
    assert module is not None
    began = module.stash.setdefault(BEGAN, hidden.count)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports) and hidden.count > began:
        item.config.stash[AGAIN].append(item.nodeid)
        item.session._setupstate.teardown_exact(None)  # the fixtures of the module too: they hold what was seen
        module.stash[BEGAN] = hidden.count
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for nodeid in config.stash.get(AGAIN, []):
        terminalreporter.write_line(f"run again, an end had been hidden from every probe: {nodeid}", yellow=True)
    tell_long_runs(terminalreporter)


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
