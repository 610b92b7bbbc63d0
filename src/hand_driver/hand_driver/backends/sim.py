"""The simulated hand (MuJoCo) behind the same verbs as a real one."""

from __future__ import annotations

import numpy as np

from hand_driver.device import Description, FloatArray, ObjectReading, Reading
from softflow_sim.cube_scene import CubeScene
from softflow_tasks import make_task, palmdown
from softflow_tasks.cube_rotation import CubeRotation

TORQUE_CONSTANT = 1.0
"""[N m/A] of the simulated motors."""
MAX_VELOCITY = 40.0
"""[rad/s] no-load speed of the simulated motors."""


class SimulatedHand:
    """Palm-down hand with a cube. Time passes only in `wait_period`."""

    def __init__(self, task_id: str) -> None:
        task = make_task(task_id)
        if not isinstance(task, CubeRotation):
            raise ValueError(f"task: {task_id!r} has no simulated scene")
        self._scene = CubeScene(task)
        joints = len(palmdown.JOINT_NAMES)
        self.description = Description(
            hand="palmdown4",
            backend="sim",
            joint_names=palmdown.JOINT_NAMES,
            lower=palmdown.JOINT_LOWER,
            upper=palmdown.JOINT_UPPER,
            max_velocity=np.full(joints, MAX_VELOCITY),
            action_names=task.action_names,
            control_rate=task.control_hz,
        )
        self._valid = np.ones(joints, dtype=np.bool_)

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        self._scene.close()

    def reset(self, seed: int) -> None:
        self._scene.reset(seed)

    def command(self, targets: FloatArray) -> FloatArray:
        return self._scene.set_targets(targets)

    def wait_period(self) -> float:
        before = self._scene.time
        self._scene.step_period()
        return self._scene.time - before

    def read(self) -> Reading:
        hand, obj = self._scene.hand(), self._scene.object()
        return Reading(
            position=hand.position,
            velocity=hand.velocity,
            current=self._scene.joint_torques() / TORQUE_CONSTANT,
            valid=self._valid,
            object=ObjectReading("cube", obj.position, obj.quaternion, obj.linear, obj.angular),
        )
