"""Tool cut as a Gymnasium environment."""

from __future__ import annotations

from softflow_sim.task_env import TaskEnv
from softflow_sim.tool_scene import ToolScene


class ToolCutEnv(TaskEnv):
    """`gymnasium.make("softflow/ToolCut-v0")`: action (7,), observation (31,), 20 Hz, 180 steps.

    A cut, a spent attempt and a lost tool terminate, the time limit truncates.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(ToolScene(), render_mode)
