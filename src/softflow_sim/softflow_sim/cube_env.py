"""Cube rotation as a Gymnasium environment."""

from __future__ import annotations

from softflow_sim.cube_scene import CubeScene
from softflow_sim.task_env import TaskEnv


class CubeRotationEnv(TaskEnv):
    """`gymnasium.make("softflow/CubeRotation-v0")`: action (8,), observation (34,), 20 Hz, 400 steps.

    A drop terminates, the time limit truncates.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(CubeScene(), render_mode)
