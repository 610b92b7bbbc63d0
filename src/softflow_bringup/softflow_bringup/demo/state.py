"""What a demo has finished, on disk, so that an interrupted one goes on."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softflow_bringup.demo.plan import Plan
from softflow_experiments.statistics import Estimate
from softflow_node.files import write_atomically


@dataclass
class DemoState:
    """Results by stage; written after each one."""

    path: Path
    plan: Plan
    seed: int
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    walls: dict[str, float] = field(default_factory=dict)
    """[s] by part, summed over interruptions."""
    finished: bool = False

    @classmethod
    def open(cls, path: Path, plan: Plan, seed: int) -> DemoState:
        """Read the state of an earlier run, or begin.

        Raises:
            ValueError: the earlier run had another plan or seed, or its file is damaged.
        """
        state = cls(path, plan, seed)
        if not path.exists():
            return state
        try:
            content = json.loads(path.read_text())
            found = (content["plan"], content["seed"])
            state.stages, state.walls = dict(content["stages"]), dict(content["walls"])
            state.finished = bool(content["finished"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged: {error}; choose another --run") from error
        if found != (dataclasses.asdict(plan), seed):
            raise ValueError(f"{path}: the run there has another plan or seed; choose another --run")
        return state

    def add_wall(self, part: str, seconds: float) -> None:
        """Count time spent on a part."""
        self.walls[part] = self.walls.get(part, 0.0) + seconds
        self.save()

    def add_stage(
        self, stage: str, metric: str, estimate: Estimate, success: float, robot_minutes: float
    ) -> None:
        """A stage is done."""
        self.stages[stage] = {
            "stage": stage,
            "metric": metric,
            "mean": estimate.mean,
            "ci95": [estimate.low, estimate.high],
            "n": estimate.n,
            "success": success,
            "robot_minutes": robot_minutes,
            "wall_s": self.walls.get(stage, 0.0),
        }
        self.save()

    def save(self) -> None:
        """Write the file."""
        content = {
            "plan": dataclasses.asdict(self.plan),
            "seed": self.seed,
            "stages": self.stages,
            "walls": self.walls,
            "finished": self.finished,
        }
        write_atomically(self.path, json.dumps(content, indent=1).encode())
