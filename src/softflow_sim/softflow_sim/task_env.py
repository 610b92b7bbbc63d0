"""A task as a Gymnasium environment: the same scene and task as behind the driver node."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from softflow_sim.scene import Scene


class TaskEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Action (A,) in [-1, 1]; observation (S,), see the task's layout; one step is one control period.

    `reset(seed=s)` gives the start state that the driver's `ResetScene` with seed `s` gives. `info` holds `success`,
    `dropped` and the task's metrics, at the end of an episode too; numbers only, since evaluation loops elsewhere
    take the mean of whatever is in it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, scene: Scene, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode: {render_mode!r}, allowed: None, 'rgb_array'")
        self.render_mode = render_mode
        self.scene, self.task = scene, scene.task
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.task.action_dim,), np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.task.layout.size,), np.float32)
        self._progress = self.task.begin()
        self._state = self._observe()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.scene.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._progress = self.task.begin()
        self._state = self._observe()
        return self._state.copy(), self._info("")

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        array = np.asarray(action, dtype=np.float64)
        if array.shape != (self.task.action_dim,) or not np.isfinite(array).all():
            raise ValueError(f"action must be finite with shape ({self.task.action_dim},), got {action!r}")
        self.scene.advance(array)
        state = self._observe()
        outcome = self.task.advance(self._progress, self._state, state)
        self._state = state
        return state.copy(), outcome.reward, outcome.terminated, outcome.truncated, self._info(outcome.cause)

    def render(self) -> NDArray[np.uint8] | None:
        return self.scene.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.scene.close()

    def _observe(self) -> NDArray[np.float32]:
        return self.task.observe(self.scene.hand(), self.scene.objects())

    def _info(self, cause: str) -> dict[str, Any]:
        return {
            "success": self.task.success(self._progress),
            "dropped": cause == "dropped",
            **self.task.metrics(self._progress),
        }
