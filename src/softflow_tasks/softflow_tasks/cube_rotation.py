"""Cube rotation: turn a cube about the vertical axis under a palm-down hand, as fast as possible, without a drop."""

from __future__ import annotations

import numpy as np

from softflow_tasks import palmdown
from softflow_tasks.task import (
    FloatArray,
    HandSample,
    Layout,
    Objects,
    Outcome,
    Progress,
    StateVector,
    Task,
    register,
)

CUBE_HALF = 0.025
"""[m] half the edge of the cube."""
POST_GAP = 0.002
"""[m] distance between the cube held at grasp height and the post below, which catches it."""
REST_HEIGHT = palmdown.GRASP_HEIGHT - POST_GAP
"""[m] height of the cube's centre when it rests on the post."""
CLEARANCE = 0.018
"""[m] fingertip to cube at closure -1."""
PRESS = 0.008
"""[m] fingertip target inside the cube at closure +1."""

OFFSET_SCALE = 50.0
LINEAR_SCALE = 2.0
ANGULAR_SCALE = 0.2


class CubeRotation(Task):
    """Action 8-D, observation 34-D, 20 Hz, 400 steps.

    Reward: change of yaw per step [rad], clipped to +-`MAX_TURN`, and -1 on a drop, which terminates.
    Metric: rotations per minute over the *whole* time limit, so that an episode cut short by a drop counts only
    the turns made before it.
    """

    id = "CubeRotation-v0"
    action_names = palmdown.ACTION_NAMES
    hand = palmdown.HAND
    objects = ("cube",)
    control_hz = 20.0
    horizon = 400
    metric = "rotations_per_minute"
    metric_label = "rotations/min"
    layout = Layout(
        "CubeRotation-v0",
        (
            ("joint_position", 12, "rad"),
            ("last_action", 8, "1"),
            ("cube_offset", 3, "m * 50"),
            ("yaw4", 2, "sin, cos of 4*yaw"),
            ("cube_up", 3, "unit vector"),
            ("cube_linear_velocity", 3, "m/s * 2"),
            ("cube_angular_velocity", 3, "rad/s * 0.2"),
        ),
    )

    MAX_TURN = 0.3
    """[rad] largest turn a single step is rewarded for."""
    DROP_PENALTY = 1.0
    DROP_HEIGHT = 0.010
    """[m] below the rest height."""
    DROP_TILT = 0.7
    """Cosine between the cube's and the world's vertical."""
    DROP_OFFSET = 0.025
    """[m] horizontal distance from the axis."""
    SUCCESS_RPM = 6.25

    def __init__(self) -> None:
        radius = CUBE_HALF + palmdown.TIP_RADIUS
        self.synergy = palmdown.ClosureSynergy(radius + CLEARANCE, radius - PRESS)
        slices = self.layout.slices()
        self._offset, self._yaw4, self._up = slices["cube_offset"], slices["yaw4"], slices["cube_up"]

    def rest_action(self) -> FloatArray:
        return np.tile([0.0, -1.0], palmdown.FINGERS)

    def action_to_joints(self, action: FloatArray, command: FloatArray) -> FloatArray:
        return self.synergy.to_joints(action)

    def observe(self, hand: HandSample, objects: Objects) -> StateVector:
        obj = objects["cube"]
        x, y, z, w = obj.quaternion
        yaw = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
        up = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
        offset = (obj.position - (0.0, 0.0, REST_HEIGHT)) * OFFSET_SCALE
        return np.concatenate(
            [
                hand.position,
                hand.applied_action,
                offset,
                (np.sin(4 * yaw), np.cos(4 * yaw)),
                up,
                obj.linear * LINEAR_SCALE,
                obj.angular * ANGULAR_SCALE,
            ]
        ).astype(np.float32)

    def turn(self, state: StateVector, next_state: StateVector) -> float:
        """Change of yaw [rad] between two states; unique below 45 degrees, four times what a step can turn."""
        before = np.arctan2(*state[self._yaw4].astype(np.float64))
        after = np.arctan2(*next_state[self._yaw4].astype(np.float64))
        return float((after - before + np.pi) % (2 * np.pi) - np.pi) / 4

    def dropped(self, state: StateVector) -> bool:
        """Whether the cube has left the grasp: too low, tilted, or off the axis."""
        x, y, z = state[self._offset].astype(np.float64) / OFFSET_SCALE
        tilted = state[self._up][2] < self.DROP_TILT
        return bool(z < -self.DROP_HEIGHT or tilted or np.hypot(x, y) > self.DROP_OFFSET)

    def advance(self, progress: Progress, state: StateVector, next_state: StateVector) -> Outcome:
        progress.step += 1
        turn = self.turn(state, next_state)
        reward = float(np.clip(turn, -self.MAX_TURN, self.MAX_TURN))
        if self.dropped(next_state):
            return Outcome(reward - self.DROP_PENALTY, terminated=True, truncated=False, cause="dropped")
        progress.total += turn
        timeout = progress.step >= self.horizon
        return Outcome(reward, terminated=False, truncated=timeout, cause="time_limit" if timeout else "")

    def metrics(self, progress: Progress) -> dict[str, float]:
        minutes = self.horizon / self.control_hz / 60.0
        turns = progress.total / (2 * np.pi)
        return {self.metric: float(turns / minutes), "turns": float(turns), "steps": float(progress.step)}

    def success(self, progress: Progress) -> bool:
        """No drop, and at least the paper's speed on hardware (a yardstick; the hands are not comparable)."""
        return progress.step >= self.horizon and self.metrics(progress)[self.metric] >= self.SUCCESS_RPM


register(CubeRotation.id, CubeRotation)
