"""Sends chunks to a driver in place of a policy, and keeps what it says on /diagnostics."""

from __future__ import annotations

import uuid

import numpy as np
from rclpy.action import ActionClient
from rclpy.context import Context
from softflow_msgs.action import ResetScene
from softflow_msgs.msg import ActionChunk, HandDescription, HandState

from softflow_bringup.bench.node import DiagnosticsProbe
from softflow_node.messages import NANOSECONDS, floats32, from_stamp, to_stamp
from softflow_node.node import latched, reliable, stream

CHUNK_SECONDS = 0.1
"""Length of a chunk, where so many steps may be in one."""
MAX_STEPS = 64
SLOWNESS = 4.0
"""[s] that every action takes from one end of its amplitude to the other and back."""
AMPLITUDE = 0.3


class ChunkSource(DiagnosticsProbe):
    """Begins an episode and keeps the queue of the driver filled with a slow movement of all joints."""

    def __init__(self, context: Context, namespace: str) -> None:
        super().__init__(context)
        self.chunks = 0
        """Sent so far."""
        self._description: HandDescription | None = None
        self._episode = ""
        self._covered = 0
        """Step of the episode up to which chunks were sent."""
        node = self._node
        self._pub = node.create_publisher(ActionChunk, f"{namespace}/action_chunk", reliable(2))
        self._reset = ActionClient(node, ResetScene, f"{namespace}/reset_scene")
        node.create_subscription(
            HandDescription, f"{namespace}/hand_description", self._on_description, latched()
        )
        node.create_subscription(HandState, f"{namespace}/hand_state", self._on_state, stream())

    def _on_description(self, message: HandDescription) -> None:
        """A driver that says what it is has just been started."""
        self._description, self._episode = message, ""

    def _on_state(self, message: HandState) -> None:
        if self._description is None:
            return
        if not self._episode and self._reset.server_is_ready():
            self._episode = uuid.uuid4().hex
            self._covered = 0
            self._reset.send_goal_async(ResetScene.Goal(episode_id=self._episode, seed=0))
        if message.episode_id != self._episode:
            return
        rate = self._description.control_rate
        steps = min(MAX_STEPS, max(1, round(CHUNK_SECONDS * rate)))
        if message.step + steps // 2 >= self._covered:
            self._send(message, self._description, steps)

    def _send(self, state: HandState, description: HandDescription, steps: int) -> None:
        dt = 1.0 / description.control_rate
        first = max(self._covered, state.step)
        times = dt * (first + np.arange(steps))
        action_dim = len(description.action_names)
        actions = AMPLITUDE * np.sin(2.0 * np.pi * times / SLOWNESS)[:, None] * np.ones(action_dim)
        self.chunks += 1
        message = ActionChunk(
            episode_id=state.episode_id,
            chunk_id=self.chunks,
            obs_id=self.chunks,
            obs_step=state.step,
            source="bench",
            dt=dt,
            horizon=steps,
            action_dim=action_dim,
            actions=floats32(actions),
            execute_steps=steps,
            expiry=to_stamp(from_stamp(state.header.stamp) + round(2.0 * steps * dt * NANOSECONDS)),
        )
        self._pub.publish(message)
        self._covered = first + steps
