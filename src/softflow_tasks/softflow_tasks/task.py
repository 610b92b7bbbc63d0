"""What a task is.

A task sees only the observation vector and the applied action, so that the same reward is computed in the
Gymnasium environment, behind the driver node, and long afterwards from a recorded bag.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from softflow_tasks.hand import HandModel

FloatArray = NDArray[np.float64]
StateVector = NDArray[np.float32]


@dataclass(frozen=True)
class HandSample:
    """One reading of the hand.

    position [rad] (J,), velocity [rad/s] (J,), applied_action in [-1, 1] (A,), command (J,): the joint targets in
    force [rad]. Prismatic joints in m and m/s.
    """

    position: FloatArray
    velocity: FloatArray
    applied_action: FloatArray
    command: FloatArray


@dataclass(frozen=True)
class ObjectSample:
    """Pose and velocity of the object in the hand's base frame.

    position [m] (3,), quaternion xyzw (4,), linear [m/s] (3,), angular [rad/s] (3,).
    """

    position: FloatArray
    quaternion: FloatArray
    linear: FloatArray
    angular: FloatArray


Objects = Mapping[str, ObjectSample]
"""Samples by the names in `Task.objects`."""


@dataclass(frozen=True)
class Layout:
    """Names and sizes of the blocks of a state vector, in order."""

    task: str
    blocks: tuple[tuple[str, int, str], ...]
    """(name, size, unit and scale) of each block."""

    @property
    def size(self) -> int:
        """Number of values of the state vector, S."""
        return sum(size for _, size, _ in self.blocks)

    @cached_property
    def hash(self) -> str:
        """Sha256 (hex) of the layout; data and weights of another layout are refused."""
        text = json.dumps([self.task, [list(block) for block in self.blocks]], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def slices(self) -> dict[str, slice]:
        """Where each block lies."""
        result: dict[str, slice] = {}
        start = 0
        for name, size, _ in self.blocks:
            result[name] = slice(start, start + size)
            start += size
        return result


@dataclass(frozen=True)
class Outcome:
    """Result of one control step."""

    reward: float
    terminated: bool
    truncated: bool
    cause: str = ""
    """Why the episode ended; empty while it runs."""


@dataclass
class Progress:
    """What a task accumulates over an episode; made by `Task.begin`."""

    step: int = 0
    total: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


class Task(ABC):
    """A task. Implementations are stateless; `Progress` carries what an episode accumulates."""

    id: str
    layout: Layout
    action_names: tuple[str, ...]
    hand: HandModel
    objects: tuple[str, ...]
    """Names of the objects that the observation is made of."""
    control_hz: float
    """[Hz] control steps per second of robot time."""
    horizon: int
    """Control steps after which the episode is truncated."""
    metric: str
    """Name of the figure that reports and tables show."""
    metric_label: str
    """The metric as people read it."""
    success_cause: str = ""
    """Cause of the outcome with which a success terminates; empty where a success does not."""

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_names)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the J joints."""
        return self.hand.joint_names

    @abstractmethod
    def rest_action(self) -> FloatArray:
        """The action (A,) at which an episode starts."""

    @abstractmethod
    def action_to_joints(self, action: FloatArray, command: FloatArray) -> FloatArray:
        """Joint targets (J,) [rad, m] of an action (A,) in [-1, 1]; `command` (J,) are the targets in force.

        An action that is a velocity moves the targets in force on by one control period.
        """

    def joints_to_action(self, joints: FloatArray, command: FloatArray) -> FloatArray:
        """The action (A,) whose targets are nearest to `joints` (J,) [rad, m]; not clipped to [-1, 1].

        The inverse of `action_to_joints`, for targets that others recorded. Least squares: exact where the targets
        can be reached and are affine in the action. A task whose targets are not has to override it.
        """
        at_zero = self.action_to_joints(np.zeros(self.action_dim), command)
        columns = [self.action_to_joints(unit, command) - at_zero for unit in np.eye(self.action_dim)]
        solution = np.linalg.lstsq(np.stack(columns, axis=1), joints - at_zero, rcond=None)[0]
        return solution.astype(np.float64)

    def held_action(self, action: FloatArray) -> FloatArray:
        """The action (A,) that was applied while the targets of `action` stayed in force for one more step."""
        return action

    @abstractmethod
    def observe(self, hand: HandSample, objects: Objects) -> StateVector:
        """The state vector (S,), float32; the same whether joint readings come as float64 or as float32."""

    @abstractmethod
    def advance(self, progress: Progress, state: StateVector, next_state: StateVector) -> Outcome:
        """Judge the transition state -> next_state and update `progress`."""

    @abstractmethod
    def metrics(self, progress: Progress) -> dict[str, float]:
        """Figures of the episode so far; holds `self.metric`."""

    @abstractmethod
    def success(self, progress: Progress) -> bool:
        """Whether the episode counts as a success."""

    def begin(self) -> Progress:
        """Progress of a new episode."""
        return Progress()

    def check_state(self, state: StateVector) -> None:
        """Raise ValueError that names the field when a state vector does not fit the layout."""
        if state.shape != (self.layout.size,):
            raise ValueError(
                f"state has shape {state.shape}, the layout of {self.id} needs ({self.layout.size},)"
            )
        if not np.isfinite(state).all():
            index = int(np.flatnonzero(~np.isfinite(state))[0])
            name = next(n for n, s in self.layout.slices().items() if s.start <= index < s.stop)
            raise ValueError(f"state[{index}] ({name}) is {state[index]}, must be finite")


_REGISTRY: dict[str, Callable[..., Task]] = {}


def register(task_id: str, factory: Callable[..., Task]) -> None:
    """Make a task known under an id. Raises ValueError if the id is taken."""
    if task_id in _REGISTRY:
        raise ValueError(f"task id {task_id!r} is taken")
    _REGISTRY[task_id] = factory


def task_ids() -> tuple[str, ...]:
    """Ids that `make_task` knows."""
    return tuple(sorted(_REGISTRY))


def make_task(task_id: str, options: Mapping[str, float] | None = None) -> Task:
    """Make a task by id. Raises ValueError that lists the known ids."""
    if task_id not in _REGISTRY:
        raise ValueError(f"task: {task_id!r} is unknown; known: {', '.join(task_ids())}")
    return _REGISTRY[task_id](**(options or {}))
