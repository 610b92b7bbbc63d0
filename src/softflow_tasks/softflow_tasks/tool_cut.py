"""Tool cut: take spring-loaded scissors out of a case, carry them to either of two tapes, and cut it.

The scissors are two arms, `tool` and `tool_arm`, that cross at a pivot; the origin of both frames is the pivot, z
points up towards the handles and y along the pivot's axis. Squeezing the handles together closes the blades.
"""

from __future__ import annotations

import numpy as np

from softflow_tasks import gantry
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

REST_HEIGHT = 0.040
"""[m] height of the pivot while the tool is in the case."""
BLADE_TIP = np.array([0.0074, 0.0, -0.035])
"""[m] blade tip in the frame of `tool`; in the frame of `tool_arm` x has the other sign."""
TAPE_HEIGHT = 0.045
"""[m]"""
TAPE_DISTANCE = 0.09
"""[m] tapes are at y = +- this; they run along y."""
TAPES = ("tape_left", "tape_right")
"""At positive and at negative y."""

METRES = 20.0
OFFSETS = 100.0
"""Scales of lengths in the observation: of the workspace, and of the fits that decide."""
TILTS = 3.0


def rotation_matrix(quaternion: FloatArray) -> FloatArray:
    """(3, 3) of a unit quaternion xyzw; its columns are the body's axes in the world."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


class ToolCut(Task):
    """Action 7-D, observation 31-D, 20 Hz, 180 steps (9 s).

    Reward: +0.3 once when the tool is lifted out of the case, +1 when a tape is cut, which terminates as success.
    A cut needs the tape between the blades while they are open, and then closed blades. Blades that close on
    nothing once the tool is lifted (spent), and a tool that is lost, terminate without a reward.
    Metric: share of episodes with a cut.
    """

    id = "ToolCut-v0"
    action_names = gantry.ACTION_NAMES
    hand = gantry.HAND
    objects = ("tool", "tool_arm", *TAPES)
    control_hz = 20.0
    horizon = 180
    metric = "cut"
    metric_label = "cut"
    success_cause = "cut"
    layout = Layout(
        "ToolCut-v0",
        (
            ("gantry_position", 3, "m * 20"),
            ("gantry_ahead", 3, "target - position, m * 100"),
            ("finger_position", 8, "rad"),
            ("last_closure", 4, "1"),
            ("tool_position", 3, "m * 20"),
            ("tool_tilt", 3, "x and y of the tool's z axis, y of its x axis, * 3"),
            ("jaw_opening", 1, "m * 100"),
            ("jaw_to_tapes", 2, "jaw - tape along x, left and right, m * 100"),
            ("jaw_place", 2, "y, and height above the tapes, m * 100"),
            ("tool_in_hand", 2, "tool - palm along x, y, m * 100"),
        ),
    )

    LIFT_REWARD = 0.3
    CUT_REWARD = 1.0
    LIFTED = 0.030
    """[m] above the rest height."""
    LOST_BELOW = 0.012
    """[m] below the rest height, once lifted."""
    LOST_IN_CASE = 0.030
    """[m] below the rest height, before."""
    LOST_FROM_CASE = 0.055
    """[m] horizontal distance from the case's middle, before it is lifted."""
    LOST_TILT = 0.8
    """Sine between the tool's and the world's vertical, once lifted."""
    LOST_FROM_HAND = 0.030
    """[m] along x or y, once lifted."""
    ARMED = 0.006
    """[m] jaw opening above which a tape between the blades is there to be cut."""
    CLOSED = 0.0035
    """[m] jaw opening below which the blades are closed."""
    TAPE_HALF_LENGTH = 0.020
    """[m]"""
    CLEARANCE = 0.001
    """[m] by which a tape must clear the blades to be between them."""
    DEPTH = 0.003
    """[m] blade tips below the tape."""

    def __init__(self) -> None:
        self._slices = self.layout.slices()

    def rest_action(self) -> FloatArray:
        return np.concatenate([np.zeros(3), np.full(4, -1.0)])

    def action_to_joints(self, action: FloatArray, command: FloatArray) -> FloatArray:
        target = gantry.gantry_target(command[gantry.GANTRY], action[gantry.GANTRY], 1.0 / self.control_hz)
        return np.concatenate([target, gantry.finger_joints(action[gantry.CLOSURES])])

    def joints_to_action(self, joints: FloatArray, command: FloatArray) -> FloatArray:
        """At the workspace's border the targets are not affine in the gantry's velocity: it is worked out directly."""
        action = super().joints_to_action(joints, np.zeros(len(self.joint_names)))
        step = gantry.MAX_SPEED / self.control_hz
        action[gantry.GANTRY] = (joints[gantry.GANTRY] - command[gantry.GANTRY]) / step
        return action

    def held_action(self, action: FloatArray) -> FloatArray:
        """Targets that stay in force mean a gantry that does not move."""
        return np.concatenate([np.zeros(3), action[gantry.CLOSURES]])

    def observe(self, hand: HandSample, objects: Objects) -> StateVector:
        # A driver's messages carry float32; differences of what it sent are taken from the same numbers here.
        position, command = (v.astype(np.float32).astype(np.float64) for v in (hand.position, hand.command))
        tool, arm = objects["tool"], objects["tool_arm"]
        frame, arm_frame = rotation_matrix(tool.quaternion), rotation_matrix(arm.quaternion)
        tip = tool.position + frame @ BLADE_TIP
        arm_tip = arm.position + arm_frame @ (BLADE_TIP * (-1.0, 1.0, 1.0))
        jaw = (tip + arm_tip) / 2
        palm = position[gantry.GANTRY]
        return np.concatenate(
            [
                palm * METRES,
                (command[gantry.GANTRY] - palm) * OFFSETS,
                position[gantry.FINGER_JOINTS],
                hand.applied_action[gantry.CLOSURES],
                tool.position * METRES,
                np.array([frame[0, 2], frame[1, 2], frame[1, 0]]) * TILTS,
                [(tip - arm_tip) @ frame[:, 0] * OFFSETS],
                [(jaw[0] - objects[tape].position[0]) * OFFSETS for tape in TAPES],
                [jaw[1] * OFFSETS, (jaw[2] - TAPE_HEIGHT) * OFFSETS],
                (tool.position - palm)[:2] * OFFSETS,
            ]
        ).astype(np.float32)

    def block(self, state: StateVector, name: str) -> FloatArray:
        """A block of the state vector in m, rad or 1."""
        scale = {"finger_position": 1.0, "last_closure": 1.0, "tool_tilt": TILTS}
        metres = METRES if name in ("gantry_position", "tool_position") else OFFSETS
        return state[self._slices[name]].astype(np.float64) / scale.get(name, metres)

    def between_blades(self, state: StateVector) -> bool:
        """Whether a tape is between the blades, above their tips."""
        opening = float(self.block(state, "jaw_opening")[0])
        y, height = self.block(state, "jaw_place")
        # The blades' own thickness keeps a tape in reach while they close on it.
        reach = max(opening / 2 - self.CLEARANCE, self.CLOSED)
        return height < -self.DEPTH and any(
            abs(y - side * TAPE_DISTANCE) < self.TAPE_HALF_LENGTH and abs(across) < reach
            for side, across in zip((1, -1), self.block(state, "jaw_to_tapes"), strict=True)
        )

    def lost(self, state: StateVector, lifted: bool) -> bool:
        """Whether the tool has fallen, or slipped out of hand and case."""
        position = self.block(state, "tool_position")
        above = position[2] - REST_HEIGHT
        if not lifted:
            return bool(above < -self.LOST_IN_CASE or np.hypot(*position[:2]) > self.LOST_FROM_CASE)
        tilt = np.hypot(*self.block(state, "tool_tilt")[:2])
        away = np.abs(self.block(state, "tool_in_hand")).max()
        return bool(above < -self.LOST_BELOW or tilt > self.LOST_TILT or away > self.LOST_FROM_HAND)

    def advance(self, progress: Progress, state: StateVector, next_state: StateVector) -> Outcome:
        progress.step += 1
        seen = progress.extra
        reward = 0.0
        if not seen["lifted"] and self.block(next_state, "tool_position")[2] > REST_HEIGHT + self.LIFTED:
            seen["lifted"], reward = 1.0, self.LIFT_REWARD
        opening = float(self.block(next_state, "jaw_opening")[0])
        inside = self.between_blades(next_state)
        seen["armed"] = float(inside and (seen["armed"] or opening > self.ARMED))
        closed = bool(seen["lifted"]) and opening < self.CLOSED
        cause = ""
        if closed and seen["armed"]:
            seen["cut"], reward, cause = 1.0, reward + self.CUT_REWARD, self.success_cause
        elif closed:
            cause = "spent"
        elif self.lost(next_state, bool(seen["lifted"])):
            cause = "dropped"
        progress.total += reward
        timeout = not cause and progress.step >= self.horizon
        return Outcome(reward, bool(cause), timeout, "time_limit" if timeout else cause)

    def begin(self) -> Progress:
        return Progress(extra={"lifted": 0.0, "armed": 0.0, "cut": 0.0})

    def metrics(self, progress: Progress) -> dict[str, float]:
        seen = progress.extra
        return {"cut": seen["cut"], "grasped": seen["lifted"], "steps": float(progress.step)}

    def success(self, progress: Progress) -> bool:
        """A tape was cut."""
        return bool(progress.extra["cut"])


register(ToolCut.id, ToolCut)
