"""What is learned in the comparison of methods: the tasks, their demonstrations, budgets and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from softflow_sim.catalogue import make_scene, make_teacher
from softflow_sim.demonstrations import Demonstration, collect
from softflow_sim.dynamics import CALIBRATED, DynamicCubeScene, Dynamics
from softflow_sim.task_env import TaskEnv


@dataclass(frozen=True)
class BenchTask:
    """A task of the comparison. Its settings hold for every method."""

    name: str
    id: str
    """of the task, see `softflow_tasks`."""
    demonstrations: int
    """Attempts of the scripted teacher."""
    teacher_noise: float
    robot_minutes: float
    """[min] of online experience, robot time."""
    metrics: Mapping[str, str]
    """Key of `info` -> heading; the first one is the figure that tables and curves show."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `PolicySpec` and `Config`."""
    successful_only: bool = False
    """Imitate only the attempts that succeeded; what failed is the critic's."""
    dynamics: Dynamics | None = None
    """Another hand than the nominal one, for teacher and learner alike (the cube's scene only)."""

    @property
    def metric(self) -> str:
        """The first metric's key."""
        return next(iter(self.metrics))

    def make_env(self) -> TaskEnv:
        """A fresh environment, the same scene as behind the driver."""
        return TaskEnv(make_scene(self.id) if self.dynamics is None else DynamicCubeScene(self.dynamics))

    def demonstrate(self, seed: int) -> tuple[list[Demonstration], list[Demonstration], dict[str, float]]:
        """Demonstrations to imitate, others, and the teacher's own mean metrics over all attempts."""
        teacher: Callable[[int], Any] = lambda s: make_teacher(self.id, s, self.teacher_noise)  # noqa: E731
        found = collect(self.make_env(), teacher, self.demonstrations, first_seed=1000 * seed)
        rates = {name: found.rate(name) for name in self.metrics}
        imitated = found.successful if self.successful_only else found.attempts
        return imitated, found.failed if self.successful_only else [], rates


CUBE = BenchTask(
    name="cube",
    id="CubeRotation-v0",
    demonstrations=60,
    teacher_noise=0.02,
    robot_minutes=30.0,
    metrics={"rotations_per_minute": "rotations/min", "dropped": "drops"},
    # Chosen on seed 10, which is no seed of the comparison.
    settings={"update_to_data": 2.5, "beta_final": 0.25, "target_tau": 0.005, "best_of": 8},
)
TASKS = {
    task.name: task
    for task in (
        CUBE,
        # Does what wins on a hand that obeys at once and exactly also win on one that does not?
        replace(CUBE, name="cube_late", dynamics=CALIBRATED),
        BenchTask(
            name="tool",
            id="ToolCut-v0",
            demonstrations=150,
            teacher_noise=0.02,
            robot_minutes=60.0,
            metrics={"cut": "cut", "grasped": "grasped"},
            # The reward is sparse: a policy that leaves the data early finds none. Chosen on seed 10.
            settings={
                "offline_updates": 3000,
                "beta": 3.5,
                "beta_final": 1.0,
                "update_to_data": 1.0,
                "best_of": 8,
            },
            successful_only=True,
        ),
    )
}
"""Task name -> what it is."""
