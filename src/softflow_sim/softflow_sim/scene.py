"""What every simulated scene shares: a hand with J joints, objects, and control periods of physics steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

from softflow_sim.hand_model import TIMESTEP
from softflow_tasks.task import FloatArray, HandSample, Objects, ObjectSample, Task


class Scene(ABC):
    """Steps the physics. One `advance` is one control period. Used by the environment and by the driver.

    The model's first J degrees of freedom are the hand's joints, its actuators their position servos.
    """

    def __init__(self, task: Task, mjcf: str, files: Mapping[str, bytes] | None = None) -> None:
        """`files`: contents of the files that the MJCF names."""
        self.task = task
        self.model = mujoco.MjModel.from_xml_string(mjcf, dict(files or {}))
        self.data = mujoco.MjData(self.model)
        self.substeps = round(1.0 / self.task.control_hz / TIMESTEP)
        self._joints = len(task.joint_names)
        self._bodies = {name: self.model.body(name).id for name in task.objects}
        self._applied = self.task.rest_action()
        self._renderer: mujoco.Renderer | None = None
        self.reset(0)

    def reset(self, seed: int) -> FloatArray:
        """Put hand and objects into the start state that belongs to `seed`; equal seeds give equal states, bitwise.

        Returns the joint targets (J,) [rad, m] that are then in force.
        """
        mujoco.mj_resetData(self.model, self.data)
        self._applied = self.task.rest_action()
        self._place(np.random.default_rng(seed))
        return self.joint_targets()

    @abstractmethod
    def _place(self, rng: np.random.Generator) -> None:
        """Set positions and targets of a start state, and let it settle."""

    def advance(self, action: FloatArray) -> FloatArray:
        """Apply an action (A,) for one control period; returns it as applied, clipped to [-1, 1]."""
        self._applied = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self.set_targets(self.task.action_to_joints(self._applied, self.data.ctrl))
        self.step_period()
        return self._applied

    def set_targets(self, targets: FloatArray) -> FloatArray:
        """Set joint targets (J,) [rad, m]; returns them."""
        self.data.ctrl[:] = targets
        return targets

    def step_period(self) -> None:
        """Step the physics for one control period."""
        mujoco.mj_step(self.model, self.data, self.substeps)

    @property
    def time(self) -> float:
        """[s] simulation time since the reset."""
        return float(self.data.time)

    def joint_targets(self) -> FloatArray:
        """Joint targets (J,) [rad, m] that are in force."""
        return np.array(self.data.ctrl)

    def joint_torques(self) -> FloatArray:
        """Actuator torques (J,) [N m], prismatic joints [N]."""
        return np.array(self.data.actuator_force)

    def hand(self) -> HandSample:
        """Reading of the hand."""
        j = self._joints
        return HandSample(
            np.array(self.data.qpos[:j]),
            np.array(self.data.qvel[:j]),
            self._applied.copy(),
            self.joint_targets(),
        )

    def objects(self) -> Objects:
        """Poses and velocities of the task's objects in the world frame, which is the hand's base frame."""
        return {name: self._object(body) for name, body in self._bodies.items()}

    def _object(self, body: int) -> ObjectSample:
        w, x, y, z = self.data.xquat[body]
        first = self.model.body_dofadr[body]
        linear, angular = np.zeros(3), np.zeros(3)
        if self.model.body_dofnum[body] == 6:
            rotation = self.data.xmat[body].reshape(3, 3)
            linear = np.array(self.data.qvel[first : first + 3])
            # A free joint's angular velocity is in the body's frame.
            angular = rotation @ self.data.qvel[first + 3 : first + 6]
        return ObjectSample(np.array(self.data.xpos[body]), np.array([x, y, z, w]), linear, angular)

    def show(self, joints: FloatArray, objects: Objects) -> None:
        """Put hand (J,) [rad, m] and objects where another scene has them, to be looked at; nothing is stepped."""
        model, data = self.model, self.data
        data.qpos[: self._joints] = joints
        hinged = []
        for name, sample in objects.items():
            body = self._bodies[name]
            x, y, z, w = sample.quaternion
            mocap, joint = model.body_mocapid[body], model.body_jntadr[body]
            if mocap >= 0:
                data.mocap_pos[mocap], data.mocap_quat[mocap] = sample.position, (w, x, y, z)
            elif model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE:
                hinged.append((body, joint, np.array([w, x, y, z])))
            else:
                first = model.jnt_qposadr[joint]
                data.qpos[first : first + 7] = [*sample.position, w, x, y, z]
        mujoco.mj_kinematics(model, data)
        for body, joint, quaternion in hinged:
            data.qpos[model.jnt_qposadr[joint]] = self._angle(body, joint, quaternion)
        mujoco.mj_forward(model, data)

    def _angle(self, body: int, joint: int, quaternion: FloatArray) -> float:
        """[rad] of the hinge that gives a body its orientation (wxyz) while its parent is where it is."""
        inverse, relative, turn = np.zeros(4), np.zeros(4), np.zeros(3)
        mujoco.mju_negQuat(inverse, self.data.xquat[self.model.body_parentid[body]])
        mujoco.mju_mulQuat(relative, inverse, quaternion)
        mujoco.mju_quat2Vel(turn, relative, 1.0)
        return float(turn @ self.model.jnt_axis[joint])

    def render(self, width: int = 640, height: int = 480, camera: str = "camera") -> NDArray[np.uint8]:
        """RGB picture (height, width, 3)."""
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (width, height):
            self.close()
            self._renderer = mujoco.Renderer(self.model, height, width)
        self._renderer.update_scene(self.data, camera=camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
