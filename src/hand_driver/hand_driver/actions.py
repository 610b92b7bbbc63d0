"""What the actions of a chunk mean to the joints of a hand. Plain Python."""

from __future__ import annotations

from typing import Protocol

from hand_driver.device import FloatArray
from hand_driver.hand_spec import HandSpec


class ActionMap(Protocol):
    """What an action (A,) in [-1, 1] means to the joints; a `Task` is one, `JointActions` another."""

    def rest_action(self) -> FloatArray:
        """The action (A,) in force at the start of an episode."""

    def held_action(self, action: FloatArray) -> FloatArray:
        """The action (A,) that keeps the joint targets which `action` led to."""

    def action_to_joints(self, action: FloatArray, command: FloatArray) -> FloatArray:
        """Joint targets (J,) of an action when `command` (J,) is in force."""


class JointActions:
    """One action a joint: -1 is its lower limit, +1 its upper. For hands without a task of their own."""

    def __init__(self, spec: HandSpec) -> None:
        self._lower, self._upper = spec.values("lower"), spec.values("upper")
        self._neutral = spec.values("neutral")

    def rest_action(self) -> FloatArray:
        return self.joints_to_action(self._neutral)

    def held_action(self, action: FloatArray) -> FloatArray:
        return action

    def action_to_joints(self, action: FloatArray, command: FloatArray) -> FloatArray:
        return self._lower + (action + 1.0) / 2.0 * (self._upper - self._lower)

    def joints_to_action(self, joints: FloatArray) -> FloatArray:
        """The action (A,) that asks for joint targets (J,)."""
        return (joints - self._lower) / (self._upper - self._lower) * 2.0 - 1.0
