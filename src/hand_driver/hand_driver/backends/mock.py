"""A hand in memory: first-order joints, and every fault that a real one may have. For tests, benches and dry runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec
from softflow_tasks import Task

TIME_CONSTANT = 0.04
"""[s] in which a joint goes 63 % of the way to its target."""
AMBIENT = 30.0
"""[degC]"""


@dataclass
class MockWorld:
    """What outlives a driver: the joints, and what their motors were told. Faults are set here, by joint index."""

    position: FloatArray
    target: FloatArray
    temperature: FloatArray
    velocity: FloatArray
    torque: NDArray[np.bool_]
    unplugged: bool = False
    deaf: bool = False
    """Writes fail, reads do not."""
    silent: set[int] = field(default_factory=set)
    frozen: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    blocked: dict[int, float] = field(default_factory=dict)
    """Joints that an object keeps from going beyond an angle [rad]."""
    extra_current: dict[int, float] = field(default_factory=dict)
    """[A]"""
    alarms: dict[int, str] = field(default_factory=dict)
    age: float = 0.0
    """[s] of what is read"""

    @classmethod
    def at(cls, pose: FloatArray) -> MockWorld:
        """At rest in a pose (J,), without torque."""
        zero = np.zeros_like(pose)
        limp = np.zeros(pose.shape, dtype=np.bool_)
        return cls(pose.copy(), pose.copy(), np.full_like(pose, AMBIENT), zero, limp)


def make(spec: HandSpec, task: Task | None) -> MockHand:
    return MockHand(spec, task)


class MockHand:
    """Behind the same verbs as a real hand. Time passes only in `wait_period`."""

    def __init__(self, spec: HandSpec, task: Task | None = None, world: MockWorld | None = None) -> None:
        self.world = world or MockWorld.at(spec.values("neutral"))
        self._spec = spec
        names = task.action_names if task is not None else spec.joint_names
        self.description = spec.description("mock", names, spec.control_rate)
        self._share = 1.0 - np.exp(-spec.period / TIME_CONSTANT)
        self._rng = np.random.default_rng(0)
        self._last: Reading | None = None
        self.stiffness = np.ones(len(spec.joints))
        """That arrived last, (J,)."""

    def connect(self) -> None:
        self._reach()
        w = self.world
        # A motor that still holds something goes on doing so; a limp one is held where it is.
        w.target = np.where(w.torque, w.target, w.position)
        w.torque[:] = True

    def disconnect(self) -> None:
        """The joints keep torque and target, and what they hold."""

    def reset(self, seed: int) -> None:
        return None

    def _reach(self) -> None:
        if self.world.unplugged:
            raise OSError("mock: the bus is unplugged")

    def set_stiffness(self, stiffness: FloatArray) -> None:
        self._reach()
        if self.world.deaf:
            raise OSError("mock: the write was not taken")
        self.stiffness = stiffness.copy()

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        self.set_stiffness(stiffness)
        heard = np.ones(len(targets), dtype=np.bool_)
        heard[list(self.world.silent)] = False
        self.world.target = np.where(heard, targets, self.world.target)
        return targets

    def wait_period(self) -> float:
        w = self.world
        before = w.position
        after = before + np.where(w.torque, self._share * (w.target - before), 0.0)
        for index, limit in w.blocked.items():
            after[index] = min(after[index], max(limit, before[index]))
        w.position, w.velocity = after, (after - before) / self._spec.period
        return self._spec.period

    def read(self) -> Reading:
        self._reach()
        w = self.world
        # An encoder never rests to the last bit.
        noise = self._rng.normal(0.0, 1e-6, w.position.shape)
        current = 0.05 * np.abs(w.target - w.position) + 1e-3
        for index, extra in w.extra_current.items():
            current[index] += extra
        state = np.stack([w.position + noise, w.velocity, current])
        for index, values in w.frozen.items():
            state[:, index] = values
        valid = np.ones(len(w.position), dtype=np.bool_)
        valid[list(w.silent)] = False
        if self._last is not None:
            before = np.stack([self._last.position, self._last.velocity, self._last.current])
            state = np.where(valid, state, before)
        names = self._spec.joint_names
        position, velocity, current = state
        self._last = Reading(
            position,
            velocity,
            current,
            temperature=np.where(valid, w.temperature, np.nan),
            valid=valid,
            faults=tuple(f"{names[i]} reports {text}" for i, text in sorted(w.alarms.items())),
            age=w.age,
        )
        return self._last

    def freeze(self, index: int) -> None:
        """From now on the encoder of a joint says what it says now."""
        last = self.read()
        self.world.frozen[index] = (last.position[index], last.velocity[index], last.current[index])

    def recover(self) -> NDArray[np.bool_]:
        self._reach()
        w = self.world
        limp = ~w.torque
        w.target = np.where(limp, w.position, w.target)
        w.torque = np.ones_like(w.torque)
        return limp
