"""The scene of the tool task: the hand on a gantry, scissors in a foam case, two tapes."""

from __future__ import annotations

import mujoco
import numpy as np

from softflow_sim.hand_model import gantry_hand_mjcf
from softflow_sim.scene import Scene
from softflow_tasks import gantry
from softflow_tasks.task import FloatArray
from softflow_tasks.tool_cut import BLADE_TIP, REST_HEIGHT, TAPE_DISTANCE, TAPE_HEIGHT, TAPES, ToolCut

HALF_ANGLE = 12.0
"""[degree] between an arm and the vertical when the scissors stand half open."""
ARM_MASS = 0.026
"""[kg]"""
ARM_INERTIA = "2.5e-5 2.5e-5 2e-5"
"""[kg m2] given, not derived: the thin arms' own inertia about their length makes the contacts stiff to instability."""
FOAM_DEPTH = 0.020
"""[m] above the rest height, over which the foam lets go."""
FOAM_WIDTH = 0.030
"""[m] horizontal distance from its place at which the tool is out of the foam."""
FOAM_EVERY = 2
"""Physics steps between two updates of the foam's force."""
START_HEIGHT = 0.030
"""[m] the gantry's at the start."""
SETTLE_STEPS = 4
"""Physics steps after a reset, before the first observation."""


def _arm(side: int, colour: str) -> str:
    """One arm: handle with a pad for the fingertips above the pivot, blade below; `side` mirrors x."""
    blade_x, _, blade_z = BLADE_TIP * (side, 1, 1)
    unseen = 'contype="0" conaffinity="0" mass="0"'
    return f"""
      <inertial pos="0 0 .004" mass="{ARM_MASS}" diaginertia="{ARM_INERTIA}"/>
      <geom type="capsule" fromto="{-side * 0.0083} 0 .039 0 0 0" size=".0025" {unseen} rgba="{colour}"/>
      <geom type="capsule" fromto="0 0 0 {blade_x} 0 {blade_z}" size=".002" {unseen} rgba=".8 .8 .85 1"/>
      <geom type="box" pos="{-side * 0.0075} 0 .030" size=".004 .010 .013" contype="2" conaffinity="1" condim="4"
            friction="1 .01 .0001" rgba="{colour}"/>"""


def _scene_mjcf() -> str:
    unseen = 'contype="0" conaffinity="0"'
    foam = f'type="box" size=".004 .02 .02" {unseen} rgba=".4 .25 .1 1"'
    tape = f'type="capsule" fromto="0 -.02 0 0 .02 0" size=".0012" {unseen} rgba=".9 .9 .2 1"'
    tapes = "".join(f'<body name="{name}" mocap="true"><geom {tape}/></body>' for name in TAPES)
    # The spring's rest lies beyond the range, so that it opens the scissors to their stop.
    hinge = f'range="-{2 * HALF_ANGLE - 3} 3" stiffness=".08" springref="10" damping=".003" armature=".00003"'
    return f"""
    <geom pos=".022 0 .02" {foam}/><geom pos="-.022 0 .02" {foam}/>{tapes}
    <body name="tool" pos="0 0 {REST_HEIGHT}"><freejoint name="tool"/>{_arm(1, ".8 .1 .1 1")}
      <body name="tool_arm"><joint name="hinge" axis="0 1 0" {hinge}/>{_arm(-1, ".1 .2 .8 1")}</body>
    </body>"""


class ToolScene(Scene):
    """Hand on a gantry, scissors, two tapes. The foam is a spring that lets go of the tool as it rises."""

    def __init__(self, task: ToolCut | None = None) -> None:
        super().__init__(task or ToolCut(), gantry_hand_mjcf(_scene_mjcf(), "tool_cut"))

    def _place(self, rng: np.random.Generator) -> None:
        j, data = self._joints, self.data
        self._home = np.array([*rng.uniform(-0.01, 0.01, 2), REST_HEIGHT])
        yaw = rng.uniform(-0.1, 0.1)
        self._home_quaternion = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        start = np.array([*rng.uniform(-0.02, 0.02, 2), START_HEIGHT])
        targets = np.concatenate([start, gantry.finger_joints(self._applied[gantry.CLOSURES])])
        data.qpos[:j] = targets
        data.ctrl[:] = targets
        data.qpos[j : j + 3], data.qpos[j + 3 : j + 7] = self._home, self._home_quaternion
        for index, (side, across) in enumerate(zip((1, -1), rng.uniform(-0.012, 0.012, 2), strict=True)):
            data.mocap_pos[index] = [across, side * TAPE_DISTANCE, TAPE_HEIGHT]
        mujoco.mj_forward(self.model, data)
        self._push_foam()
        mujoco.mj_step(self.model, data, SETTLE_STEPS)

    def step_period(self) -> None:
        """Step the physics for one control period; the foam's force follows the tool."""
        for _ in range(self.substeps // FOAM_EVERY):
            self._push_foam()
            mujoco.mj_step(self.model, self.data, FOAM_EVERY)

    def _push_foam(self) -> None:
        """Spring, damper and weight support towards the tool's place; gone above and beside it."""
        body, j, data = self._bodies["tool"], self._joints, self.data
        force = data.xfrc_applied[body]
        force[:] = 0.0
        offset = self._home - data.xpos[body]
        share = float(np.clip(1.0 + offset[2] / FOAM_DEPTH, 0.0, 1.0))
        if share == 0.0 or np.hypot(*offset[:2]) > FOAM_WIDTH:
            return
        velocity, turn = data.qvel[j : j + 3], self._turn_home(data.xquat[body])
        spin = data.xmat[body].reshape(3, 3) @ data.qvel[j + 3 : j + 6]
        # Softer along z, so that the fingers can pull the tool out.
        force[:3] = share * np.clip(60.0 * offset - velocity, -1.2, 1.2) * (1.0, 1.0, 0.25)
        force[2] += share * 2 * ARM_MASS * 9.81
        force[3:] = share * np.clip(0.06 * turn - 0.0008 * spin, -0.02, 0.02)

    def _turn_home(self, quaternion: FloatArray) -> FloatArray:
        """Rotation vector (3,) [rad] from an orientation (wxyz) to the tool's place, in the world frame."""
        inverse, difference, turn = np.zeros(4), np.zeros(4), np.zeros(3)
        mujoco.mju_negQuat(inverse, quaternion)
        mujoco.mju_mulQuat(difference, self._home_quaternion, inverse)
        mujoco.mju_quat2Vel(turn, difference, 1.0)
        return turn
