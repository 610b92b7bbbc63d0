"""Demonstrations of a teacher, straight from the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softflow_sim.catalogue import Teacher
from softflow_sim.task_env import TaskEnv

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Demonstration:
    """One episode: states (T+1, S), actions (T, A), rewards (T,)."""

    seed: int
    states: Floats32
    actions: Floats32
    rewards: Floats32
    terminated: bool
    truncated: bool
    info: dict[str, float]
    """Of the last step: `success` and the task's metrics."""


def demonstrate(env: TaskEnv, teacher: Teacher, seed: int, horizon: int = 5) -> Demonstration:
    """Run an episode; the teacher looks at every `horizon`-th state, as it does behind the driver."""
    state, _ = env.reset(seed=seed)
    states: list[Floats32] = [state]
    actions: list[Floats32] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated):
        if len(actions) % horizon == 0:
            teacher.observe(state)
        action = teacher().astype(np.float32)
        state, reward, terminated, truncated, info = env.step(action)
        states.append(state)
        actions.append(action)
        rewards.append(reward)
    return Demonstration(
        seed,
        np.array(states),
        np.array(actions),
        np.array(rewards, dtype=np.float32),
        terminated,
        truncated,
        {name: float(value) for name, value in info.items()},
    )


@dataclass(frozen=True)
class Collection:
    """What a number of attempts gave."""

    attempts: list[Demonstration]

    @property
    def successful(self) -> list[Demonstration]:
        """Those worth imitating where a failure teaches the wrong thing."""
        return [d for d in self.attempts if d.info["success"]]

    @property
    def failed(self) -> list[Demonstration]:
        """The others."""
        return [d for d in self.attempts if not d.info["success"]]

    def rate(self, metric: str) -> float:
        """Mean of a metric over all attempts."""
        return float(np.mean([d.info[metric] for d in self.attempts]))


def collect(
    env: TaskEnv, make_teacher: Callable[[int], Teacher], attempts: int, first_seed: int = 0
) -> Collection:
    """Attempts with the seeds `first_seed` .. `first_seed + attempts - 1`, of teacher and start state alike."""
    seeds = range(first_seed, first_seed + attempts)
    return Collection([demonstrate(env, make_teacher(seed), seed) for seed in seeds])
