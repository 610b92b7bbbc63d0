"""Atomic files, stamps and array fields, and the stop flag."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softflow_node.files import InUseError, lock_directory, write_atomically
from softflow_node.messages import floats32, floats64, from_stamp, numpy32, to_stamp
from softflow_node.signals import StopFlag


def test_a_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"


def test_half_a_file_that_the_disk_did_not_take_goes_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@given(st.integers(0, 2**31 * 1_000_000_000 - 1))
def test_stamps_round_trip(nanoseconds: int) -> None:
    stamp = to_stamp(nanoseconds)
    assert 0 <= stamp.nanosec < 1_000_000_000
    assert from_stamp(stamp) == nanoseconds


def test_a_stamp_is_seconds_and_nanoseconds() -> None:
    assert from_stamp(Time(sec=2, nanosec=5)) == 2_000_000_005


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_array_fields_round_trip_row_major(values: np.ndarray) -> None:
    np.testing.assert_array_equal(numpy32(floats32(values)), values.ravel())
    np.testing.assert_array_equal(numpy32(floats32(values.T)), values.T.ravel())
    assert floats64(values).tolist() == values.ravel().astype(np.float64).tolist() or np.isnan(values).any()


def test_the_stop_flag_is_set_by_both_signals_and_only_then() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            flag = StopFlag.install()
            assert not flag.is_set()
            os.kill(os.getpid(), number)
            assert flag.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_locked_directory_is_refused_with_the_number_of_who_has_it_until_that_one_is_dead(
    tmp_path: Path,
) -> None:
    program = (
        "import sys, time; from pathlib import Path; from softflow_node.files import lock_directory\n"
        f"kept = lock_directory(Path({str(tmp_path)!r})); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(InUseError, match=f"{tmp_path}: another process works there.*{other.pid}"):
            lock_directory(tmp_path)
        other.kill()
    with lock_directory(tmp_path), pytest.raises(InUseError):
        lock_directory(tmp_path)
    lock_directory(tmp_path).close()
