"""A lab's own bag of an episode: other joints' names and order, degrees, mm, 50 Hz, a message type of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from softflow_exchange.cli import main
from softflow_recorder.bag import episode_bags, read_episode
from softflow_recorder.episode import EpisodeData
from softflow_tasks import CubeRotation
from softflow_tasks.cube_rotation import REST_HEIGHT

TASK = CubeRotation()
RATE = 50.0
SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND

GLOVE = """
std_msgs/Header header
lab_msgs/FingerTarget[] fingers
float32 battery
"""
FINGER_TARGET = """
string finger
float64[3] target_deg
"""

THEIR_NAMES = tuple(f"{joint}_{finger}" for joint in ("pip", "abd", "mcp") for finger in "abcd")
"""In the order of their driver."""
WANTED_NAMES = tuple(f"{joint}_{finger}" for finger in "abcd" for joint in ("abd", "mcp", "pip"))
"""The same joints in the order of the task's hand."""


@dataclass(frozen=True)
class Lab:
    """What the lab measured, at 50 Hz; our order and SI units."""

    seconds: float = 4.0
    seed: int = 0

    @property
    def times(self) -> np.ndarray:
        return BEGIN + np.arange(round(self.seconds * RATE)) * round(SECOND / RATE)

    def actions(self) -> np.ndarray:
        """(n, 8) smooth actions, as the operator meant them."""
        rng = np.random.default_rng(self.seed)
        t = (self.times - BEGIN)[:, None] / SECOND
        return 0.8 * np.sin(t * rng.uniform(1, 3, 8) + rng.uniform(0, 6, 8))

    def targets(self) -> np.ndarray:
        """(n, 12) [rad]"""
        return np.stack([TASK.action_to_joints(a, np.zeros(12)) for a in self.actions()])

    def positions(self) -> np.ndarray:
        """(n, 12) [rad]"""
        return self.targets() * 0.95 + 0.01

    def yaws(self) -> np.ndarray:
        """(n,) [rad] of the cube"""
        return 0.4 * (self.times - BEGIN) / SECOND


def typestore() -> Any:
    store = get_typestore(Stores.ROS2_JAZZY)
    types = get_types_from_msg(GLOVE, "lab_msgs/msg/Glove")
    types |= get_types_from_msg(FINGER_TARGET, "lab_msgs/msg/FingerTarget")
    store.register(types)
    return store


class LabBag:
    """Writes messages of standard types and of the lab's own."""

    def __init__(self, path: Path, plugin: StoragePlugin = StoragePlugin.MCAP) -> None:
        self.store = typestore()
        self._writer = Writer(path, version=9, storage_plugin=plugin)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def message(self, kind: str, **values: Any) -> Any:
        return self.store.types[kind](**values)

    def header(self, time: int, frame: str = "") -> Any:
        stamp = self.message(
            "builtin_interfaces/msg/Time", sec=int(time // SECOND), nanosec=int(time % SECOND)
        )
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def write(self, topic: str, kind: str, received: int, **values: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self.store)
        data = self.store.serialize_cdr(self.message(kind, **values), kind)
        self._writer.write(self._connections[topic], int(received), data)

    def joints(self, time: int, positions: np.ndarray, received: int) -> None:
        table = dict(zip(WANTED_NAMES, np.rad2deg(positions), strict=True))
        values = np.array([table[name] for name in THEIR_NAMES])
        empty = np.zeros(0)
        header = self.header(time)
        kind = "sensor_msgs/msg/JointState"
        self.write(
            "/lab/joints", kind, received,
            header=header, name=list(THEIR_NAMES), position=values, velocity=empty, effort=empty,
        )  # fmt: skip

    def cube(self, time: int, yaw: float, received: int) -> None:
        """[mm], in a camera's frame that is turned by a quarter about z and 0.5 m away along x."""
        point = self.message("geometry_msgs/msg/Point", x=0.0, y=500.0, z=REST_HEIGHT * 1000.0)
        half = (yaw - np.pi / 2) / 2
        turn = self.message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=np.sin(half), w=np.cos(half))
        pose = self.message("geometry_msgs/msg/Pose", position=point, orientation=turn)
        kind = "geometry_msgs/msg/PoseStamped"
        self.write("/lab/cube", kind, received, header=self.header(time, "camera"), pose=pose)

    def glove(self, time: int, targets: np.ndarray, received: int) -> None:
        rows = np.rad2deg(targets).reshape(4, 3)
        fingers = [
            self.message("lab_msgs/msg/FingerTarget", finger=name, target_deg=row)
            for name, row in zip("abcd", rows, strict=True)
        ]
        header = self.header(time)
        self.write("/lab/glove", "lab_msgs/msg/Glove", received, header=header, fingers=fingers, battery=0.5)

    def success(self, received: int, value: bool) -> None:
        self.write("/lab/success", "std_msgs/msg/Bool", received, data=value)

    def text(self, received: int, value: str) -> None:
        self.write("/lab/event", "std_msgs/msg/String", received, data=value)

    def close(self) -> None:
        self._writer.close()


