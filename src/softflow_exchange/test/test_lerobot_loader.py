"""LeRobot's own loader and writer against ours. Runs where LeRobot is installed; it is too large for requirements/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

if importlib.util.find_spec("lerobot") is None:
    pytest.skip("LeRobot is not installed", allow_module_level=True)

from lerobot.datasets.lerobot_dataset import LeRobotDataset

from softflow_exchange.cli import main
from softflow_exchange.lerobot_write import write_dataset
from softflow_recorder.bag import episode_bags, read_episode

sys.path.insert(0, str(Path(__file__).parent))

from test_lerobot import EPISODES, FEATURES, TASK, make_episode, picture


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_lerobot_opens_our_export(tmp_path: Path) -> None:
    write_dataset(EPISODES, tmp_path / "data", "turn the cube")
    data = LeRobotDataset("softflow/cube", root=tmp_path / "data")
    assert (len(data), data.num_episodes, data.fps) == (79, 3, 20)
    states = np.concatenate([e.states[:-1] for e in EPISODES])
    actions = np.concatenate([e.actions for e in EPISODES])
    for i in (0, 11, 12, 78):
        item = data[i]
        np.testing.assert_array_equal(item["observation.state"].numpy(), states[i])
        np.testing.assert_array_equal(item["action"].numpy(), actions[i])
        assert item["task"] == "turn the cube" and int(item["index"]) == i
    assert bool(data[11]["next.done"]) and not bool(data[11]["next.truncated"])
    np.testing.assert_allclose(data.meta.stats["action"]["mean"], actions.mean(axis=0), rtol=1e-5)


def test_lerobot_reads_chunks_of_actions_up_to_the_episodes_end(tmp_path: Path) -> None:
    write_dataset(EPISODES, tmp_path / "data")
    deltas = {"action": [i / 20 for i in range(5)]}
    data = LeRobotDataset("softflow/cube", root=tmp_path / "data", delta_timestamps=deltas)
    np.testing.assert_array_equal(data[2]["action"].numpy(), EPISODES[0].actions[2:7])
    last = data[10]
    assert last["action_is_pad"].tolist() == [False, False, True, True, True]
    np.testing.assert_array_equal(last["action"][:2].numpy(), EPISODES[0].actions[10:])


def test_lerobot_reads_one_episode_and_its_images(tmp_path: Path) -> None:
    images = {"wrist": tuple(picture(i * 10) for i in range(6))}
    write_dataset([make_episode(1, 5, images=images), make_episode(2, 5, images=images)], tmp_path / "data")
    data = LeRobotDataset("softflow/cube", root=tmp_path / "data", episodes=[1])
    assert len(data) == 5
    pixels = data[3]["observation.images.wrist"]
    assert tuple(pixels.shape) == (3, 4, 6)
    np.testing.assert_allclose(pixels.numpy(), 30 / 255, atol=1e-6)


def test_what_lerobot_writes_comes_in(tmp_path: Path) -> None:
    features = {
        "observation.state": {"dtype": "float32", "shape": (TASK.layout.size,), "names": None},
        "action": {"dtype": "float32", "shape": (TASK.action_dim,), "names": list(TASK.action_names)},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    data = LeRobotDataset.create(
        "lab/cube", fps=20, features=features, root=tmp_path / "data", use_videos=False
    )
    for episode in EPISODES:
        for i in range(episode.steps):
            data.add_frame(
                {
                    "observation.state": episode.states[i],
                    "action": episode.actions[i],
                    "next.reward": episode.rewards[i : i + 1],
                    "next.success": np.array([episode.success and i == episode.steps - 1]),
                    "task": "turn the cube",
                }
            )
        data.save_episode()
    data.finalize()
    mapping, out = tmp_path / "mapping.yaml", tmp_path / "out"
    mapping.write_text(yaml.safe_dump(FEATURES))
    assert main(["from-lerobot", str(tmp_path / "data"), str(out), "--mapping", str(mapping)]) == 0
    found = [read_episode(path) for path in episode_bags(out)]
    for episode, wanted in zip(found, EPISODES, strict=True):
        np.testing.assert_array_equal(episode.states[:-1], wanted.states[:-1])
        np.testing.assert_array_equal(episode.actions, wanted.actions[:, ::-1])
        np.testing.assert_array_equal(episode.rewards, wanted.rewards)
        assert episode.success == wanted.success
