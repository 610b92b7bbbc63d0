"""What runs again of the tests that fail, and what that shows: pytest itself, its watcher stopped for a while."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import stalls
from attempts import Attempts

stalls._QUIET, stalls._PATIENCE = 0.2, 2.0

def pytest_configure(config):
    config.addinivalue_line("markers", "ros: nodes")
    config.pluginmanager.register(Attempts())
"""
TESTS = """
import os, signal, time
import pytest

MADE, ENDED = [], []

@pytest.fixture(scope="module")
def shared():
    MADE.append(None)
    yield
    ENDED.append(None)

@pytest.fixture
def stall(request):
    '''To the watcher, a machine that stands still looks like being stopped itself.'''
    watcher = next(p for p in request.config.pluginmanager.get_plugins() if type(p).__name__ == "Attempts")
    def stop():
        pid = watcher._stalls._process.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    return stop

def test_passes_at_the_third_attempt(shared, stall):
    print("attempt", len(MADE))
    if len(MADE) < 3:
        stall()
    assert len(MADE) == 3 and len(ENDED) == 2

def test_what_is_shared_stays_for_the_next_test(shared):
    assert len(MADE) == 3

def test_a_stall_alone_is_no_failure(stall):
    stall()

@pytest.mark.ros
def test_of_nodes():
    MADE.append(None)
    assert len(MADE) == 5

def test_nodes_had_two_attempts():
    assert len(MADE) == 5
"""
BAD = """
import pytest

@pytest.mark.ros
def test_of_nodes():
    print("never well")
    assert False
"""


def run(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture
def done(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return run(tmp_path, TESTS)


def test_a_test_that_a_stall_made_fail_is_repeated_with_all_that_it_shares(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert done.returncode == 0, done.stdout
    first, second = done.stdout.split("run again: ")[1:3]
    assert "attempt 1\n" in first and "attempt 2\n" in second and "stood still for 0." in second
    assert "5 passed" in done.stdout and "failed" not in done.stdout.splitlines()[-1]


def test_one_that_fails_again_has_failed(tmp_path: Path) -> None:
    done = run(tmp_path, BAD)
    assert done.returncode == 1 and done.stdout.count("never well") >= 2
    assert "1 failed" in done.stdout.splitlines()[-1] and "rerun" in done.stdout.splitlines()[-1]
