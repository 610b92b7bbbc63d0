"""An episode as the messages that nodes publish, and its bag. Real messages, really serialised."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message
from softflow_msgs.msg import ActionChunk, ChunkResult, EpisodeEvent, Observation, RewardLabel

from softflow_node.messages import floats32
from softflow_recorder.bag import BagWriter, load_typestore
from softflow_tasks import CubeRotation

TASK = CubeRotation()
TYPESTORE = load_typestore({"softflow_msgs": Path(get_package_share_directory("softflow_msgs")) / "msg"})

Published = tuple[str, Any]


@dataclass(frozen=True)
class Toy:
    """Numbers of a made-up episode of n steps."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    episode_id: str = "0123abcd"
    kind: int = EpisodeEvent.TRUNCATED
    layout_hash: str = TASK.layout.hash
    mode: str = "demo"
    success: bool = True

    @classmethod
    def make(cls, seed: int = 0, steps: int = 12, **values: Any) -> Toy:
        rng = np.random.default_rng(seed)
        sizes = ((steps + 1, TASK.layout.size), (steps, TASK.action_dim), (steps,))
        arrays = [rng.uniform(-1, 1, size).astype(np.float32) for size in sizes]
        return cls(*arrays, **values)

    @property
    def steps(self) -> int:
        return len(self.rewards)

    def messages(self) -> list[Published]:
        """(topic, message) in an order in which they may come."""
        ours: dict[str, Any] = {"episode_id": self.episode_id}
        chunk = ActionChunk(**ours, chunk_id=1, source="teacher")
        result = ChunkResult(**ours, chunk_id=1, start_step=2, executed_steps=3, policy_version=7)
        first, rest = self.rewards[:5], self.rewards[5:]
        return [
            ("episode_event", self.event(EpisodeEvent.START)),
            ("action_chunk", chunk),
            *(("observation", self.observation(step)) for step in range(self.steps + 1)),
            ("chunk_result", result),
            ("reward_label", RewardLabel(**ours, start_step=0, values=floats32(first))),
            ("reward_label", RewardLabel(**ours, start_step=5, values=floats32(rest))),
            ("episode_event", self.event(self.kind)),
        ]

    def observation(self, step: int) -> Observation:
        applied = self.actions[step - 1] if step else np.zeros(TASK.action_dim)
        return Observation(
            episode_id=self.episode_id,
            step=step,
            task=TASK.id,
            layout_hash=self.layout_hash,
            state=floats32(self.states[step]),
            applied_action=floats32(applied),
        )

    def event(self, kind: int) -> EpisodeEvent:
        return EpisodeEvent(
            episode_id=self.episode_id,
            episode_index=3,
            kind=kind,
            cause="time_limit",
            last_step=0 if kind == EpisodeEvent.START else self.steps,
            seed=11,
            task=TASK.id,
            mode=self.mode,
            success=self.success,
            metric_names=["rotations_per_minute", "steps"],
            metric_values=[2.5, float(self.steps)],
        )

    def write(self, path: Path, messages: Iterable[Published] | None = None, complete: str = "true") -> Path:
        """A closed bag of the episode, as the recorder node writes it."""
        writer = BagWriter(path, TYPESTORE, {"robot": "/hand0", "episode_id": self.episode_id})
        for stamp, (topic, message) in enumerate(self.messages() if messages is None else messages, start=1):
            kind = f"softflow_msgs/msg/{type(message).__name__}"
            writer.write(f"/hand0/{topic}", kind, stamp * 1_000_000, bytes(serialize_message(message)))
        metrics = json.dumps({"rotations_per_minute": 2.5, "steps": self.steps})
        custom = {"complete": complete, "mode": self.mode, "source": "teacher", "steps": str(self.steps)}
        custom["success"] = str(self.success).lower()
        writer.set_custom({**custom, "metrics": metrics} if complete == "true" else {"complete": complete})
        writer.close()
        return path
