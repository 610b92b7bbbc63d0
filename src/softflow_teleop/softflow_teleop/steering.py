"""From joint targets of a human to actions of a task, no faster than the hand may go."""

from __future__ import annotations

import numpy as np

from softflow_tasks.task import Task
from softflow_teleop.joints import FloatArray, HandLimits

ROUNDING = 1.0 - 1e-6
"""Share of a limit that is used: actions travel as float32."""


class Steering:
    """Plans the next actions towards a human's targets, from the joint targets in force.

    A step moves each joint by no more than `speed` ranges a second and its own limit allow, so that taking the hand is
    as smooth as moving it.
    """

    def __init__(self, task: Task, limits: HandLimits, speed: float, horizon: int) -> None:
        """`speed` [ranges/s]. Raises ValueError when the hand's joints are not the task's."""
        if limits.names != task.joint_names:
            raise ValueError(f"the hand has joints {limits.names}, the task {task.id} has {task.joint_names}")
        self.task, self.limits, self.horizon = task, limits, horizon
        self.bound = ROUNDING * np.minimum(speed * limits.range, limits.max_velocity) / task.control_hz
        """(J,) [rad, m] at most in a step"""
        self.expected: FloatArray | None = None
        """(J,) targets at the end of what was planned"""

    def start(self) -> None:
        """Forget what was planned: somebody else has moved the hand."""
        self.expected = None

    def plan(self, targets: FloatArray, command: FloatArray, queued: int) -> FloatArray:
        """Actions (h, A), float64.

        Args:
            targets: (J,) where the human wants the joints.
            command: (J,) joint targets in force.
            queued: steps of the plan before that are still to be played.
        """
        now = command
        if queued and self.expected is not None:
            # Where the hand was slower than planned, it is not asked for more and more.
            reach = (queued + self.horizon) * self.bound
            now = np.clip(self.expected, command - reach, command + reach)
        actions = []
        for _ in range(self.horizon):
            action, now = self._step(targets, now)
            actions.append(action)
        self.expected = now
        return np.stack(actions)

    def _step(self, targets: FloatArray, command: FloatArray) -> tuple[FloatArray, FloatArray]:
        """An action (A,), and the joint targets (J,) that it leads to."""
        task = self.task
        wanted = command + np.clip(targets - command, -self.bound, self.bound)
        action = np.clip(task.joints_to_action(wanted, command), -1.0, 1.0)
        reached = task.action_to_joints(action, command)
        # The nearest action moves other joints along with the wanted ones, and may ask for more of them.
        excess = float((np.abs(reached - command) / self.bound).max())
        if excess > 1.0:
            wanted = command + (reached - command) / excess
            action = np.clip(task.joints_to_action(wanted, command), -1.0, 1.0)
            reached = task.action_to_joints(action, command)
        return action, reached
