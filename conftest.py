"""What holds for every test."""

from __future__ import annotations

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """What made a test fail the first time is shown too."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        config.option.rerun_show_tracebacks = True


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was collected stays: looking through it for garbage would stop the threads of tests that keep time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of running nodes share the machine with whatever else runs there: one that fails is run once more.

    The summary names those that had to be (RERUN): they point at a race, in the test or in what it tests.
    """
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.get_closest_marker("ros"):
                item.add_marker(pytest.mark.flaky(reruns=1))
