"""Runs a test again that failed while this machine hid an end of an attempt from the probes (see ``hidden``).

Only tests marked ``captures`` are, once, after all others of their worker and with fixtures made afresh. The first
failure is shown in the summary. A run in which more than three tests were run again has failed.
"""

from collections.abc import Callable, Generator

import pytest

MOST = 3
_BEGAN = pytest.StashKey[int]()
_CATEGORY = "rerun"


class Reruns:
    """A plugin; ``hidden`` says how many ends have been hidden so far."""

    def __init__(self, hidden: Callable[[], int]) -> None:
        self._hidden = hidden
        self._again: list[pytest.Item] = []
        self._last_runs = False

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line(
            "markers",
            "captures(shared=False): the test needs every end of an attempt; it is run again if one was hidden from the"
            " probes, since it began or, with shared=True, since the module did, whose tests share one capture",
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        marker, module = item.get_closest_marker("captures"), item.getparent(pytest.Module)
        if marker and module and marker.kwargs.get("shared"):
            item.stash[_BEGAN] = module.stash.setdefault(_BEGAN, self._hidden())
        else:
            item.stash[_BEGAN] = self._hidden()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and self._excused(item):
            report.outcome = _CATEGORY  # type: ignore[assignment]  # so a plugin makes a category of its own
            if item not in self._again:
                self._again.append(item)
        return report

    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        return (_CATEGORY, "R", ("RERUN", {"yellow": True})) if str(report.outcome) == _CATEGORY else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        self._last_runs = True
        for item in self._again:
            for plugin in session.config.pluginmanager.get_plugins():
                if hasattr(plugin, "item_index"):  # a worker of xdist: with its reports goes the test's number
                    plugin.item_index = session.items.index(item)
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # a worker has none
        if reporter is not None and len(_run_again(reporter)) > MOST:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        tests = _run_again(terminalreporter)
        if not tests:
            return
        terminalreporter.section(f"run again, an end had been hidden from the probes: {len(tests)}, at most {MOST}")
        for report in terminalreporter.stats[_CATEGORY]:
            terminalreporter.write_line(f"{report.nodeid} failed at first ({report.when}):", yellow=True)
            terminalreporter.write_line(report.longreprtext)

    def _excused(self, item: pytest.Item) -> bool:
        """Return whether this failure does not count; what fails once more always does."""
        if self._last_runs or item.get_closest_marker("captures") is None:
            return False
        return self._hidden() > item.stash[_BEGAN]


def _run_again(reporter: pytest.TerminalReporter) -> set[str]:
    return {report.nodeid for report in reporter.stats.get(_CATEGORY, [])}
