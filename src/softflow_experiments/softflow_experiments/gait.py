"""The scripted gait that a PPO teacher begins with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from softflow_experiments.privileged import PrivilegedCubeEnv
from softflow_sim.teacher import GRIP_RADIUS, CubeTeacher, TeacherStyle
from softflow_tasks.task import FloatArray

Floats32 = NDArray[np.float32]

STYLE = TeacherStyle(
    twist_time=0.28,
    regrip_time=0.40,
    hold_time=0.08,
    press=0.0016,
    amplitude=float(np.deg2rad(63.0)),
    noise=0.005,
)
"""A fast gait, found by random search on randomised hands."""
HIGHER = 1.5
"""Lift of a re-gripping finger, of the slow teacher's: fast fingers would touch the cube's edges."""
NOISE = 0.03
"""Standard deviation of white noise on the action that acts."""


class Gait(CubeTeacher):
    """The fast gait. The same pair re-grips first, always: a policy without memory could only average two orders."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, STYLE)

    def _enter(self, phase: str) -> None:
        super()._enter(phase)
        self._first = 0

    def _regrip(self, radius: FloatArray) -> None:
        super()._regrip(radius)
        radius[:] = np.maximum(radius, GRIP_RADIUS + HIGHER * (radius - GRIP_RADIUS))


def gait(
    env: PrivilegedCubeEnv, episodes: int, seed: int, gamma: float
) -> tuple[Floats32, Floats32, Floats32]:
    """The gait on the environment's hands: inputs (N, INPUTS), actions (N, A), discounted returns (N,)."""
    inputs: list[Floats32] = []
    actions: list[Floats32] = []
    returns: list[float] = []
    rng = np.random.default_rng(seed)
    for index in range(episodes):
        script = Gait(seed + index)
        observed, _ = env.reset(seed=seed * 1000 + index)
        rewards: list[float] = []
        done = False
        while not done:
            action = script().astype(np.float32)
            inputs.append(observed)
            actions.append(action)
            # What is imitated is the script's action; what acts is noisier, so that more states are seen.
            noisy = action + NOISE * rng.standard_normal(action.shape).astype(np.float32)
            observed, reward, terminated, truncated, _ = env.step(np.clip(noisy, -1.0, 1.0))
            rewards.append(reward)
            done = terminated or truncated
        returns += discounted(rewards, gamma)
    return np.array(inputs), np.array(actions), np.array(returns, np.float32)


def discounted(rewards: Sequence[float], gamma: float) -> list[float]:
    """Return from each step to the episode's end."""
    tail, found = 0.0, []
    for reward in reversed(rewards):
        tail = reward + gamma * tail
        found.append(tail)
    return found[::-1]
