"""Which tests that failed are run again, and what is told of it."""

from __future__ import annotations

import warnings

import pytest
from _pytest.runner import runtestprotocol
from stalls import STALL, Stalls

ATTEMPTS_ON_A_STALLED_MACHINE = 5


class Attempts:
    """A plugin of pytest. The summary shows how each attempt failed that was not the last one.

    Tests of running nodes share the machine with whatever else runs there: one that fails is run once more. It points
    at a race, in the test or in what it tests. Any test is run again that failed while the machine stood still.
    """

    def __init__(self) -> None:
        self._stalls = Stalls()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        attempt, again = 0, True
        while again:
            attempt += 1
            self._stalls.longest()
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            again = any(report.failed for report in reports) and self._is_repeated(item, attempt, reports)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _is_repeated(self, item: pytest.Item, attempt: int, reports: list[pytest.TestReport]) -> bool:
        stall = self._stalls.longest()
        if stall >= STALL:
            again = attempt < ATTEMPTS_ON_A_STALLED_MACHINE
        else:
            again = attempt == 1 and item.get_closest_marker("ros") is not None
        for report in reports:
            if report.failed:
                report.sections.append(("Machine", f"stood still for {stall:.2f} s, attempt {attempt}\n"))
                if again:
                    report.outcome = "rerun"
        if again:
            item._report_sections.clear()
            _tear_down(item)
            if stall >= STALL:
                self._stalls.wait()
        return again

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        return ("rerun", "R", ("RERUN", {"yellow": True})) if report.outcome == "rerun" else None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for report in terminalreporter.getreports("rerun"):
            terminalreporter.section(f"run again: {report.nodeid}", sep="_", yellow=True)
            terminalreporter.write_line(report.longreprtext)
            for title, text in report.sections:
                terminalreporter.write_sep("-", title)
                terminalreporter.write(text)

    def pytest_unconfigure(self) -> None:
        self._stalls.close()


def _tear_down(item: pytest.Item) -> None:
    """Also what the tests of a module share, perhaps made while the machine stood still: it is made again."""
    try:
        item.session._setupstate.teardown_exact(None)
    except Exception as error:
        warnings.warn(f"what {item.nodeid} shares with others did not end well: {error!r}", stacklevel=1)