LATE = 20_000_000
"""[ns] a message is received so much after its stamp."""


def write_lab_bag(
    path: Path,
    lab: Lab | None = None,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    lost: tuple[float, float] = (0.0, 0.0),
    success: bool = True,
) -> Path:
    """One demonstration; cube poses between `lost` [s] are missing."""
    lab = lab or Lab()
    bag = LabBag(path, plugin)
    for time, position, target, yaw in zip(
        lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True
    ):
        bag.joints(time, position, time + LATE)
        if not lost[0] <= (time - BEGIN) / SECOND < lost[1]:
            bag.cube(time, yaw, time + LATE)
        bag.glove(time, target, time + LATE)
    bag.success(lab.times[-1] + LATE, success)
    bag.close()
    return path


MAPPING: dict[str, Any] = {
    "task": "CubeRotation-v0",
    "source": "teleop",
    "time": "header",
    "inputs": {
        "joints": {
            "topic": "/lab/joints", "field": "position", "names": "name", "order": list(WANTED_NAMES),
            "unit": "deg", "resample": "linear",
        },
        "targets": {"topic": "/lab/glove", "field": "fingers[].target_deg", "unit": "deg", "resample": "hold"},
        "cube_position": {
            "topic": "/lab/cube", "unit": "mm",
            "field": ["pose.position.x", "pose.position.y", "pose.position.z"],
        },
        "cube_turn": {
            "topic": "/lab/cube", "resample": "rotation",
            "field": ["pose.orientation.x", "pose.orientation.y", "pose.orientation.z", "pose.orientation.w"],
        },
        "done": {"topic": "/lab/success", "field": "data", "time": "receive"},
    },
    "state": {
        "sensors": {
            "position": "joints",
            "objects": {
                "cube": {
                    "position": "cube_position", "quaternion": "cube_turn",
                    "translation": [0.5, 0.0, 0.0],
                    "rotation": [0.0, 0.0, float(np.sin(np.pi / 4)), float(np.cos(np.pi / 4))],
                }
            },
        }
    },
    "action": {"joints": "targets"},
    "reward": {"by": "task"},
    "success": {"by": "input", "input": "done", "at": "last"},
}  # fmt: skip


def write_mapping(path: Path, **changes: Any) -> Path:
    """The mapping file, with other values at the top level."""
    path.write_text(yaml.safe_dump({**MAPPING, **changes}))
    return path


def run(tmp_path: Path, *bags: Path, code: int = 0, **changes: Any) -> list[EpisodeData]:
    """The episodes that the command has imported, by their times; it must end with `code`."""
    mapping = write_mapping(tmp_path / "mapping.yaml", **changes)
    out = tmp_path / "out"
    assert main(["import", "--mapping", str(mapping), "--out", str(out), *map(str, bags)]) == code
    return [read_episode(p) for p in episode_bags(out)] if out.exists() else []


def layout(bag: LabBag) -> Any:
    return bag.message("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
