"""LeRobot datasets: the structure of an export, both ways without a loss, foreign ones through a mapping."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

if importlib.util.find_spec("pyarrow") is None:
    pytest.skip("pyarrow is not installed (requirements/lerobot.txt)", allow_module_level=True)

import pyarrow as pa
import pyarrow.parquet as pq

from softflow_exchange import lerobot_write
from softflow_exchange.cli import main
from softflow_exchange.lerobot_format import DatasetError, read_info
from softflow_exchange.lerobot_read import Dataset, read_ours
from softflow_exchange.lerobot_write import write_dataset
from softflow_exchange.write import write_episode
from softflow_recorder.bag import episode_bags, read_episode
from softflow_recorder.episode import EpisodeData

sys.path.insert(0, str(Path(__file__).parent))

from exchange_toy import TASK, write_mapping


def make_episode(seed: int, steps: int, **changes: Any) -> EpisodeData:
    """Numbers of a made-up episode; a human takes over in the middle."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "episode_id": f"{seed:08x}" * 4,
        "index": seed,
        "task": TASK.id,
        "layout_hash": TASK.layout.hash,
        "mode": "train",
        "source": "policy",
        "seed": 2**63 + seed,
        "states": rng.uniform(-1, 1, (steps + 1, TASK.layout.size)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, TASK.action_dim)).astype(np.float32),
        "rewards": rng.uniform(-1, 1, steps).astype(np.float32),
        "policy_versions": np.where(np.arange(steps) < steps // 2, 3, 4).astype(np.uint64),
        "terminated": seed % 2 == 1,
        "truncated": seed % 2 == 0,
        "cause": "dropped" if seed % 2 else "time_limit",
        "success": seed % 2 == 0,
        "metrics": {TASK.metric: 2.5, "steps": float(steps)},
        "interventions": np.arange(steps) % 5 == 4,
        "reward_sources": ("task",) * (steps - 3) + ("human", "classifier", "task"),
    }
    return EpisodeData(**{**values, **changes})


EPISODES = [make_episode(1, 12), make_episode(2, 7), make_episode(3, 60)]


