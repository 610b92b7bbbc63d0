"""Episodes from fixed start states and hands, and what comes out of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from softflow_experiments.privileged import TASK, Teacher
from softflow_experiments.statistics import bootstrap
from softflow_sim.dynamics import Dynamics, Ranges
from softflow_sim.dynamics_env import DynamicCubeEnv

Info = dict[str, float]
Run = Callable[[DynamicCubeEnv, int], Info]
"""An episode from the start state and hand of a seed -> `info` of its last step."""


def play(env: DynamicCubeEnv, seed: int, teacher: Teacher, told: Dynamics | None = None) -> Info:
    """The teacher acts, told the truth about the hand unless `told` says otherwise."""
    state, _ = env.reset(seed=seed)
    while True:
        state, _, terminated, truncated, info = env.step(teacher(state, told or env.dynamics))
        if terminated or truncated:
            return {name: float(value) for name, value in info.items()}


def measured(
    run: Run,
    dynamics: Dynamics | Ranges | str,
    first_seed: int,
    episodes: int,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Mean of the task's metric with its 95 % interval, drops, and each episode's value, as JSON.

    `check` is called before each episode and may raise.
    """
    env = DynamicCubeEnv(dynamics)
    found = []
    for seed in range(first_seed, first_seed + episodes):
        check()
        found.append(run(env, seed))
    values = [info[TASK.metric] for info in found]
    drops = float(np.mean([info["dropped"] for info in found]))
    return {**dataclasses.asdict(bootstrap(values)), "drops": drops, "values": values}
