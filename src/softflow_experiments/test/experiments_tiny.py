"""A cell of the comparison that takes about two seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from softflow_experiments.tasks import TASKS
from softflow_experiments.trial import Cell, Trial

SETTINGS = (
    ("width", 16),
    ("couplings", 2),
    ("critic_width", 16),
    ("critic_layers", 1),
    ("batch_size", 16),
    ("imitation_updates", 8),
    ("warmup_min_updates", 4),
    ("warmup_max_updates", 8),
    ("warmup_check_every", 4),
    ("offline_updates", 6),
    ("online_min_steps", 50),
    ("online_critic_only_steps", 100),
    ("update_to_data", 0.3),
    ("holdout_every", 2),
)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the task "tiny" known: the cube with two demonstrations and 0.4 robot minutes online."""
    task = dataclasses.replace(
        TASKS["cube"], name="tiny", demonstrations=2, robot_minutes=0.4, settings=dict(SETTINGS)
    )
    monkeypatch.setitem(TASKS, "tiny", task)


def cell(method: str = "softflow", seed: int = 0) -> Cell:
    return Cell("tiny", method, seed, evaluation_episodes=1)


def run(directory: Path, planned: Cell | None = None, **options: Any) -> dict[str, Any]:
    return Trial(planned or cell(), directory, log=lambda _: None, **options).run()
