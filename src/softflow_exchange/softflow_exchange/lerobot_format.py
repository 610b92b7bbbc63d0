"""Names and descriptions of a LeRobotDataset v3.0, and the Parquet library, which is imported when it is needed."""

from __future__ import annotations

import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softflow_recorder.episode import EpisodeData
from softflow_tasks.task import Task

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
CHUNK_SIZE = 1000
"""Files in a folder."""
OURS, OUR_EPISODES = "meta/softflow.json", "meta/softflow_episodes.parquet"
"""What the format has no place for, and LeRobot does not look at."""
OUR_FORMAT = "softflow-lerobot/1"

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
REWARD, DONE, TRUNCATED, SUCCESS = "next.reward", "next.done", "next.truncated", "next.success"
INTERVENTION, POLICY_VERSION = "is_intervention", "policy_version"
NEXT = "next."
"""Features of what an action leads to begin with this."""
INDICES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}

Feature = dict[str, Any]
"""dtype, shape, names"""


class DatasetError(ValueError):
    """A data set cannot be read or written; the text names file, field and value."""


def arrow(module: str = "pyarrow") -> Any:
    """A module of pyarrow. Raises DatasetError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DatasetError(
            "the Python package pyarrow is missing (requirements/lerobot.txt; `./softflow bags to-lerobot` installs it)"
        ) from error


def state_names(task: Task) -> list[str]:
    """One name for each value of the state: the block's, and the joint's, the action's, or a number."""
    names: list[str] = []
    for block, size, _ in task.layout.blocks:
        parts: tuple[str, ...] = tuple(str(i) for i in range(size))
        if size == 1:
            names.append(block)
            continue
        if block.startswith("joint_") and size == len(task.joint_names):
            parts = task.joint_names
        elif block == "last_action" and size == task.action_dim:
            parts = task.action_names
        names += [f"{block}.{part}" for part in parts]
    return names


def features_of(task: Task, episode: EpisodeData) -> dict[str, Feature]:
    """Descriptions of the columns, as info.json has them."""
    single = {"shape": [1], "names": None}
    features: dict[str, Feature] = {
        STATE: {"dtype": "float32", "shape": [task.layout.size], "names": state_names(task)},
        ACTION: {"dtype": "float32", "shape": [task.action_dim], "names": list(task.action_names)},
        REWARD: {"dtype": "float32", **single},
        DONE: {"dtype": "bool", **single},
        TRUNCATED: {"dtype": "bool", **single},
        SUCCESS: {"dtype": "bool", **single},
        INTERVENTION: {"dtype": "bool", **single},
        POLICY_VERSION: {"dtype": "int64", **single},
    }
    for camera, images in sorted(episode.images.items()):
        shape = list(decode(images[0]).shape)
        features[IMAGES + camera] = {
            "dtype": "image",
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
    return features | {name: {"dtype": dtype, **single} for name, dtype in INDICES.items()}


def decode(image: bytes) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of a compressed image."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


@dataclass(frozen=True)
class Info:
    """What meta/info.json says."""

    root: Path
    fps: float
    features: dict[str, Feature]
    episodes: int
    frames: int

    def names(self, feature: str) -> list[str]:
        """Names of a feature's values; a data set may group them under one key."""
        names = self.features[feature].get("names")
        if isinstance(names, dict):
            names = [
                name for group in names.values() for name in (group if isinstance(group, list) else [group])
            ]
        return [str(name) for name in names or []]


def read_info(root: Path) -> Info:
    """Raises DatasetError."""
    path = root / INFO
    try:
        content = json.loads(path.read_text())
        version = str(content["codebase_version"])
        if not version.startswith("v3."):
            raise DatasetError(
                f"{path}: codebase_version is {version!r}, must be v3.x; LeRobot itself converts older ones"
            )
        features = {str(name): dict(about) for name, about in content["features"].items()}
        info = Info(
            root,
            float(content["fps"]),
            features,
            int(content["total_episodes"]),
            int(content["total_frames"]),
        )
    except DatasetError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    if not info.fps > 0:
        raise DatasetError(f"{path}: fps is {info.fps:g}, must be above 0")
    return info
