"""The audit finds every kind of fault, and none where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softflow_bringup.bench.ledger import Audit, audit
from softflow_bringup.bench.motion import Limits, MotionCheck
from softflow_bringup.bench.system import message_definitions
from softflow_recorder.bag import read_episode
from softflow_recorder.messages import to_payload

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from recorder_toy import Toy

EPISODES = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A robot and a learner that agree: bags, spool, journal."""
    boot = tmp_path / "journal" / "hand0" / "bb"
    boot.mkdir(parents=True)
    for index in range(EPISODES):
        toy = Toy.make(index, steps=6 + index, episode_id=f"{index:032d}", mode="train")
        path = toy.write(tmp_path / "robot" / "bags" / f"bag{index}")
        (boot / f"{index + 1:010d}.segment").write_bytes(to_payload("/hand0", read_episode(path)))
    Toy.make(9, episode_id="d" * 32, mode="demo").write(tmp_path / "robot" / "bags" / "demonstration")
    spool = tmp_path / "robot" / "spool"
    spool.mkdir()
    (spool / "boot").write_text(boot.name)
    (spool / "acknowledged").write_text(str(EPISODES))
    return tmp_path


def examine(run: Path) -> Audit:
    return audit([run / "robot"], run / "journal", message_definitions())


def segments(run: Path) -> list[Path]:
    return sorted((run / "journal").glob("*/*/*.segment"))


def test_two_sides_that_agree(run: Path) -> None:
    found = examine(run)
    assert found.faults == []
    assert (found.episodes, found.items, found.transitions) == (EPISODES, EPISODES, 6 + 7 + 8 + 9)
    assert found.by_robot == {"hand0": EPISODES} and found.waiting == found.left_open == 0


def drop_last(run: Path) -> None:
    segments(run)[-1].unlink()


def drop_middle(run: Path) -> None:
    segments(run)[1].unlink()


def repeat(run: Path) -> None:
    paths = segments(run)
    paths[0].with_name("0000000005.segment").write_bytes(paths[0].read_bytes())


def change(run: Path) -> None:
    data = bytearray(segments(run)[2].read_bytes())
    data[len(data) // 2] ^= 1
    segments(run)[2].write_bytes(bytes(data))


def remove_bag(run: Path) -> None:
    for path in (run / "robot" / "bags" / "bag1").iterdir():
        path.unlink()


def wait(run: Path) -> None:
    (run / "robot" / "spool" / "0000000009.item").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "field"),
    [
        (drop_last, "lost"),
        (drop_last, "numbering"),
        (drop_middle, "lost"),
        (drop_middle, "numbering"),
        (repeat, "doubled"),
        (change, "different"),
        (remove_bag, "foreign"),
    ],
)
def test_every_fault_is_found(run: Path, harm: Callable[[Path], None], field: str) -> None:
    harm(run)
    found = examine(run)
    assert getattr(found, field), found
    assert found.faults


def test_what_waits_is_counted(run: Path) -> None:
    wait(run)
    assert examine(run).waiting == 1


LIMITS = Limits(np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.array([0.1, 0.2]))


@pytest.mark.parametrize(
    ("second", "starved", "word"),
    [
        ([0.1, 0.2], False, ""),
        ([0.11, 0.0], False, "moved by 0.11"),
        ([0.0, -0.3], False, "joint 1"),
        ([0.05, 0.0], True, "no chunk"),
        ([0.0, 0.0], True, ""),
    ],
)
def test_targets_that_move_as_they_may_not(second: list[float], starved: bool, word: str) -> None:
    check = MotionCheck(LIMITS)
    check.add("e", 0, [0.0, 0.0], False)
    check.add("e", 1, second, starved)
    assert bool(check.violations) == bool(word)
    assert not word or word in check.violations[0]


def test_a_target_out_of_range_a_gap_and_a_reset() -> None:
    check = MotionCheck(LIMITS)
    check.add("e", 0, [0.0, 0.0], False)
    check.add("e", 3, [0.3, 0.6], False)  # two states were not seen
    check.add("f", 0, [-1.0, -1.0], False)
    assert not check.violations and check.largest == pytest.approx(1.0)
    check.add("f", 1, [-1.05, -1.0], False)
    assert "must be in [-1.0, 1.0]" in check.violations[0]
