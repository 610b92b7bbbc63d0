"""The palm-down four-finger hand: geometry, joints, and the 8-D synergy action.

Every finger has an abduction joint and two flexion joints. An action moves, per finger, the abduction angle and a
closure that carries the fingertip along the radius towards the object.
"""

from __future__ import annotations

import numpy as np

from softflow_tasks.hand import HandModel
from softflow_tasks.task import FloatArray

FINGERS = 4
BASE_RADIUS = 0.050
"""[m] distance of a finger's base from the hand's axis."""
PROXIMAL = 0.050
"""[m] length of the proximal link."""
DISTAL = 0.045
"""[m] length of the distal link, to the centre of the tip."""
BASE_HEIGHT = 0.160
"""[m] height of the finger bases above the floor."""
TIP_RADIUS = 0.009
"""[m]"""
GRASP_HEIGHT = 0.075
"""[m] height of the fingertips (and of a held cube's centre) above the floor."""
ABDUCTION = float(np.deg2rad(30.0))
"""[rad] abduction at action +-1."""

JOINT_NAMES = tuple(f"finger{i}_{j}" for i in range(FINGERS) for j in ("abduction", "mcp", "pip"))
ACTION_NAMES = tuple(f"finger{i}_{a}" for i in range(FINGERS) for a in ("abduction", "closure"))
JOINT_LOWER = np.tile(np.deg2rad([-35.0, -60.0, 0.0]), FINGERS)
JOINT_UPPER = np.tile(np.deg2rad([35.0, 60.0, 110.0]), FINGERS)
HAND = HandModel("palmdown4", JOINT_NAMES, JOINT_LOWER, JOINT_UPPER, max_velocity=np.full(3 * FINGERS, 40.0))
"""The speed is the simulated motors' without a load."""


def inverse_kinematics(tangential: float, radial: float, height: float) -> tuple[float, float, float]:
    """Joint angles (abduction, mcp, pip) [rad] that bring a fingertip to a point of the finger's frame [m]."""
    below = BASE_HEIGHT - height
    depth = np.hypot(tangential, below)
    inward = BASE_RADIUS - radial
    cosine = (inward**2 + depth**2 - PROXIMAL**2 - DISTAL**2) / (2 * PROXIMAL * DISTAL)
    pip = np.arccos(np.clip(cosine, -1.0, 1.0))
    mcp = np.arctan2(inward, depth) - np.arctan2(DISTAL * np.sin(pip), PROXIMAL + DISTAL * np.cos(pip))
    return float(np.arctan2(tangential, below)), float(mcp), float(pip)


class ClosureSynergy:
    """Maps an action (abduction, closure per finger) to joint targets.

    Closure -1 keeps the tip at radius `open_radius`, +1 at `closed_radius` [m].
    """

    def __init__(self, open_radius: float, closed_radius: float) -> None:
        if not closed_radius < open_radius:
            raise ValueError(f"closed_radius {closed_radius} m must be below open_radius {open_radius} m")
        self.open_radius, self.closed_radius = open_radius, closed_radius
        self._open = np.array(inverse_kinematics(0.0, open_radius, GRASP_HEIGHT)[1:])
        self._closed = np.array(inverse_kinematics(0.0, closed_radius, GRASP_HEIGHT)[1:])

    def to_joints(self, action: FloatArray) -> FloatArray:
        """Joint targets (12,) [rad] of an action (8,) in [-1, 1]."""
        pairs = np.asarray(action, dtype=np.float64).reshape(FINGERS, 2)
        closure = (pairs[:, 1:] + 1.0) / 2.0
        joints = np.empty((FINGERS, 3))
        joints[:, 0] = pairs[:, 0] * ABDUCTION
        joints[:, 1:] = self._open + (self._closed - self._open) * closure
        return joints.reshape(-1)

    def from_tip(self, tangential: float, radius: float) -> tuple[float, float]:
        """Action (abduction, closure) of one finger that brings its tip to a point at grasp height [m]."""
        abduction = np.arctan2(tangential, BASE_HEIGHT - GRASP_HEIGHT) / ABDUCTION
        closure = (self.open_radius - radius) / (self.open_radius - self.closed_radius)
        return float(np.clip(abduction, -1, 1)), float(np.clip(closure, 0, 1) * 2 - 1)