def picture(value: int) -> bytes:
    """Height 4, width 6, of one grey."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    for episode in EPISODES:
        times = 1_000_000_000 + np.arange(episode.steps + 1) * 50_000_000
        write_episode(tmp_path / "bags" / f"{episode.index}", episode, times, "/hand0", {})
    return tmp_path / "bags"


@pytest.fixture
def dataset(bags: Path, tmp_path: Path) -> Path:
    assert main(["to-lerobot", str(bags), str(tmp_path / "data")]) == 0
    return tmp_path / "data"


def assert_same(found: EpisodeData, wanted: EpisodeData) -> None:
    for field in dataclasses.fields(EpisodeData):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def test_a_bag_that_an_import_writes_reads_back_as_the_episode(bags: Path) -> None:
    for path, episode in zip(episode_bags(bags), EPISODES, strict=True):
        assert_same(read_episode(path), episode)


def test_bags_to_lerobot_and_back_lose_nothing(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["from-lerobot", str(dataset), str(out)]) == 0
    found = [read_episode(path) for path in episode_bags(out)]
    assert len(found) == len(EPISODES)
    for episode, wanted in zip(found, EPISODES, strict=True):
        assert_same(episode, wanted)


def test_the_files_are_those_of_a_v3_dataset(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 20
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (3, 79, {"train": "0:3"})
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    assert set(table.column_names) == set(info["features"])
    assert table.schema.field("observation.state").type == pa.list_(pa.float32(), TASK.layout.size)
    assert table.schema.field("next.done").type == pa.bool_()
    states = np.array(table.column("observation.state").to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(states, np.concatenate([e.states[:-1] for e in EPISODES]))
    assert np.flatnonzero(table.column("next.done")).tolist() == [11, 18, 78]
    assert np.flatnonzero(table.column("next.success")).tolist() == [18]
    assert np.flatnonzero(table.column("next.truncated")).tolist() == [18]
    assert table.column("index").to_pylist() == list(range(79))
    names = info["features"]["observation.state"]["names"]
    assert (
        len(names) == TASK.layout.size == len(set(names)) and names[0] == "joint_position.finger0_abduction"
    )


def test_episodes_say_where_their_frames_are_and_tasks_are_indexed_by_text(dataset: Path) -> None:
    rows = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(0, 12), (12, 19), (19, 79)]
    assert [row["length"] for row in rows] == [12, 7, 60] and rows[0]["tasks"] == [TASK.id]
    tasks = pq.read_table(dataset / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert tasks.to_pydict() == {"task_index": [0], "task": [TASK.id]}


def test_statistics_are_those_of_all_frames(dataset: Path) -> None:
    stats = json.loads((dataset / "meta/stats.json").read_text())
    actions = np.concatenate([e.actions for e in EPISODES]).astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(actions, name)(axis=0), rtol=1e-6)
    assert stats["action"]["count"] == [79]
    assert stats["next.reward"]["q01"] < stats["next.reward"]["q50"] < stats["next.reward"]["q99"]


def test_an_episode_may_go_on_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_write, "FILE_SIZE", 4000)
    write_dataset(EPISODES, tmp_path / "data")
    files = sorted((tmp_path / "data/data").rglob("*.parquet"))
    assert len(files) > 1
    # As other writers do: the last episode's frames in a file of their own, beginning in the middle.
    whole = pq.read_table(files[-1])
    pq.write_table(whole.slice(0, 20), files[-1])
    pq.write_table(whole.slice(20), files[-1].with_name("file-777.parquet"))
    for item, wanted in zip(read_ours(Dataset(tmp_path / "data")), EPISODES, strict=True):
        assert_same(item.episode, wanted)


def test_images_stay_the_bytes_that_were_recorded(tmp_path: Path) -> None:
    images = {"wrist": tuple(picture(i * 10) for i in range(6))}
    episode = make_episode(1, 5, images=images)
    write_dataset([episode], tmp_path / "data")
    info = read_info(tmp_path / "data")
    assert info.features["observation.images.wrist"]["shape"] == [4, 6, 3]
    (item,) = read_ours(Dataset(tmp_path / "data"))
    assert_same(item.episode, episode)
    stats = json.loads((tmp_path / "data/meta/stats.json").read_text())["observation.images.wrist"]
    np.testing.assert_allclose(np.squeeze(stats["max"]), 40 / 255)


FEATURES: dict[str, Any] = {
    "task": TASK.id,
    "source": "teleop",
    "time": "frames",
    "inputs": {
        "state": {"feature": "observation.state"},
        "action": {"feature": "action", "order": list(reversed(TASK.action_names)), "resample": "hold"},
        "reward": {"feature": "next.reward"},
        "success": {"feature": "next.success"},
    },
    "state": {"vector": "state"},
    "action": {"normalised": "action"},
    "reward": {"by": "input", "input": "reward"},
    "success": {"by": "input", "input": "success"},
    "terminated": "success",
}


def test_a_foreign_dataset_comes_in_through_a_mapping(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "meta/softflow.json").unlink()
    out, mapping = tmp_path / "out", tmp_path / "mapping.yaml"
    mapping.write_text(yaml.safe_dump(FEATURES))
    assert main(["from-lerobot", str(dataset), str(out)]) == 2
    assert "needs --mapping" in capsys.readouterr().err
    command = ["from-lerobot", str(dataset), str(out), "--mapping", str(mapping)]
    assert main([*command, "--dry-run"]) == 0 and not out.exists()
    assert "3 episodes, 79 steps (4.0 s), 1 successful, 0 problems" in capsys.readouterr().out
    assert main(command) == 0
    found = [read_episode(path) for path in episode_bags(out)]
    for episode, wanted in zip(found, EPISODES, strict=True):
        np.testing.assert_array_equal(episode.states[:-1], wanted.states[:-1])
        np.testing.assert_array_equal(episode.states[-1], wanted.states[-2])
        np.testing.assert_array_equal(episode.actions, wanted.actions[:, ::-1])
        np.testing.assert_array_equal(episode.rewards, wanted.rewards)
        assert episode.success == wanted.success == episode.terminated


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path, bags: Path, dataset: Path) -> None:
    wrong = make_episode(4, 5, layout_hash="other")
    with pytest.raises(DatasetError, match="layout_hash is 'other'"):
        write_dataset([EPISODES[0], wrong], tmp_path / "new")
    with pytest.raises(DatasetError, match="task: 'Juggling-v0' is unknown"):
        write_dataset([make_episode(4, 5, task="Juggling-v0")], tmp_path / "new")
    with pytest.raises(DatasetError, match="no episode"):
        write_dataset([], tmp_path / "new")
    with pytest.raises(DatasetError, match="is there already"):
        write_dataset(EPISODES, dataset)
    assert {path.name for path in tmp_path.iterdir()} == {"bags", "data"}


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("codebase_version", "v2.1", "codebase_version is 'v2.1', must be v3.x"),
        ("fps", 0, "fps is 0, must be above 0"),
        ("features", None, "cannot be read"),
    ],
)
def test_a_bad_info_names_the_field(
    dataset: Path, key: str, value: Any, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = dataset / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert main(["from-lerobot", str(dataset), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert text in error and "info.json" in error


def test_a_damaged_file_is_named(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = dataset / "data/chunk-000/file-000.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["from-lerobot", str(dataset), str(tmp_path / "out")]) == 2
    assert "file-000.parquet: cannot be read" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_mapping_of_topics_is_none_of_features(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics, features = write_mapping(tmp_path / "topics.yaml"), tmp_path / "features.yaml"
    features.write_text(yaml.safe_dump(FEATURES))
    assert main(["from-lerobot", str(dataset), str(tmp_path / "out"), "--mapping", str(topics)]) == 2
    assert main(["import", "--mapping", str(features), "--out", str(tmp_path / "out"), str(dataset)]) == 2
    error = capsys.readouterr().err
    assert "inputs are topics of bags: use import" in error and "use from-lerobot" in error


def test_a_missing_feature_or_name_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {**FEATURES["inputs"], "reward": {"feature": "reward"}}
    inputs["action"] = {"feature": "action", "order": ["elbow"]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**FEATURES, "inputs": inputs}))
    command = ["from-lerobot", str(dataset), str(tmp_path / "out"), "--mapping", str(tmp_path / "m.yaml")]
    assert main(command) == 1 and not (tmp_path / "out").exists()
    text = capsys.readouterr().out
    assert "input 'reward': there is no such feature" in text
    assert "feature 'action' has no 'elbow'; has finger0_abduction" in text
