"""Cube rotation on other hands than the nominal one; it can be saved and restored in the middle of an episode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from softflow_sim.dynamics import DynamicCubeScene, Dynamics, Ranges, SavedScene
from softflow_sim.task_env import TaskEnv
from softflow_tasks.task import Progress, StateVector


@dataclass(frozen=True)
class SavedEnv:
    """The middle of an episode."""

    scene: SavedScene
    progress: Progress
    state: StateVector


class DynamicCubeEnv(TaskEnv):
    """Observation and action of `softflow/CubeRotation-v0`; the hand is another one."""

    scene: DynamicCubeScene

    def __init__(
        self, dynamics: Dynamics | Ranges | str = "randomised", render_mode: str | None = None
    ) -> None:
        """`dynamics`: "nominal", "randomised" (another hand at each reset), "shifted", or as such.

        Raises ParameterError for an unknown name.
        """
        super().__init__(DynamicCubeScene(dynamics), render_mode)

    @property
    def dynamics(self) -> Dynamics:
        """Of this episode."""
        return self.scene.dynamics

    def save(self) -> SavedEnv:
        """Where the episode stands."""
        progress = dataclasses.replace(self._progress, extra=dict(self._progress.extra))
        return SavedEnv(self.scene.save(), progress, self._state.copy())

    def restore(self, saved: SavedEnv) -> StateVector:
        """Go back to where `save` was called; returns the state (S,) there. The same actions repeat bitwise."""
        self.scene.restore(saved.scene)
        self._progress = dataclasses.replace(saved.progress, extra=dict(saved.progress.extra))
        self._state = saved.state.copy()
        return self._state.copy()
