"""Shared memory of dead nodes is removed, that of living ones stays. With real Fast DDS where installed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from softflow_bringup.shm import SHM, SegmentLedger, mapped_names, owned_names

TALKER = """
import sys
import rclpy
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node(sys.argv[1])
heard = set()
publisher = node.create_publisher(String, "names", 10)
def on_name(message):
    if message.data not in heard:
        heard.add(message.data)
        print("heard", message.data, flush=True)
node.create_subscription(String, "names", on_name, 10)
node.create_timer(0.05, lambda: publisher.publish(String(data=sys.argv[1])))
rclpy.spin(node)
"""


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    return tmp_path


def make_segment(shm: Path, name: str) -> Path:
    for file in (name, f"{name}_el", f"sem.{name}_mutex"):
        (shm / file).write_text("")
    return shm / f"{name}_el"


def ledger_of(shm: Path, *names: str) -> SegmentLedger:
    """A ledger which saw this process own the names."""
    ledger = SegmentLedger(shm)
    with ExitStack() as held:
        for name in names:
            held.enter_context(open(make_segment(shm, name), "rb"))
        ledger.observe(os.getpid())
    return ledger


def test_only_names_of_fast_dds_in_the_right_folder_count(shm: Path) -> None:
    with open(make_segment(shm, "other_0123456789abcdef"), "rb"):
        assert owned_names(os.getpid(), shm=shm) == set()
    with open(make_segment(shm, "fastrtps_0123456789abcdef"), "rb"):
        assert owned_names(os.getpid(), shm=shm) == {"fastrtps_0123456789abcdef"}
        assert owned_names(os.getpid(), shm=shm / "elsewhere") == set()
    assert owned_names(2**30, shm=shm) == set()


def test_what_nobody_locks_goes_and_what_is_locked_stays(shm: Path) -> None:
    dead, living = "fastrtps_00000000000000aa", "fastrtps_00000000000000bb"
    foreign = "fastrtps_00000000000000cc"
    ledger = ledger_of(shm, dead, living)
    make_segment(shm, foreign)
    with open(shm / f"{living}_el", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ledger.clean(ports=True) == {dead}
    assert not list(shm.glob(f"*{dead}*"))
    assert len(list(shm.glob(f"*{living}*"))) == 3
    assert len(list(shm.glob(f"*{foreign}*"))) == 3


def test_what_a_killed_node_was_not_seen_with_goes_at_the_end(shm: Path) -> None:
    names = {
        key: f"fastrtps_{digit * 16}"
        for key, digit in zip(("before", "during", "living"), "abc", strict=True)
    }
    now = time.time()
    for key, appeared in (("before", now - 60.0), ("during", now - 5.0), ("living", now - 5.0)):
        os.utime(make_segment(shm, names[key]), (appeared, appeared))
    os.utime(make_segment(shm, "fastrtps_port7005"), (now - 5.0, now - 5.0))
    ledger = SegmentLedger(shm)
    assert ledger.clean(ports=True) == set()
    ledger.killed(alive=10.0)
    assert ledger.clean(ports=False) == set()
    with open(shm / f"{names['living']}_el", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ledger.clean(ports=True) == {names["during"]}


def test_ports_stay_until_the_end_and_a_locked_shared_port_stays(shm: Path) -> None:
    ledger = ledger_of(shm, "fastrtps_port7001", "fastrtps_port7003")
    (shm / "fastrtps_port7003_sl").write_text("")
    assert ledger.clean(ports=False) == set()
    with open(shm / "fastrtps_port7003_sl", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert ledger.clean(ports=True) == {"fastrtps_port7001"}
    assert ledger.clean(ports=True) == {"fastrtps_port7003"}
    assert list(shm.iterdir()) == []


def test_mapped_files_are_seen() -> None:
    path = SHM / "fastrtps_softflow_test"
    path.write_bytes(b"0" * 4096)
    try:
        import mmap

        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096):
            assert path.name in mapped_names()
        assert path.name not in mapped_names()
    finally:
        path.unlink()


class Talker:
    """A real node in a process of its own."""

    def __init__(self, name: str, domain: int) -> None:
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", TALKER, name], stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        for found in self.process.stdout:
            if found.strip() == line:
                return
        raise AssertionError(f"ended before {line!r}")

    def files(self) -> set[Path]:
        names = owned_names(self.process.pid)
        return {path for name in names for path in (SHM / name, SHM / f"{name}_el") if path.exists()}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def talkers() -> Iterator[list[Talker]]:
    made: list[Talker] = []
    ledger = SegmentLedger()
    yield made
    for talker in made:
        if talker.process.poll() is None:
            ledger.observe(talker.process.pid)
        talker.end()
    ledger.clean(ports=True)


@pytest.mark.ros
def test_segments_of_a_killed_node_go_and_those_of_a_living_one_stay(talkers: list[Talker]) -> None:
    pytest.importorskip("rclpy")
    domain = 100 + os.getpid() % 100
    talkers += [Talker("dies", domain), Talker("lives", domain)]
    dies, lives = talkers
    dies.wait_for("heard lives")
    lives.wait_for("heard dies")
    ledger = SegmentLedger()
    for talker in talkers:
        ledger.observe(talker.process.pid)
    dead_files, living_files = dies.files(), lives.files()
    segments = {path for path in dead_files if "_port" not in path.name}
    if not segments or not living_files:
        pytest.skip("Fast DDS uses no shared memory here")

    dies.process.send_signal(signal.SIGKILL)
    dies.process.wait()
    assert all(path.exists() for path in dead_files)
    ledger.clean(ports=True)
    assert not any(path.exists() for path in segments)
    assert all(path.exists() for path in living_files)

    talkers.append(Talker("late", domain))
    talkers[-1].wait_for("heard lives")
    lives.wait_for("heard late")

    for talker in talkers:
        ledger.observe(talker.process.pid)
    every_file = dead_files.union(*(talker.files() for talker in talkers))
    for talker in talkers:
        talker.end()
    ledger.clean(ports=True)
    assert [path.name for path in every_file if path.exists()] == []
