"""OGBench's manipulation environments on the project's MuJoCo, so that equal seeds give equal episodes."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

MAX_TASK = 5


@dataclasses.dataclass(frozen=True)
class Family:
    """One of the benchmark's environments as it is used here."""

    name: str
    task: int
    """The task whose figures are published."""
    sparse: bool
    """Q-chunking's protocol: -1 until every part is solved, then 0. Else: minus the number of unsolved parts."""
    oracles: tuple[str, ...]
    """Of the wheel, that play here."""


FAMILIES = {
    family.name: family
    for family in (
        Family("puzzle-3x3", 4, True, ("button",)),
        Family("scene", 2, True, ("cube", "button", "drawer", "window")),
        Family("cube-double", 1, False, ("cube",)),
    )
}


def family(name: str) -> Family:
    """By name. Raises ValueError for another one."""
    if name not in FAMILIES:
        raise ValueError(f"env is {name!r}, allowed: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def available() -> bool:
    """The wheel is installed."""
    return importlib.util.find_spec("ogbench") is not None


def version() -> str:
    """Of the wheel."""
    return importlib.metadata.version("ogbench")


def play_environment(name: str) -> Any:
    """Without task or end: random targets for the oracles. Raises ValueError for an unknown name."""
    return _build(f"{family(name).name}-v0", mode="data_collection", terminate_at_goal=False).unwrapped


def task_environment(name: str, task: int) -> gym.Env[NDArray[np.float32], NDArray[np.float32]]:
    """The single-task environment; observations float32, reward as `Family.sparse` says.

    Raises ValueError for an unknown name or task.
    """
    if not 1 <= task <= MAX_TASK:
        raise ValueError(f"task is {task}, must be in [1, {MAX_TASK}]")
    return TaskEnv(_build(f"{family(name).name}-singletask-task{task}-v0"), family(name).sparse)


class TaskEnv(gym.Wrapper[NDArray[np.float32], NDArray[np.float32], Any, Any]):
    """What a learner sees. As in the wheel, reward and end belong to the state before the step."""

    def __init__(self, env: gym.Env[Any, Any], sparse: bool) -> None:
        super().__init__(env)
        self._sparse = sparse

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        state, _ = self.env.reset(seed=seed, options=options)
        return np.asarray(state, np.float32), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(action)
        if self._sparse:
            reward = -1.0 if float(reward) < 0.0 else 0.0
        success = {"success": float(info["success"])}
        return np.asarray(state, np.float32), float(reward), bool(terminated), bool(truncated), success


def _build(env_id: str, **settings: Any) -> gym.Env[Any, Any]:
    """The registered environment with `settings` besides its own, in a time limit."""
    import ogbench.manipspace.mjcf_utils  # Registers the environments, too.

    _repair(ogbench.manipspace.mjcf_utils)
    spec = gym.spec(env_id)
    if spec.entry_point is None or spec.max_episode_steps is None:
        raise ValueError(f"{env_id} has no entry point or time limit")
    kind = reproducible(load_env_creator(spec.entry_point))
    return gym.wrappers.TimeLimit(kind(**spec.kwargs, **settings), spec.max_episode_steps)


def reproducible(kind: Any) -> Any:
    """A subclass whose resets depend on the seed only, and that looks at the state once a step, not three times."""

    class Reproducible(kind):
        _look: dict[str, Any] | None = None
        _initialising = False

        @cached_property
        def action_space(self) -> gym.spaces.Box:
            # The original makes a new, unseeded one for each of the random actions of a reset.
            return gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if seed is not None:
                self.action_space.seed(seed)
            return super().reset(seed=seed, options=options)

        def initialize_episode(self) -> None:
            self._initialising = True  # It moves things without telling.
            super().initialize_episode()
            self._initialising = False

        def set_new_target(self, *args: Any, **kwargs: Any) -> Any:
            self._look = None
            return super().set_new_target(*args, **kwargs)

        def post_step(self) -> None:
            self._look = None
            super().post_step()

        def compute_ob_info(self) -> dict[str, Any]:
            if self._look is None or self._initialising:
                self._look = super().compute_ob_info()
            return self._look

    return Reproducible


def _repair(mjcf_utils: Any) -> None:
    """Write models without the class of a texture, which dm-control adds and MuJoCo before 3.17 refuses. Once.

    It names defaults, and these models have none for textures: the physics is the same.
    """
    original: Callable[..., str] = mjcf_utils.to_string
    if getattr(original, "repaired", False):
        return

    def to_string(*args: Any, **kwargs: Any) -> str:
        return re.sub(r'(<texture\b[^>]*?)\sclass="[^"]*"', r"\1", original(*args, **kwargs))

    to_string.repaired = True  # type: ignore[attr-defined]
    mjcf_utils.to_string = to_string
