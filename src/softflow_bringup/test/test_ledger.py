"""The audit finds every kind of fault, and none where there is none."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softflow_bringup.bench.ledger import Audit, Item, audit, journal_items
from softflow_bringup.bench.motion import Limits, MotionCheck
from softflow_bringup.bench.system import message_definitions
from softflow_learner.journal import About, Journal, Pushed
from softflow_recorder.bag import read_episode
from softflow_recorder.messages import to_payloads

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from recorder_toy import Toy

EPISODES = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A robot and a learner that agree: bags, spool, journal."""
    journal, boot = Journal(tmp_path / "journal"), "bb"
    for index in range(EPISODES):
        toy = Toy.make(index, steps=6 + index, episode_id=f"{index:032d}", mode="train")
        path = toy.write(tmp_path / "robot" / "bags" / f"bag{index}")
        episode = read_episode(path)
        [payload] = to_payloads("/hand0", episode)
        about = About(episode.episode_id, 0, episode.steps)
        assert journal.add([Pushed("/hand0", boot, index + 1, zlib.crc32(payload), payload, 0, about)]).new
    Toy.make(9, episode_id="d" * 32, mode="demo").write(tmp_path / "robot" / "bags" / "demonstration")
    spool = tmp_path / "robot" / "spool" / boot
    spool.mkdir(parents=True)
    (spool.parent / "current").write_text(boot)
    (spool / "acknowledged").write_text(str(EPISODES))
    return tmp_path


def examine(run: Path) -> Audit:
    return audit([run / "robot"], run / "journal", message_definitions())


def rewrite(run: Path, edit: Callable[[list[Item]], list[Item]]) -> None:
    """Another journal in the place of the run's."""
    data = b""
    for item in edit(list(journal_items(run / "journal"))):
        fields = {"robot": item.robot, "boot": item.boot, "seq": item.seq, "kind": 0}
        header = json.dumps(fields).encode()
        sizes = struct.pack("<II", len(header), len(item.payload))
        data += (
            b"SFJ1"
            + sizes
            + struct.pack("<I", zlib.crc32(sizes + header + item.payload))
            + header
            + item.payload
        )
    (run / "journal" / "journal").write_bytes(data)


def test_two_sides_that_agree(run: Path) -> None:
    found = examine(run)
    assert found.faults == []
    assert (found.episodes, found.items, found.transitions) == (EPISODES, EPISODES, 6 + 7 + 8 + 9)
    assert found.by_robot == {"hand0": EPISODES} and found.waiting == found.left_open == 0


def drop_last(run: Path) -> None:
    rewrite(run, lambda items: items[:-1])


def drop_middle(run: Path) -> None:
    rewrite(run, lambda items: [items[0], *items[2:]])


def repeat(run: Path) -> None:
    rewrite(run, lambda items: [*items, replace(items[0], seq=5)])


def change(run: Path) -> None:
    def harm(items: list[Item]) -> list[Item]:
        data = bytearray(items[2].payload)
        data[len(data) // 2] ^= 1
        return [*items[:2], replace(items[2], payload=bytes(data)), items[3]]

    rewrite(run, harm)


def another_boot(run: Path) -> None:
    rewrite(run, lambda items: [replace(item, boot="aa") for item in items])


def remove_bag(run: Path) -> None:
    for path in (run / "robot" / "bags" / "bag1").iterdir():
        path.unlink()


def wait(run: Path) -> None:
    (run / "robot" / "spool" / "bb" / "0000000009-0-00000000.item").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "field"),
    [
        (drop_last, "lost"),
        (drop_last, "numbering"),
        (drop_middle, "lost"),
        (drop_middle, "numbering"),
        (another_boot, "numbering"),
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
