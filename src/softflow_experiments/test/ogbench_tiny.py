"""A little play data and a cell small enough for a test."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

from softflow_experiments.ogbench import cell as cells
from softflow_experiments.ogbench import data
from softflow_experiments.ogbench.cell import Cell, CellRun
from softflow_experiments.ogbench.environment import play_environment, task_environment

SETTINGS = (
    ("width", 16),
    ("couplings", 2),
    ("critic_width", 16),
    ("critic_layers", 1),
    ("batch_size", 16),
    ("best_of", 2),
    ("update_to_data", 1.0),
    ("online_min_steps", 80),
    ("online_critic_only_steps", 100),
)


# Two seconds each to build, and no episode depends on the one before: a test says so.
task_env = functools.cache(task_environment)
play_env = functools.cache(play_environment)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two trajectories of 60 steps, episodes of 40; environments are built once."""

    def generate(name: str, seed: int, shard: int, env: Any) -> data.Play:
        return original(name, seed, shard, env, episodes=2, steps=60)

    def shortened(name: str, task: int) -> Any:
        env = task_env(name, task)
        monkeypatch.setattr(env.env, "_max_episode_steps", 40)
        return env

    original = data.generate
    monkeypatch.setattr(data, "generate", generate)
    monkeypatch.setattr(data, "play_environment", play_env)
    monkeypatch.setattr(cells, "task_environment", shortened)


def cell(**changes: Any) -> Cell:
    tiny = Cell("puzzle-3x3", 4, 0, updates=12, evaluation_episodes=1, curve_episodes=1, settings=SETTINGS)
    return dataclasses.replace(tiny, **{"transitions": 1, **changes})


def run(directory: Path, play: Path, planned: Cell | None = None, **options: Any) -> dict[str, Any]:
    """Checkpoints every 5 updates, a point of the curve every 10."""
    usual = {"save_every": 5, "curve_every": 10, "log": lambda _: None}
    return CellRun(planned or cell(), directory, play, **usual | options).run()
