"""What holds for every test: a skipped test is a failure where nobody reads the summary."""

import os
import shutil
from collections.abc import Iterator

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

from tests.support.hidden import HiddenEnds

HIDDEN = pytest.StashKey[HiddenEnds]()
BEGAN = pytest.StashKey[int]()
"""How many ends had been hidden when the first test of a module began."""
AGAIN = pytest.StashKey[list[str]]()

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


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus or not os.environ.get("CI"):
        return
    if skipped := len(reporter.stats.get("skipped", [])):
        reporter.write_line(f"{skipped} skipped: in CI every test must run", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
