"""The scene of the cube rotation task: palm-down hand, cube, post. Used by the environment and by the driver."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from softflow_sim.hand_model import TIMESTEP, hand_mjcf
from softflow_tasks import palmdown
from softflow_tasks.cube_rotation import CUBE_HALF, REST_HEIGHT, CubeRotation
from softflow_tasks.task import FloatArray, HandSample, ObjectSample

CUBE_MASS = 0.060
"""[kg]"""
POST_RADIUS = 0.022
"""[m]"""
POST_FRICTION = 0.3
SETTLE_STEPS = 20
"""Physics steps after a reset, before the first observation."""


def _scene_mjcf() -> str:
    half, face = CUBE_HALF, CUBE_HALF * 0.9
    post = (REST_HEIGHT - CUBE_HALF) / 2
    sticker = f'size=".004 {face} {face}" mass="0" contype="0" conaffinity="0"'
    return f"""
    <body name="cube" pos="0 0 {palmdown.GRASP_HEIGHT}"><freejoint name="cube"/>
      <geom name="cube" type="box" size="{half} {half} {half}" mass="{CUBE_MASS}" contype="2" conaffinity="1"
            condim="4" friction="1 .01 .0001" rgba=".9 .8 .2 1"/>
      <geom type="box" {sticker} pos="{half - 0.0035} 0 0" rgba=".9 .1 .1 1"/>
      <geom type="box" {sticker} pos="-{half - 0.0035} 0 0" rgba=".1 .2 .9 1"/>
      <geom type="box" {sticker} pos="0 {half - 0.0035} 0" euler="0 0 90" rgba=".1 .8 .2 1"/>
    </body>
    <geom name="post" type="cylinder" size="{POST_RADIUS} {post}" pos="0 0 {post}" contype="1" conaffinity="2"
          friction="{POST_FRICTION} 0.005 .0001" condim="4" priority="2" rgba=".5 .5 .5 1"/>"""


class CubeScene:
    """Steps the physics. One `advance` is one control period."""

    def __init__(self, task: CubeRotation | None = None) -> None:
        self.task = task or CubeRotation()
        self.model = mujoco.MjModel.from_xml_string(hand_mjcf(_scene_mjcf(), "cube_rotation"))
        self.data = mujoco.MjData(self.model)
        self.substeps = round(1.0 / self.task.control_hz / TIMESTEP)
        self._joints = len(palmdown.JOINT_NAMES)
        self._cube = self.model.body("cube").id
        self._applied = self.task.rest_action()
        self._renderer: mujoco.Renderer | None = None
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Put hand and cube into the start state that belongs to `seed`; equal seeds give equal states, bitwise."""
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        yaw = rng.uniform(-0.3, 0.3)
        self._applied = self.task.rest_action()
        targets = self.task.action_to_joints(self._applied)
        j = self._joints
        self.data.qpos[:j] = targets
        self.data.qpos[j : j + 3] = [*rng.uniform(-0.002, 0.002, 2), REST_HEIGHT]
        self.data.qpos[j + 3 : j + 7] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self.data.ctrl[:] = targets
        mujoco.mj_step(self.model, self.data, SETTLE_STEPS)

    def advance(self, action: FloatArray) -> FloatArray:
        """Apply an action (A,) for one control period; returns it as applied, clipped to [-1, 1]."""
        self._applied = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self.set_targets(self.task.action_to_joints(self._applied))
        self.step_period()
        return self._applied

    def set_targets(self, targets: FloatArray) -> FloatArray:
        """Set joint targets (J,) [rad]; returns them."""
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
        """Joint targets (J,) [rad] that are in force."""
        return np.array(self.data.ctrl)

    def joint_torques(self) -> FloatArray:
        """Actuator torques (J,) [N m]."""
        return np.array(self.data.actuator_force)

    def hand(self) -> HandSample:
        """Reading of the hand."""
        j = self._joints
        return HandSample(np.array(self.data.qpos[:j]), np.array(self.data.qvel[:j]), self._applied.copy())

    def object(self) -> ObjectSample:
        """Pose and velocity of the cube in the world frame, which is the hand's base frame."""
        j = self._joints
        w, x, y, z = self.data.xquat[self._cube]
        rotation = self.data.xmat[self._cube].reshape(3, 3)
        # A free joint's angular velocity is in the body's frame.
        angular = rotation @ self.data.qvel[j + 3 : j + 6]
        return ObjectSample(
            np.array(self.data.xpos[self._cube]),
            np.array([x, y, z, w]),
            np.array(self.data.qvel[j : j + 3]),
            angular,
        )

    def render(self, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
        """RGB picture (height, width, 3)."""
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (width, height):
            self.close()
            self._renderer = mujoco.Renderer(self.model, height, width)
        self._renderer.update_scene(self.data, camera="camera")
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
