"""Cube rotation as a Gymnasium environment."""

from __future__ import annotations

from softflow_sim.cube_scene import CubeScene
from softflow_sim.dynamics import DynamicCubeScene, Dynamics, Ranges
from softflow_sim.task_env import TaskEnv


class CubeRotationEnv(TaskEnv):
    """`gymnasium.make("softflow/CubeRotation-v0")`: action (8,), observation (34,), 20 Hz, 400 steps.

    A drop terminates, the time limit truncates.
    """

    def __init__(
        self, render_mode: str | None = None, dynamics: Dynamics | Ranges | str | None = None
    ) -> None:
        """`dynamics`: "randomised" (another hand at each reset), "shifted", or as such; default: the nominal hand.

        Raises ParameterError for an unknown name.
        """
        super().__init__(CubeScene() if dynamics is None else DynamicCubeScene(dynamics), render_mode)
