"""What holds for every test."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attempts import Attempts


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Attempts(), "attempts")


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
