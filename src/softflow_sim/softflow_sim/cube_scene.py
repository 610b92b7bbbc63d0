"""The scene of the cube rotation task: palm-down hand, cube, post. Used by the environment and by the driver."""

from __future__ import annotations

import mujoco
import numpy as np

from softflow_sim.fiducials import TAG_GEOM, TEXTURE_FILE, tag_assets, tag_texture
from softflow_sim.hand_model import hand_mjcf
from softflow_sim.scene import Scene
from softflow_tasks import palmdown
from softflow_tasks.cube_rotation import CUBE_HALF, REST_HEIGHT, CubeRotation

CUBE_MASS = 0.060
"""[kg]"""
POST_RADIUS = 0.022
"""[m]"""
POST_FRICTION = 0.3
SETTLE_STEPS = 20
"""Physics steps after a reset, before the first observation."""


def _scene_mjcf(tags: bool) -> str:
    half, face = CUBE_HALF, CUBE_HALF * 0.9
    post = (REST_HEIGHT - CUBE_HALF) / 2
    flat = f'size=".004 {face} {face}" mass="0" contype="0" conaffinity="0"'
    stickers = f"""
      <geom type="box" {flat} pos="{half - 0.0035} 0 0" rgba=".9 .1 .1 1"/>
      <geom type="box" {flat} pos="-{half - 0.0035} 0 0" rgba=".1 .2 .9 1"/>
      <geom type="box" {flat} pos="0 {half - 0.0035} 0" euler="0 0 90" rgba=".1 .8 .2 1"/>"""
    return f"""
    <body name="cube" pos="0 0 {palmdown.GRASP_HEIGHT}"><freejoint name="cube"/>
      <geom name="cube" type="box" size="{half} {half} {half}" mass="{CUBE_MASS}" contype="2" conaffinity="1"
            condim="4" friction="1 .01 .0001" rgba=".9 .8 .2 {0 if tags else 1}"/>{TAG_GEOM if tags else stickers}
    </body>
    <geom name="post" type="cylinder" size="{POST_RADIUS} {post}" pos="0 0 {post}" contype="1" conaffinity="2"
          friction="{POST_FRICTION} 0.005 .0001" condim="4" priority="2" rgba=".5 .5 .5 1"/>"""


class CubeScene(Scene):
    """Palm-down hand, cube, post."""

    def __init__(self, task: CubeRotation | None = None, tags: bool = False) -> None:
        """`tags`: the cube wears ArUco tags instead of coloured stickers; the physics are the same."""
        mjcf = hand_mjcf(_scene_mjcf(tags), "cube_rotation", tag_assets() if tags else "")
        super().__init__(task or CubeRotation(), mjcf, {TEXTURE_FILE: tag_texture()} if tags else None)

    def _place(self, rng: np.random.Generator) -> None:
        yaw = rng.uniform(-0.3, 0.3)
        targets = self.task.action_to_joints(self._applied, self.data.ctrl)
        j = self._joints
        self.data.qpos[:j] = targets
        self.data.qpos[j : j + 3] = [*rng.uniform(-0.002, 0.002, 2), REST_HEIGHT]
        self.data.qpos[j + 3 : j + 7] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self.data.ctrl[:] = targets
        mujoco.mj_step(self.model, self.data, SETTLE_STEPS)
