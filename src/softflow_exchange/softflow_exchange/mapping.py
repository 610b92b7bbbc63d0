"""A mapping: what of a foreign recording is an observation, an action, a reward, an episode (docs/exchange.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softflow_node.parameters import Validated, bounded
from softflow_tasks.task import Task

HEADER, RECEIVE, FRAMES = "header", "receive", "frames"
"""Stamp of a message's header, time of its reception, or (LeRobot) the number of the frame over fps."""
RESAMPLING = ("nearest", "linear", "hold", "rotation")
OBJECT_PARTS = {"position": 3, "quaternion": 4, "linear": 3, "angular": 3}
"""Parts of an object's sample and their sizes; the first two are needed, velocities can be worked out."""


LAST_ACTION = "last_action"
"""Name that stands for the action before, where a block of the state is mapped."""
SOURCES = ("teleop", "teacher", "policy")


class MappingError(ValueError):
    """The mapping file is wrong; the text names file, field, value and what is allowed."""


@dataclass(frozen=True)
class Input(Validated):
    """Numbers from one topic of a bag, or one feature of a LeRobot dataset."""

    topic: str = ""
    feature: str = ""
    field: tuple[str, ...] = ()
    """Paths in the message, one after another."""
    names: str = ""
    """Path of the names that go with the values."""
    order: tuple[str, ...] = ()
    """Names, in the order in which their values are wanted."""
    unit: tuple[str, ...] = ()
    """Of the source: one for all values, or one a value."""
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    """value * scale + offset, after the unit."""
    resample: str = bounded("nearest", choices=RESAMPLING)
    max_age: float = bounded(0.1, low=0.0, high=1e9, unit="s")
    time: str = bounded("", choices=("", HEADER, RECEIVE))
    shift: float = bounded(0.0, low=-60.0, high=60.0, unit="s")
    """What is wanted for time t is read at t + shift."""


@dataclass(frozen=True)
class ObjectSource(Validated):
    """Inputs of one object's pose and velocity."""

    position: str = ""
    quaternion: str = ""
    linear: str = ""
    angular: str = ""
    translation: tuple[float, ...] = (0.0, 0.0, 0.0)
    """[m] origin of the source's frame in the hand's base frame."""
    rotation: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)
    """Quaternion xyzw of the source's frame in the hand's base frame."""


@dataclass(frozen=True)
class Sensors:
    """The task works its state vector out of these; inputs by name."""

    position: str
    velocity: str
    command: str
    objects: dict[str, ObjectSource]


@dataclass(frozen=True)
class Episodes(Validated):
    """Where episodes begin and end."""

    by: str = bounded("bag", choices=("bag", "gap", "flag", "event"))
    input: str = ""
    start: str = ""
    stop: str = ""
    """event: values that begin and end one; without `stop` the next start ends it."""
    gap: float = bounded(1.0, low=0.0, high=1e6, unit="s")
    """gap: a silence of all state and action inputs that is longer ends an episode."""
    on_gap: str = bounded("cut", choices=("cut", "refuse"))
    """What becomes of an episode in which an input is missing for longer than its `max_age`."""
    min_steps: int = bounded(2, low=1, high=10**6, unit="steps")


@dataclass(frozen=True)
class Reward(Validated):
    """task: the task judges the observations; input: from the recording; sparse: `value` at the end of a success."""

    by: str = bounded("task", choices=("task", "input", "sparse"))
    input: str = ""
    take: str = bounded("value", choices=("value", "sum"))
    """input: the value in force at the end of the step, or the sum of the messages during it."""
    value: float = bounded(1.0, low=-1e6, high=1e6)


@dataclass(frozen=True)
class Success(Validated):
    """task: as the task says; input: a field that is above 0.5; always, never."""

    by: str = bounded("task", choices=("task", "input", "always", "never"))
    input: str = ""
    at: str = bounded("any", choices=("any", "last"))
    """input: at any time of the episode, or its last value."""


@dataclass(frozen=True)
class Mapping:
    """A whole mapping file, checked."""

    path: Path
    sha256: str
    task: Task
    source: str
    time: str
    inputs: dict[str, Input]
    vector: str
    blocks: dict[str, str]
    sensors: Sensors | None
    """One of `vector`, `blocks`, `sensors` makes the state."""
    action: str
    action_is: str
    """"normalised" in [-1, 1], or "joints": targets [rad, m]"""
    reward: Reward
    success: Success
    terminated: str
    """"task", "success", "never" or "always": whether the last step ends without a bootstrap."""
    episodes: Episodes

    def gridded(self) -> dict[str, int]:
        """Inputs that are resampled -> number of values that they must have."""
        task, joints = self.task, len(self.task.joint_names)
        sizes = {self.action: task.action_dim if self.action_is == "normalised" else joints}
        if self.vector:
            sizes[self.vector] = task.layout.size
        sizes |= {
            name: task.layout.slices()[block].stop - task.layout.slices()[block].start
            for block, name in self.blocks.items()
            if name != LAST_ACTION
        }
        if self.sensors is not None:
            hand = (self.sensors.position, self.sensors.velocity, self.sensors.command)
            sizes |= {name: joints for name in hand if name}
            for source in self.sensors.objects.values():
                sizes |= {getattr(source, p): n for p, n in OBJECT_PARTS.items() if getattr(source, p)}
        if self.reward.by == "input" and self.reward.take == "value":
            sizes[self.reward.input] = 1
        return sizes

    def state_inputs(self) -> tuple[str, ...]:
        """Inputs that the state is made of."""
        found = [self.vector, *(name for name in self.blocks.values() if name != LAST_ACTION)]
        if self.sensors is not None:
            found += [self.sensors.position, self.sensors.velocity, self.sensors.command]
            found += [getattr(o, part) for o in self.sensors.objects.values() for part in OBJECT_PARTS]
        return tuple(dict.fromkeys(name for name in found if name))

    def events(self) -> set[str]:
        """Inputs that are looked at message by message."""
        used = {self.episodes.input if self.episodes.by in ("flag", "event") else ""}
        used |= {self.success.input if self.success.by == "input" else ""}
        used |= {self.reward.input if self.reward.by == "input" and self.reward.take == "sum" else ""}
        return used - {""}

    def time_of(self, name: str) -> str:
        """Which stamp an input goes by."""
        return self.inputs[name].time or self.time
