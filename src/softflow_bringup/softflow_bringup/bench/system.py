"""What the benchmarks of the whole system share: a run of a tiny learner to begin with, short delays, the end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ament_index_python.packages import get_package_share_directory

from softflow_bringup.bench.ledger import waiting_items
from softflow_bringup.graph import GraphDescription
from softflow_bringup.respawn import RespawnLimits
from softflow_learner.session import Session
from softflow_tasks import make_task

TASK = "CubeRotation-v0"
TINY = {
    "couplings": 2,
    "width": 16,
    "critic_width": 16,
    "critic_layers": 1,
    "best_of": 1,
    "batch_size": 16,
    "holdout_every": 0,
}
"""Networks whose updates take next to nothing: it is the system that is looked at."""
ONLINE = "offline_fraction=0.0,online_min_steps=50,online_critic_only_steps=100,update_to_data=0.1,regulariser=none"
"""Settings of a learner without demonstrations, which leaves the processor to the rest."""
PATIENT = RespawnLimits(longest_delay=0.5, healthy_after=1.0, quick_failures=1000)
"""For nodes that are killed on purpose, again and again."""


def prepare_learner(
    run: Path, seed: int = 0, task_id: str = TASK, sizes: Mapping[str, Any] = TINY, spread: float = 0.0
) -> Path:
    """A run directory with a checkpoint of untrained networks; returns the policy's weights.

    `spread`: of noise on every weight; without it the policy is the same whatever it sees.
    """
    task = make_task(task_id)
    session = Session(run, task, seed, {**sizes, "offline_fraction": 0.0, "regulariser": "none"})
    rng = np.random.default_rng(seed)
    session.agent.fit_normalizer(rng.normal(size=(256, task.layout.size)).astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in session.agent.policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=spread)
    session.stage = "offline"
    path = session.finish_stage()
    session.close()
    return path.resolve()


def impatient(graph: GraphDescription, delay: float = 0.2) -> GraphDescription:
    """The graph with a short delay [s] before a node is started again, and no node before another: the learner,
    nice otherwise, would get no processor while others are being started all the time."""
    nodes = tuple(dataclasses.replace(node, respawn_delay=delay, nice=0) for node in graph.nodes)
    return dataclasses.replace(graph, nodes=nodes)


def message_definitions() -> Path:
    """Directory of the .msg files."""
    return Path(get_package_share_directory("softflow_msgs")) / "msg"


def spool_items(robot: Path) -> int:
    """Items of a robot's run directory that are not acknowledged."""
    return waiting_items(robot / "spool")


def closed_bags(robot: Path) -> int:
    """Bags of a robot's run directory that were closed."""
    return len(list((robot / "bags").glob("*/metadata.yaml")))


def until(condition: Callable[[], bool], seconds: float, wait: Callable[[float], None] = time.sleep) -> bool:
    """Wait for a condition; whether it came in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        wait(0.2)
    return True
