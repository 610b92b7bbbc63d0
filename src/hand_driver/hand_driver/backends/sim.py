"""The simulated hand (MuJoCo) behind the same verbs as a real one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hand_driver.backends import HandMismatchError
from hand_driver.device import FloatArray, ObjectReading, Reading
from hand_driver.hand_spec import HandSpec
from softflow_sim.catalogue import make_scene
from softflow_tasks import Task

TORQUE_CONSTANT = 1.0
"""[N m/A] of the simulated motors; of prismatic joints [N/A]."""


def make(spec: HandSpec, task: Task | None) -> SimulatedHand:
    """Raises HandMismatchError without a task: a scene belongs to one."""
    if task is None:
        raise HandMismatchError(f"{spec.name}: the back end sim needs a task, whose scene it simulates")
    return SimulatedHand(spec, task)


class SimulatedHand:
    """The scene of a task. Time passes only in `wait_period`."""

    def __init__(self, spec: HandSpec, task: Task) -> None:
        self._task_id = task.id
        self._scene = make_scene(task.id)
        self._closed = False
        self.description = spec.description("sim", task.action_names, task.control_hz)
        self._valid = np.ones(len(task.joint_names), dtype=np.bool_)
        self._temperature = np.full(len(task.joint_names), np.nan)

    def connect(self) -> None:
        if self._closed:
            self._scene, self._closed = make_scene(self._task_id), False

    def disconnect(self) -> None:
        self._scene.close()
        self._closed = True

    def recover(self) -> NDArray[np.bool_]:
        return ~self._valid

    def reset(self, seed: int) -> FloatArray:
        return self._scene.reset(seed)

    def set_stiffness(self, stiffness: FloatArray) -> None:
        """The simulated servos have one stiffness, whatever is asked for."""

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        return self._scene.set_targets(targets)

    def wait_period(self) -> float:
        before = self._scene.time
        self._scene.step_period()
        return self._scene.time - before

    def read(self) -> Reading:
        hand = self._scene.hand()
        return Reading(
            position=hand.position,
            velocity=hand.velocity,
            current=self._scene.joint_torques() / TORQUE_CONSTANT,
            temperature=self._temperature,
            valid=self._valid,
            objects=tuple(
                ObjectReading(name, o.position, o.quaternion, o.linear, o.angular)
                for name, o in self._scene.objects().items()
            ),
        )
