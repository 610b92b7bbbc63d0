"""A learner that has only the bags learns from the same bits as one that was handed everything."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from softflow_learner.bags import load_bags
from softflow_learner.cli import main
from softflow_learner.journal import Journal, Pushed
from softflow_learner.messages import add_payload
from softflow_learner.replay import Replay
from softflow_recorder.bag import BagWriter, read_episode
from softflow_recorder.labelling import label_bag
from softflow_recorder.messages import to_payloads
from softflow_recorder.repair import repair

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from rclpy.serialization import serialize_message
from recorder_toy import TASK, TYPESTORE, Toy

HASH = TASK.layout.hash


def replay() -> Replay:
    return Replay(TASK.layout.size, TASK.action_dim, horizon=3, gamma=0.9)


def write(toy: Toy, path: Path, robot: str) -> Path:
    writer = BagWriter(path, TYPESTORE, {"robot": robot, "episode_id": toy.episode_id})
    for stamp, (topic, message) in enumerate(toy.messages(), start=1):
        kind = f"softflow_msgs/msg/{type(message).__name__}"
        writer.write(f"{robot}/{topic}", kind, stamp * 1_000_000, bytes(serialize_message(message)))
    custom = {"complete": "true", "mode": toy.mode, "source": "teacher", "steps": str(toy.steps)}
    writer.set_custom({**custom, "success": "true", "metrics": json.dumps({"steps": toy.steps})})
    writer.close()
    return path


@pytest.fixture
def two_robots(tmp_path: Path) -> dict[str, list[Path]]:
    """Bags of training by robot, and one of an evaluation."""
    made: dict[str, list[Path]] = {"/hand0": [], "/hand1": []}
    for k in range(8):
        robot = f"/hand{k % 2}"
        toy = Toy.make(seed=k, steps=3 + 2 * k, episode_id=f"{k:08x}", mode="train")
        made[robot].append(write(toy, tmp_path / robot[1:] / f"{k:04d}", robot))
    write(Toy.make(seed=99, episode_id="99", mode="eval"), tmp_path / "hand0" / "0099", "/hand0")
    return made


def assert_same_episodes(one: Replay, two: Replay) -> None:
    assert sorted(one.episodes()) == sorted(two.episodes()) and one.size() == two.size()
    for name in one.episodes():
        a, b = one.episode(name), two.episode(name)
        for f in fields(a):
            left, right = getattr(a, f.name), getattr(b, f.name)
            assert left.tobytes() == right.tobytes() if isinstance(left, np.ndarray) else left == right


def test_rebuilt_from_bags_equals_what_was_streamed(
    two_robots: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streamed = replay()
    waiting = {robot: iter(paths) for robot, paths in two_robots.items()}
    for robot in ["/hand1", "/hand0", "/hand0", "/hand1"] * 2:
        for payload in to_payloads(robot, read_episode(next(waiting[robot]))):
            add_payload(streamed, payload, HASH)
    bags = [str(tmp_path / name) for name in ("hand1", "hand0")]
    assert main(["rebuild", "--run", str(tmp_path / "run"), "--task", TASK.id, "--bags", *bags]) == 0
    told = capsys.readouterr().out
    assert "/hand0: 4 episodes\n/hand1: 4 episodes\n" in told and "8 episodes, 80 steps" in told
    assert "1 bags not for training, 0 refused" in told
    rebuilt, direct = replay(), replay()
    for stored in Journal(tmp_path / "run" / "experience").stored():
        add_payload(rebuilt, stored.payload, HASH)
    for name in ("hand0", "hand1"):
        load_bags(direct, tmp_path / name, HASH)
    assert_same_episodes(streamed, rebuilt)
    assert [int(e, 16) for e in rebuilt.episodes()] == [0, 2, 4, 6, 1, 3, 5, 7], "by robot, then by bag"
    assert direct.episodes()[:4] == rebuilt.episodes()[:4] and direct.size() == rebuilt.size() + 12


def test_rewards_that_were_labelled_later_are_the_same_in_both(
    two_robots: dict[str, list[Path]], tmp_path: Path
) -> None:
    streamed, bag = replay(), two_robots["/hand0"][2]
    for path in two_robots["/hand0"]:
        for payload in to_payloads("/hand0", read_episode(path)):
            add_payload(streamed, payload, HASH)
    labels = [label_bag(bag, 2, values, "human", 1.0) for values in ([5.0, 6.0, 7.0], [8.0])]
    changed = [
        streamed.relabel(f"{4:08x}", n.start, np.array(n.values), n.revision) for n in reversed(labels)
    ]
    assert changed == [1, 2], "the older one came last: the newer one's step keeps its reward"
    assert main(["rebuild", "--run", str(tmp_path / "run"), "--bags", str(tmp_path / "hand0")]) == 0
    rebuilt = replay()
    for stored in Journal(tmp_path / "run" / "experience").stored():
        add_payload(rebuilt, stored.payload, HASH)
    assert_same_episodes(streamed, rebuilt)
    assert rebuilt.episode(f"{4:08x}").rewards[2:5].tolist() == [8.0, 6.0, 7.0]


def test_the_beginning_of_a_recovered_episode_counts(tmp_path: Path) -> None:
    """Its recorder was killed: no end, no metadata."""
    toy = Toy.make(seed=3, steps=20, episode_id="a", mode="train")
    writer = BagWriter(tmp_path / "b" / "1", TYPESTORE, {"robot": "/hand0", "episode_id": "a"})
    for stamp, (topic, message) in enumerate(toy.messages()[:-1], start=1):
        if topic != "observation" or message.step < 15:
            kind = f"softflow_msgs/msg/{type(message).__name__}"
            writer.write(f"/hand0/{topic}", kind, stamp * 1_000_000, bytes(serialize_message(message)))
    writer.flush()
    writer.abandon()
    repair(tmp_path / "b" / "1")
    direct, rebuilt = replay(), replay()
    assert load_bags(direct, tmp_path / "b", HASH) == (1, [])
    assert main(["rebuild", "--run", str(tmp_path / "run"), "--bags", str(tmp_path / "b")]) == 0
    for stored in Journal(tmp_path / "run" / "experience").stored():
        add_payload(rebuilt, stored.payload, HASH)
    assert_same_episodes(direct, rebuilt)
    assert direct.size() == 14 and np.array_equal(direct.episode("a").states, toy.states[:14])


def test_experience_that_is_there_is_not_touched(
    two_robots: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "run" / "experience")
    journal.add([Pushed("/hand0", "boot", 1, 0, b"")])
    assert main(["rebuild", "--run", str(tmp_path / "run"), "--bags", str(tmp_path / "hand0")]) == 2
    assert "holds 1 items, must be empty" in capsys.readouterr().err
    assert [stored.payload for stored in journal.stored()] == [b""]


def test_what_an_interrupted_rebuild_left_is_made_anew(
    two_robots: dict[str, list[Path]], tmp_path: Path
) -> None:
    left = Journal(tmp_path / "run" / "experience.rebuilding")
    left.add([Pushed("/hand7", "bags", 1, 0, b"")])
    assert main(["rebuild", "--run", str(tmp_path / "run"), "--bags", str(tmp_path / "hand0")]) == 0
    assert len(list(Journal(tmp_path / "run" / "experience").stored())) == 4
    assert not (tmp_path / "run" / "experience.rebuilding").exists()


def test_bags_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(Toy.make(episode_id="a", mode="train"), tmp_path / "b" / "1", "/hand0")
    write(Toy.make(episode_id="a", mode="train"), tmp_path / "b" / "2", "/hand0")
    write(Toy.make(episode_id="c", mode="train", layout_hash="old"), tmp_path / "b" / "3", "/hand0")
    open_bag = write(Toy.make(episode_id="d", mode="train"), tmp_path / "b" / "4", "/hand0")
    (open_bag / "metadata.yaml").unlink()
    assert main(["rebuild", "--run", str(tmp_path / "run"), "--bags", str(tmp_path / "b")]) == 0
    told = capsys.readouterr()
    assert "1 episodes, 12 steps" in told.out and "3 refused" in told.out
    assert "episode 'a' was in a bag before" in told.err and "'old'" in told.err and "repair" in told.err
    assert main(["rebuild", "--run", str(tmp_path / "other"), "--bags", str(tmp_path / "nothing")]) == 2
