"""Our episodes as a LeRobotDataset v3.0."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from softflow_exchange import lerobot_format as names
from softflow_exchange import lerobot_stats
from softflow_exchange.lerobot_format import DatasetError, Feature, arrow
from softflow_recorder.episode import EpisodeData
from softflow_tasks.task import Task, make_task

FILE_SIZE = 100 * 2**20
"""[bytes] after which a new data file begins."""


@dataclass
class _Written:
    """What has been written so far."""

    frames: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of meta/episodes"""
    ours: list[dict[str, Any]] = field(default_factory=list)
    """Of meta/softflow_episodes"""
    stats: list[dict[str, lerobot_stats.Stats]] = field(default_factory=list)
    file: int = -1
    bytes: int = FILE_SIZE
    """Of the data file that is open; at first as if one were full"""
    writer: Any = None


def write_dataset(episodes: Iterable[EpisodeData], out: Path, task_text: str = "") -> tuple[int, int]:
    """Write a new data set; returns (episodes, frames). After an error nothing is left.

    Raises:
        DatasetError: `out` exists, there is no episode, or one does not fit the first.
    """
    if out.exists():
        raise DatasetError(f"{out}: is there already; a data set is written into a new directory")
    staging = out.with_name(out.name + ".partial")
    if staging.exists():
        raise DatasetError(f"{staging}: is left of an export that was interrupted; delete it")
    try:
        written = _Export(staging, task_text).run(episodes)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return len(written.rows), written.frames


