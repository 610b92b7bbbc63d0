"""Movements that the driver makes by itself: along a trajectory, to a pose. Plain Python; time is the robot's.

A movement says what it wants in each control period; whether it gets that is up to the safety core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec
from hand_driver.safety import Refusal
from hand_driver.trajectory import Trajectory

OWN = "driver"
"""Holder of the movements that an action or the driver itself asks for."""
TRAJECTORY = "trajectory"
"""Holder of a trajectory that came as a message."""
ARRIVED = 1e-6
"""[rad] from where a movement goes to."""
STALLED = 5.0
"""[s] in which joint targets do not come nearer: something keeps them away, such as a pair of fingers or heat."""
LAG = 1.0
"""[s] that a trajectory gets to arrive when it asks for more than the hand's speed limits."""


@dataclass(frozen=True)
class Moment:
    """What a movement may know when it says what it wants."""

    time: float
    """[s] robot clock, of the reading"""
    command: FloatArray
    """[rad, m] (J,) targets in force"""
    reading: Reading


class Movement(Protocol):
    """Joint targets, control period by control period."""

    @property
    def holder(self) -> str:
        """Of the lease on the hand."""

    @property
    def slow(self) -> bool:
        """Whether it is made at the safe speed."""

    @property
    def joint(self) -> str:
        """The joint that is being moved, where it is one."""

    @property
    def progress(self) -> float:
        """0..1"""

    def targets(self, moment: Moment) -> FloatArray | None:
        """Joint targets (J,) [rad, m] for this period; None when it is over. Raises Refusal when it has failed."""


@dataclass
class Run:
    """A movement that was begun, and how it ended."""

    movement: Movement
    over: bool = False
    failure: str = ""
    """Why it ended before its end; empty when it came there."""


class Reach:
    """A straight way to a pose (J,); raises Refusal when it does not come nearer."""

    def __init__(self, goal: FloatArray, spec: HandSpec) -> None:
        self.goal, self._spec = goal, spec
        self.progress = 0.0
        self._far = self._nearest = np.inf
        self._nearer_at = 0.0

    def targets(self, moment: Moment) -> FloatArray | None:
        """None once the targets are there."""
        way = self.goal - moment.command
        far = float(np.abs(way).max())
        if far <= ARRIVED:
            self.progress = 1.0
            return None
        if far < self._nearest - ARRIVED:
            self._nearest, self._nearer_at = far, moment.time
        elif moment.time - self._nearer_at > STALLED:
            i = int(np.argmax(np.abs(way)))
            raise Refusal(
                f"{self._spec.joint_names[i]} stays at {moment.command[i]:.3f}, {far:.3f} from {self.goal[i]:.3f}, "
                f"for more than {STALLED} s"
            )
        self._far = far if np.isinf(self._far) else max(far, self._far)
        self.progress = 1.0 - far / self._far
        reach = self._spec.safety.max_jump
        return moment.command + np.clip(way, -reach, reach)


class Home:
    """To the neutral pose."""

    holder, slow, joint = OWN, True, ""

    def __init__(self, spec: HandSpec) -> None:
        self._way = Reach(spec.values("neutral"), spec)

    @property
    def progress(self) -> float:
        return self._way.progress

    def targets(self, moment: Moment) -> FloatArray | None:
        return self._way.targets(moment)


class Follow:
    """A trajectory that begins at `start` [s] on the robot clock, or where that is past already, now.

    Joints that are not in it keep their targets.
    """

    holder, slow, joint = TRAJECTORY, False, ""

    def __init__(self, trajectory: Trajectory, start: float, period: float) -> None:
        self._trajectory, self._start, self._period = trajectory, start, period
        self._begin: tuple[float, FloatArray] | None = None
        self.progress = 0.0

    def targets(self, moment: Moment) -> FloatArray | None:
        if self._begin is None:
            self._begin = max(moment.time - self._start, 0.0), np.array(moment.command)
        begin, pose = self._begin
        t, joints = self._trajectory, self._trajectory.joints
        since = moment.time - self._start
        self.progress = float(np.clip(since / max(t.end, 1e-9), 0.0, 1.0))
        arrived = np.abs(moment.command[joints] - t.positions[-1]).max() <= ARRIVED
        if since >= t.end and (arrived or since >= t.end + LAG):
            return None
        targets = np.array(pose)
        targets[joints] = t.sample(since + self._period, begin, pose[joints])
        return targets


def reach_within(spec: HandSpec, joint: int, share: float) -> float:
    """The angle [rad] of a joint at this share of its range from neutral, towards its upper limit; below 0, the lower.

    The other joints are neutral; a pair of fingers that would touch ends the way.
    """
    neutral, j = spec.values("neutral"), spec.joints[joint]
    way = share * (j.upper - j.neutral if share > 0 else j.neutral - j.lower)
    for row, bound in zip(*spec.pair_matrix, strict=True):
        if row[joint] * way > 0:
            slack = max(bound - float(row @ neutral), 0.0)
            way = np.sign(way) * min(abs(way), slack / abs(row[joint]))
    return float(j.neutral + way)


def joints_named(names: Sequence[str], spec: HandSpec) -> list[int]:
    """Indices of these joints, of all where none is named. Raises Refusal."""
    for i, name in enumerate(names):
        if name not in spec.joint_names:
            raise Refusal(f"joints[{i}] is {name!r}, must be one of {', '.join(spec.joint_names)}")
    return [spec.joint_names.index(name) for name in names or spec.joint_names]
