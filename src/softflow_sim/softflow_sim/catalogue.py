"""Scenes and scripted teachers by the id of their task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from softflow_sim.cube_scene import CubeScene
from softflow_sim.scene import Scene
from softflow_sim.teacher import CubeTeacher
from softflow_sim.tool_scene import ToolScene
from softflow_sim.tool_teacher import ToolTeacher
from softflow_tasks.task import FloatArray, StateVector


class Teacher(Protocol):
    """One demonstration; reproducible from its seed and what it has observed."""

    def observe(self, state: StateVector) -> None:
        """Take in an observation (S,)."""

    def __call__(self) -> FloatArray:
        """The next action (A,)."""


_SCENES: dict[str, Callable[[], Scene]] = {"CubeRotation-v0": CubeScene, "ToolCut-v0": ToolScene}
_TEACHERS: dict[str, type[CubeTeacher] | type[ToolTeacher]] = {
    "CubeRotation-v0": CubeTeacher,
    "ToolCut-v0": ToolTeacher,
}


def make_scene(task_id: str) -> Scene:
    """The scene of a task. Raises ValueError that lists the known ids."""
    if task_id not in _SCENES:
        raise ValueError(f"task: {task_id!r} has no simulated scene; known: {', '.join(sorted(_SCENES))}")
    return _SCENES[task_id]()


def make_teacher(task_id: str, seed: int, noise: float) -> Teacher:
    """A teacher with a style drawn from its seed. Raises ValueError that lists the known ids."""
    if task_id not in _TEACHERS:
        raise ValueError(f"task: {task_id!r} has no scripted teacher; known: {', '.join(sorted(_TEACHERS))}")
    return _TEACHERS[task_id](seed, noise=noise)