class _Export:
    """One data set in the making."""

    def __init__(self, root: Path, task_text: str) -> None:
        self.root, self.task_text = root, task_text
        self.done = _Written()
        self.pa, self.pq = arrow(), arrow("pyarrow.parquet")

    def run(self, episodes: Iterable[EpisodeData]) -> _Written:
        task: Task | None = None
        features: dict[str, Feature] = {}
        for episode in episodes:
            if task is None:
                task = _task_of(episode)
                features = names.features_of(task, episode)
                schema = self.schema(features)
            _check(episode, task, features)
            self.add(episode, task, features, schema)
        if task is None:
            raise DatasetError("there is no episode to export")
        if self.done.writer is not None:
            self.done.writer.close()
        self.write_meta(task, features)
        return self.done

    def schema(self, features: dict[str, Feature]) -> Any:
        """Arrow's types of the columns."""
        pa = self.pa
        kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
        columns = []
        for name, about in features.items():
            if about["dtype"] == "image":
                kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            else:
                kind = kinds[about["dtype"]]
                kind = kind if about["shape"] == [1] else pa.list_(kind, about["shape"][0])
            columns.append(pa.field(name, kind))
        return pa.schema(columns)

    def add(self, episode: EpisodeData, task: Task, features: dict[str, Feature], schema: Any) -> None:
        """One episode: its frames, a row group of their own, and its rows of metadata."""
        done, number, n = self.done, len(self.done.rows), episode.steps
        columns = _columns(episode, number, done.frames, task.control_hz)
        if done.bytes >= FILE_SIZE:
            self.next_file(schema)
        table = self.pa.table(
            [self.array(columns[name], schema.field(name).type) for name in features], schema=schema
        )
        done.writer.write_table(table)
        done.bytes += table.nbytes
        stats = {name: _stats(columns[name], about) for name, about in features.items()}
        done.stats.append(stats)
        where = _place(done.file)
        done.rows.append(
            {
                "episode_index": number,
                "tasks": [self.task_text or task.id],
                "length": n,
                "data/chunk_index": where["chunk_index"],
                "data/file_index": where["file_index"],
                "dataset_from_index": done.frames,
                "dataset_to_index": done.frames + n,
                **{
                    f"stats/{name}/{key}": value
                    for name, each in stats.items()
                    for key, value in each.items()
                },
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        done.ours.append(_our_row(episode, number))
        done.frames += n

    def array(self, rows: Any, kind: Any) -> Any:
        """Rows of one feature as an Arrow array."""
        if isinstance(rows, list):
            return self.pa.array([{"bytes": image, "path": None} for image in rows], type=kind)
        if rows.ndim == 1:
            return self.pa.array(rows, type=kind)
        return self.pa.FixedSizeListArray.from_arrays(self.pa.array(rows.reshape(-1)), rows.shape[1])

    def next_file(self, schema: Any) -> None:
        done = self.done
        if done.writer is not None:
            done.writer.close()
        done.file, done.bytes = done.file + 1, 0
        path = self.root / names.DATA_PATH.format(**_place(done.file))
        path.parent.mkdir(parents=True, exist_ok=True)
        done.writer = self.pq.ParquetWriter(path, schema)

    def write_meta(self, task: Task, features: dict[str, Feature]) -> None:
        done, root = self.done, self.root
        info = {
            "codebase_version": names.VERSION,
            "robot_type": task.hand.name,
            "total_episodes": len(done.rows),
            "total_frames": done.frames,
            "total_tasks": 1,
            "chunks_size": names.CHUNK_SIZE,
            "data_files_size_in_mb": FILE_SIZE // 2**20,
            "video_files_size_in_mb": 200,
            "fps": int(task.control_hz),
            "splits": {"train": f"0:{len(done.rows)}"},
            "data_path": names.DATA_PATH,
            "video_path": None,
            "features": features,
        }
        stats = {name: lerobot_stats.together([each[name] for each in done.stats]) for name in features}
        episodes = root / names.EPISODES_PATH.format(chunk_index=0, file_index=0)
        episodes.parent.mkdir(parents=True, exist_ok=True)
        self.pq.write_table(self.pa.Table.from_pylist(done.rows), episodes)
        self.pq.write_table(self.tasks(self.task_text or task.id), root / names.TASKS)
        self.pq.write_table(self.pa.Table.from_pylist(done.ours), root / names.OUR_EPISODES)
        ours = {"format": names.OUR_FORMAT, "task": task.id, "layout_hash": task.layout.hash}
        for path, content in ((names.INFO, info), (names.STATS, stats), (names.OURS, ours)):
            (root / path).write_text(json.dumps(content, indent=2) + "\n")

    def tasks(self, text: str) -> Any:
        """The table of task texts; LeRobot reads it with pandas and wants the text as the index."""
        table = self.pa.table({"task_index": self.pa.array([0], self.pa.int64()), "task": [text]})
        integer = {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
        }
        string = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"}
        about = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [{**integer, "metadata": None}, {**string, "metadata": None}],
        }
        return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _task_of(episode: EpisodeData) -> Task:
    """Raises DatasetError."""
    try:
        return make_task(episode.task)
    except ValueError as error:
        raise DatasetError(f"episode {episode.episode_id}: {error}") from error


def _check(episode: EpisodeData, task: Task, features: dict[str, Feature]) -> None:
    """Raises DatasetError."""
    where = f"episode {episode.episode_id}"
    if episode.layout_hash != task.layout.hash:
        raise DatasetError(
            f"{where}: layout_hash is {episode.layout_hash!r}, {task.id} has {task.layout.hash!r}"
        )
    if task.control_hz != int(task.control_hz):
        raise DatasetError(
            f"{task.id}: control rate is {task.control_hz} Hz, LeRobot's fps must be a whole number"
        )
    cameras = {name.removeprefix(names.IMAGES) for name in features if name.startswith(names.IMAGES)}
    if set(episode.images) != cameras:
        raise DatasetError(
            f"{where}: has cameras {sorted(episode.images)}, the first episode {sorted(cameras)}"
        )
    if int(episode.policy_versions.max()) > np.iinfo(np.int64).max:
        raise DatasetError(
            f"{where}: policy_version is {int(episode.policy_versions.max())}, must be below 2**63"
        )


def _columns(episode: EpisodeData, number: int, first: int, rate: float) -> dict[str, Any]:
    """A frame is a state and the action that followed; the state after the last action is kept apart."""
    n = episode.steps
    last = np.arange(n) == n - 1
    steps = np.arange(n, dtype=np.int64)
    columns: dict[str, Any] = {
        names.STATE: episode.states[:-1],
        names.ACTION: episode.actions,
        names.REWARD: episode.rewards,
        names.DONE: last,
        names.TRUNCATED: last & episode.truncated,
        names.SUCCESS: last & episode.success,
        names.INTERVENTION: episode.interventions,
        names.POLICY_VERSION: episode.policy_versions.astype(np.int64),
        "timestamp": (steps / rate).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(n, number, dtype=np.int64),
        "index": steps + first,
        "task_index": np.zeros(n, dtype=np.int64),
    }
    return columns | {names.IMAGES + camera: list(images[:n]) for camera, images in episode.images.items()}


def _stats(rows: Any, about: Feature) -> lerobot_stats.Stats:
    return lerobot_stats.of_images(rows) if about["dtype"] == "image" else lerobot_stats.of_values(rows)


def _place(file: int) -> dict[str, int]:
    return {"chunk_index": file // names.CHUNK_SIZE, "file_index": file % names.CHUNK_SIZE}


def _our_row(episode: EpisodeData, number: int) -> dict[str, Any]:
    """What a LeRobotDataset has no place for."""
    return {
        "episode_index": number,
        "episode_id": episode.episode_id,
        "index": episode.index,
        "mode": episode.mode,
        "source": episode.source,
        "seed": str(episode.seed),  # up to 2**64
        "terminated": episode.terminated,
        "cause": episode.cause,
        "success": episode.success,
        "metrics": json.dumps(episode.metrics),
        "last_state": episode.states[-1].tolist(),
        "reward_sources": list(episode.reward_sources),
        **{f"last_image/{camera}": images[-1] for camera, images in episode.images.items()},
    }
