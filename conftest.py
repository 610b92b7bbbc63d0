"""What holds for every test."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from stalls import STALL, Stalls

ATTEMPTS_ON_A_STALLED_MACHINE = 5


def pytest_configure(config: pytest.Config) -> None:
    """What made a test fail the first time is shown too."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        config.option.rerun_show_tracebacks = True
        config.pluginmanager.register(Attempts(), "attempts")


class Attempts:
    """Which tests that failed are run again; the summary names them (RERUN).

    Tests of running nodes share the machine with whatever else runs there: one that fails is run once more. It points
    at a race, in the test or in what it tests. Any test is run again that failed while the machine stood still.
    """

    def __init__(self) -> None:
        self.stalls = Stalls()
        self.stalled: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            condition = partial(self.again, item)
            item.add_marker(pytest.mark.flaky(reruns=ATTEMPTS_ON_A_STALLED_MACHINE - 1, condition=condition))

    def pytest_runtest_logstart(self) -> None:
        self.stalls.longest()

    def again(self, item: pytest.Item, error: BaseException | None) -> bool:
        """Whether the attempt that just ended is to be repeated: of one that passed there is no error."""
        if error is None:
            return False
        stall = self.stalls.longest()
        attempt = item.execution_count  # type: ignore[attr-defined]
        if stall >= STALL:
            self.stalled.append(f"{stall:6.2f} s  {item.nodeid}, attempt {attempt}")
            self.stalls.wait()
        return stall >= STALL or (attempt == 1 and item.get_closest_marker("ros") is not None)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.stalled:
            terminalreporter.section("failed while the machine stood still")
            for line in self.stalled:
                terminalreporter.line(line)

    def pytest_unconfigure(self) -> None:
        self.stalls.close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was collected stays: looking through it for garbage would stop the threads of tests that keep time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def fill(small_disk: Path) -> Callable[[int], Path]:
    """Leaves so many bytes of the small disk; returns the file that takes the others."""

    def filled(left: int) -> Path:
        filler, room = small_disk / "filler", os.statvfs(small_disk)
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - left))
        return filler

    return filled
