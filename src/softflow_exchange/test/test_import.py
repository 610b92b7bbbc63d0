"""Foreign bags through a mapping file: the arrays are those of the source, converted by hand, and they train."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from softflow_exchange.cli import main
from softflow_recorder.bag import episode_bags, read_episode, read_information, read_summary
from softflow_recorder.cli import main as bags_main
from softflow_recorder.episode import EpisodeData
from softflow_tasks.cube_rotation import ANGULAR_SCALE

sys.path.insert(0, str(Path(__file__).parent))

from exchange_toy import BEGIN, SECOND, TASK, Lab, write_lab_bag, write_mapping

SLICES = TASK.layout.slices()
GRID = np.round(np.arange(80) / TASK.control_hz * SECOND).astype(np.int64)
"""[ns] control steps of four seconds."""


def imported(tmp_path: Path, *bags: Path, **changes: object) -> list[EpisodeData]:
    """Episodes that a mapping makes of bags."""
    mapping = write_mapping(tmp_path / "mapping.yaml", **changes)
    out = tmp_path / "out"
    assert bags_main(["import", "--mapping", str(mapping), "--out", str(out), *map(str, bags)]) == 0
    return [read_episode(path) for path in episode_bags(out)]


def by_hand(lab: Lab) -> tuple[np.ndarray, np.ndarray]:
    """Joint positions between samples (n+1, 12), and the actions in force (n, 8)."""
    offsets = lab.times - BEGIN
    grid = GRID[offsets[-1] >= GRID]
    positions = np.stack([np.interp(grid, offsets, column) for column in lab.positions().T], axis=1)
    return positions, lab.actions()[np.searchsorted(offsets, grid[:-1], side="right") - 1]


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_foreign_bag_becomes_the_arrays_that_one_works_out_by_hand(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    lab = Lab()
    (episode,) = imported(tmp_path, write_lab_bag(tmp_path / "lab", lab, plugin))
    positions, actions = by_hand(lab)
    assert episode.steps == len(actions) == 79
    np.testing.assert_allclose(episode.actions, actions, atol=1e-6)
    np.testing.assert_allclose(episode.states[:, SLICES["joint_position"]], positions, atol=1e-6)
    np.testing.assert_array_equal(episode.states[1:, SLICES["last_action"]], episode.actions)
    # The camera's frame is turned and moved: in the hand's frame the cube is on the axis and turns steadily.
    np.testing.assert_allclose(episode.states[:, SLICES["cube_offset"]], 0.0, atol=1e-5)
    np.testing.assert_allclose(
        episode.states[:, SLICES["cube_angular_velocity"]],
        np.tile([0, 0, 0.4 * ANGULAR_SCALE], (80, 1)),
        atol=1e-6,
    )
    np.testing.assert_allclose(episode.rewards, 0.4 / TASK.control_hz, atol=1e-5)
    assert episode.success and episode.truncated and episode.source == "teleop" and episode.mode == "demo"
    assert episode.interventions.all() and episode.layout_hash == TASK.layout.hash


def test_the_bag_tells_where_it_comes_from_and_passes_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, write_lab_bag(tmp_path / "lab"))
    (path,) = episode_bags(tmp_path / "out")
    custom = read_information(path).custom
    assert custom["imported_from"] == str(tmp_path / "lab") and custom["mapping"] == "mapping.yaml"
    assert len(custom["mapping_sha256"]) == 64
    summary = read_summary(path)
    assert summary is not None and summary.complete and summary.steps == 79
    assert bags_main(["check", str(tmp_path / "out")]) == 0
    assert "ok, 79 steps" in capsys.readouterr().out


def test_imported_episodes_train(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from softflow_learner.session import Session
    from softflow_learner.stages import run_imitation

    torch.set_num_threads(1)
    bags = [write_lab_bag(tmp_path / f"lab{seed}", Lab(seed=seed)) for seed in range(3)]
    imported(tmp_path, *bags)
    small = {
        "width": 16,
        "couplings": 2,
        "critic_width": 16,
        "imitation_updates": 60,
        "learning_rate": 3e-3,
        "batch_size": 64,
        "holdout_every": 0,
    }
    session = Session(tmp_path / "run", TASK, seed=0, settings=small)
    assert session.load_demonstrations(tmp_path / "out") == []
    losses: list[float] = []
    run_imitation(session.agent, session.replay, lambda _, __, scalars: losses.append(scalars["nll"]))
    session.close()
    assert len(losses) == 60 and np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5


def test_a_dry_run_says_what_it_understood_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, mapping = write_lab_bag(tmp_path / "lab"), write_mapping(tmp_path / "mapping.yaml")
    command = ["import", "--mapping", str(mapping), "--out", str(tmp_path / "out"), "--dry-run", str(bag)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "used    /lab/glove (lab_msgs/msg/Glove, 200)" in text
    assert "200 messages, 50.0 Hz, longest gap 0.020 s" in text
    assert "12 values, deg -> rad" in text and "3 values, mm -> m: [0, 500] -> [0, 0.5]" in text
    assert "1 episodes, 79 steps (4.0 s), 1 successful, 0 problems" in text and "nothing is written" in text
    assert not (tmp_path / "out").exists()


def test_a_gap_cuts_an_episode_or_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_lab_bag(tmp_path / "lab", lost=(1.5, 2.5))
    first, second = imported(tmp_path, bag)
    assert "no sample within max_age of " in capsys.readouterr().out
    # The last pose is of 1.48 s, the next of 2.5 s; between them no turn is made up.
    assert (first.steps, second.steps) == (29, 29)
    _, actions = by_hand(Lab())
    np.testing.assert_allclose(second.actions, actions[-29:], atol=1e-6)
    assert not first.success and second.success and first.episode_id != second.episode_id
    mapping = write_mapping(tmp_path / "refuse.yaml", episodes={"on_gap": "refuse"})
    assert main(["import", "--mapping", str(mapping), "--out", str(tmp_path / "none"), str(bag)]) == 1
    assert "the episode is refused" in capsys.readouterr().out and not (tmp_path / "none").exists()


def test_the_example_of_the_documentation_imports_the_labs_bag(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "exchange.md").read_text()
    (tmp_path / "example.yaml").write_text(text.split("```yaml\n", 1)[1].split("```", 1)[0])
    bag, out = write_lab_bag(tmp_path / "lab"), tmp_path / "by_example"
    command = ["import", "--mapping", str(tmp_path / "example.yaml"), "--out", str(out), str(bag)]
    assert main(command) == 0
    (found,) = [read_episode(path) for path in episode_bags(out)]
    (wanted,) = imported(tmp_path, bag)
    np.testing.assert_array_equal(found.actions, wanted.actions)
    np.testing.assert_allclose(found.states, wanted.states, atol=1e-6)
