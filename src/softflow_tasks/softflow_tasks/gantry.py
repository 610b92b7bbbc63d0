"""The four-finger hand on a gantry: geometry, joints, limits, and the 7-D action.

The gantry carries the palm along x, y and z; the fingers have two flexion joints and no abduction. An action moves
the gantry's target at a velocity, and sets for each finger a closure that carries its tip towards the palm's axis.
"""

from __future__ import annotations

import numpy as np

from softflow_tasks import palmdown
from softflow_tasks.hand import HandModel
from softflow_tasks.palmdown import FINGERS
from softflow_tasks.task import FloatArray

AXES = ("x", "y", "z")
PALM_HEIGHT = 0.190
"""[m] height of the finger bases above the floor at gantry position 0."""
REACH = palmdown.BASE_HEIGHT - palmdown.GRASP_HEIGHT
"""[m] fingertips below the finger bases."""
OPEN_RADIUS = 0.045
"""[m] fingertip to the palm's axis at closure -1."""
CLOSED_RADIUS = -0.002
"""[m] at closure +1; beyond reach, so that the finger is straight and points there."""
MAX_SPEED = 0.12
"""[m/s] of the gantry's target at action +-1."""
WORKSPACE_LOWER = np.array([-0.05, -0.13, -0.08])
WORKSPACE_UPPER = np.array([0.05, 0.13, 0.06])
"""[m] where the gantry's target stays."""

ACTION_NAMES = tuple(f"gantry_{a}_velocity" for a in AXES) + tuple(
    f"finger{i}_closure" for i in range(FINGERS)
)
JOINT_NAMES = tuple(f"gantry_{a}" for a in AXES) + tuple(
    f"finger{i}_{j}" for i in range(FINGERS) for j in ("mcp", "pip")
)
GANTRY = slice(0, len(AXES))
"""The gantry's part of joints and of actions."""
FINGER_JOINTS = slice(len(AXES), len(JOINT_NAMES))
CLOSURES = slice(len(AXES), len(ACTION_NAMES))

HAND = HandModel(
    "gantry4",
    JOINT_NAMES,
    lower=np.concatenate([np.full(3, -0.2), np.tile(np.deg2rad([-60.0, 0.0]), FINGERS)]),
    upper=np.concatenate([np.full(3, 0.2), np.tile(np.deg2rad([60.0, 110.0]), FINGERS)]),
    max_velocity=np.concatenate([np.full(3, 0.25), np.full(2 * FINGERS, 40.0)]),
)
"""Gantry in m and m/s, fingers in rad and rad/s."""


def _flexion(radius: float) -> FloatArray:
    """(mcp, pip) [rad] that bring a fingertip to a radius."""
    return np.array(palmdown.inverse_kinematics(0.0, radius, palmdown.GRASP_HEIGHT)[1:])


_OPEN, _CLOSED = _flexion(OPEN_RADIUS), _flexion(CLOSED_RADIUS)


def finger_joints(closure: FloatArray) -> FloatArray:
    """Joint targets (2 * FINGERS,) [rad] of closures (FINGERS,) in [-1, 1]."""
    share = (np.asarray(closure, dtype=np.float64)[:, None] + 1.0) / 2.0
    return (_OPEN + (_CLOSED - _OPEN) * share).reshape(-1)


def gantry_target(target: FloatArray, velocity: FloatArray, period: float) -> FloatArray:
    """The gantry's target (3,) [m] after `period` [s] at a velocity (3,) in [-1, 1], kept in the workspace."""
    moved = np.asarray(target) + np.asarray(velocity) * (MAX_SPEED * period)
    return np.clip(moved, WORKSPACE_LOWER, WORKSPACE_UPPER)
