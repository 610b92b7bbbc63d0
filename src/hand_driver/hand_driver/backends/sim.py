"""The simulated hand (MuJoCo) behind the same verbs as a real one."""

from __future__ import annotations

import numpy as np

from hand_driver.device import Description, FloatArray, ObjectReading, Reading
from softflow_sim.catalogue import make_scene

TORQUE_CONSTANT = 1.0
"""[N m/A] of the simulated motors; of prismatic joints [N/A]."""


class SimulatedHand:
    """The scene of a task. Time passes only in `wait_period`."""

    def __init__(self, task_id: str) -> None:
        self._scene = make_scene(task_id)
        task = self._scene.task
        self.description = Description(
            hand=task.hand.name,
            backend="sim",
            joint_names=task.hand.joint_names,
            lower=task.hand.lower,
            upper=task.hand.upper,
            max_velocity=task.hand.max_velocity,
            action_names=task.action_names,
            control_rate=task.control_hz,
        )
        self._valid = np.ones(len(task.joint_names), dtype=np.bool_)

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        self._scene.close()

    def reset(self, seed: int) -> FloatArray:
        return self._scene.reset(seed)

    def command(self, targets: FloatArray) -> FloatArray:
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
            valid=self._valid,
            objects=tuple(
                ObjectReading(name, o.position, o.quaternion, o.linear, o.angular)
                for name, o in self._scene.objects().items()
            ),
        )
