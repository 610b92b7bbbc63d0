"""State vectors and actions of a part of a recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softflow_exchange import rotations
from softflow_exchange.borders import Part
from softflow_exchange.mapping import LAST_ACTION, Mapping, ObjectSource, Sensors
from softflow_exchange.series import FloatArray
from softflow_tasks.task import HandSample, ObjectSample, Task

UNIT_NORM = 0.01
"""By which a quaternion's norm may differ from 1."""


@dataclass(frozen=True)
class Clipping:
    """What did not fit into the task's range of actions."""

    values: int = 0
    """Values of actions outside of [-1, 1]"""
    worst: float = 0.0
    """Largest excess over 1"""
    residual: float = 0.0
    """[rad, m] largest distance of a joint target from the one that the action gives"""

    def __add__(self, other: Clipping) -> Clipping:
        return Clipping(
            self.values + other.values, max(self.worst, other.worst), max(self.residual, other.residual)
        )


def make_states(part: Part, mapping: Mapping) -> tuple[NDArray[np.float32], NDArray[np.float32], Clipping]:
    """States (n+1, S), actions (n, A) in [-1, 1], and what was clipped.

    Raises:
        ValueError: a state does not fit the layout, or a quaternion is none.
    """
    task = mapping.task
    wanted = part.inputs[mapping.action][:-1]
    before, actions, commands, clipping = _actions(part, mapping, wanted)
    applied = np.concatenate([before[None], actions])
    if mapping.vector:
        states = part.inputs[mapping.vector]
    elif mapping.sensors is not None:
        states = _observed(part, mapping.sensors, task, applied, commands)
    else:
        inputs = {**part.inputs, LAST_ACTION: applied}
        states = np.concatenate([inputs[mapping.blocks[name]] for name, _, _ in task.layout.blocks], axis=1)
    states32 = states.astype(np.float32)
    for state in states32:
        task.check_state(state)
    return states32, actions.astype(np.float32), clipping


def _actions(
    part: Part, mapping: Mapping, wanted: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, Clipping]:
    """The action before the first, actions (n, A), joint targets in force at each time (n+1, J), clipping.

    Targets are followed through the task's own mapping: what a clipped action leaves over, the next one makes up for.
    """
    task, targets = mapping.task, mapping.action_is == "joints"
    command = _first_command(part, mapping, wanted)
    before = task.rest_action()
    if targets:
        before = np.clip(task.joints_to_action(command, command), -1.0, 1.0)
    actions, commands = np.empty((len(wanted), task.action_dim)), [command]
    clipping = Clipping()
    for i, row in enumerate(wanted):
        action = task.joints_to_action(row, command) if targets else row
        actions[i] = np.clip(action, -1.0, 1.0)
        command = task.action_to_joints(actions[i], command)
        excess = np.abs(action) - 1.0
        residual = float(np.abs(command - row).max()) if targets else 0.0
        clipping += Clipping(int((excess > 1e-6).sum()), max(float(excess.max()), 0.0), residual)
        commands.append(command)
    return before, actions, np.stack(commands), clipping


def _first_command(part: Part, mapping: Mapping, wanted: FloatArray) -> FloatArray:
    """Joint targets in force when the part begins: recorded, else the measured position, else the first target."""
    sensors = mapping.sensors
    if sensors is not None:
        return part.inputs[sensors.command or sensors.position][0]
    if mapping.action_is == "joints":
        return wanted[0]
    # Targets that are an offset to those in force matter only to what `sensors` makes of them.
    return mapping.task.action_to_joints(mapping.task.rest_action(), np.zeros(len(mapping.task.joint_names)))


def _observed(
    part: Part, sensors: Sensors, task: Task, applied: FloatArray, commands: FloatArray
) -> FloatArray:
    """What the task observes at each time (n+1, S)."""
    period = 1.0 / task.control_hz
    position = part.inputs[sensors.position]
    velocity = part.inputs[sensors.velocity] if sensors.velocity else np.gradient(position, period, axis=0)
    if sensors.command:
        commands = part.inputs[sensors.command]
    objects = {name: _object(part, source, period) for name, source in sensors.objects.items()}
    states = [
        task.observe(
            HandSample(position[i], velocity[i], applied[i], commands[i]),
            {name: ObjectSample(*(rows[i] for rows in columns)) for name, columns in objects.items()},
        )
        for i in range(len(position))
    ]
    return np.stack(states).astype(np.float64)


def _object(part: Part, source: ObjectSource, period: float) -> tuple[FloatArray, ...]:
    """Position, quaternion, linear and angular velocity in the hand's base frame, (n+1, ...) each."""
    raw = part.inputs[source.quaternion]
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    if np.abs(norms - 1.0).max() > UNIT_NORM:
        worst = float(norms[np.abs(norms - 1.0).argmax(), 0])
        raise ValueError(
            f"input {source.quaternion!r}: norm of a quaternion is {worst:.4g}, must be 1 +- {UNIT_NORM}"
        )
    frame = np.array(source.rotation)
    quaternion = rotations.multiply(frame, raw / norms)
    position = rotations.rotate(frame, part.inputs[source.position]) + np.array(source.translation)
    linear = np.gradient(position, period, axis=0)
    if source.linear:
        linear = rotations.rotate(frame, part.inputs[source.linear])
    angular = rotations.angular_velocity(quaternion, period)
    if source.angular:
        angular = rotations.rotate(frame, part.inputs[source.angular])
    return position, quaternion, linear, angular
