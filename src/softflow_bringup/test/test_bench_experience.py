"""The benchmark of the experience path carries every number from the messages into the replay."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from softflow_msgs.msg import Observation, RewardLabel

from softflow_bringup.bench.experience import main
from softflow_bringup.bench.messages import LAYOUT, ExperiencePath, make_messages
from softflow_learner.bags import load_bags
from softflow_learner.replay import Replay, Stored
from softflow_recorder.bag import episode_bags, read_episode


@pytest.mark.parametrize("cameras", [(), ("palm", "wrist")])
def test_what_was_published_is_in_the_replay_and_the_images_in_the_bag(
    tmp_path: Path, cameras: tuple[str, ...]
) -> None:
    replay, direct = (Replay(7, 3, 5, 0.99, cameras=cameras) for _ in range(2))
    line = ExperiencePath(tmp_path, replay)
    for seed in range(2):
        messages = make_messages(seed, 20, 7, 3, cameras, 96)
        assert len(line.carry(messages)) == 4 and line.bag_bytes > 10_000
        seen = [deserialize_message(d, Observation) for _, kind, d in messages if kind is Observation]
        labels = [deserialize_message(d, RewardLabel) for _, kind, d in messages if kind is RewardLabel]
        stored = replay.episode(seen[0].episode_id)
        assert np.array_equal(stored.states, [m.state for m in seen[:-1]])
        assert np.array_equal(stored.actions, [m.applied_action for m in seen[1:]])
        assert np.array_equal(stored.rewards, [m.values[0] for m in labels])
    assert replay.size() == replay.online_steps == 40
    assert load_bags(direct, tmp_path / "bags", LAYOUT) == (2, [])
    for name in replay.episodes():
        for field in fields(Stored):
            one, two = (getattr(r.episode(name), field.name) for r in (replay, direct))
            assert one.tobytes() == two.tobytes() if isinstance(one, np.ndarray) else one == two
        assert {camera: len(track) for camera, track in one.items()} == dict.fromkeys(cameras, 21)
    images = read_episode(episode_bags(tmp_path / "bags")[-1]).images
    assert {name: len(set(track)) for name, track in images.items()} == dict.fromkeys(cameras, 21)


def test_the_benchmark_prints_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--episodes", "1", "--transitions", "2000", "--seconds", "0.05", "--directory", str(tmp_path)]
    assert main(options) == 0
    told = capsys.readouterr().out
    assert "x real time" in told and told.count("replay of 2,000 steps") == 2
    assert list(tmp_path.iterdir()) == []
