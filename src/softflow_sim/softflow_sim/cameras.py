"""Cameras that look at a scene somebody else steps: it is shown what the robot measured, and drawn."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from softflow_sim.catalogue import make_scene
from softflow_sim.cube_scene import CubeScene
from softflow_sim.scene import Scene
from softflow_tasks.cube_rotation import REST_HEIGHT, CubeRotation
from softflow_tasks.task import FloatArray, Objects
from softflow_tasks.tool_cut import ToolCut

NOISE = 2.0
"""[1/255] standard deviation of a pixel."""
_NOISE_MARGIN = 64
WIDTH, HEIGHT = 640, 480
"""[pixels]"""


@dataclass(frozen=True)
class Stand:
    """Where a camera stands and looks, upright."""

    position: tuple[float, float, float]
    """[m] in the hand's base frame, of a carried one in the palm's"""
    target: tuple[float, float, float]
    """[m] what is in the middle of the picture"""
    field: float
    """[deg] vertical field of view"""
    carried: bool = False
    """By the palm of a hand that moves."""


_CUBE = (0.0, 0.0, REST_HEIGHT)
_STANDS = {
    # Between two fingers each, where a finger hides least; the cube fills a third of the picture.
    CubeRotation.id: {
        "front": Stand((0.20, -0.20, 0.13), _CUBE, 25.0),
        "right": Stand((0.20, 0.20, 0.13), _CUBE, 25.0),
    },
    # Oblique: blades open along x, the tapes lie apart along y; the hand stays in the picture at both.
    # At the wrist: past the fingers at what they grasp, which it shows as it lies to the palm.
    ToolCut.id: {
        "front": Stand((0.27, -0.20, 0.22), (0.0, 0.0, 0.075), 43.0),
        "wrist": Stand((0.075, -0.055, 0.015), (0.0, 0.0, -0.105), 60.0, carried=True),
    },
}


@dataclass(frozen=True)
class Optics:
    """A pinhole camera and where it stands; its frame is the optical one: x right, y down, z forward."""

    width: int
    """[pixels]"""
    height: int
    """[pixels]"""
    matrix: FloatArray
    """K (3, 3) [pixels]"""
    rotation: FloatArray
    """(3, 3), base from camera"""
    position: FloatArray
    """[m] (3,) in the hand's base frame"""
    carried: bool = False
    """Rotation and position are in the frame of the palm instead, which moves."""


def camera_names(task_id: str) -> tuple[str, ...]:
    """Names of the cameras of a task's scene. Raises ValueError for a task without."""
    if task_id not in _STANDS:
        raise ValueError(f"task: {task_id!r} has no simulated cameras; known: {', '.join(sorted(_STANDS))}")
    return tuple(_STANDS[task_id])


def optics(task_id: str, name: str) -> Optics:
    """A camera of a task's scene. Raises ValueError for a task without cameras or an unknown camera."""
    known = camera_names(task_id)
    if name not in known:
        raise ValueError(f"camera: {name!r} is unknown; known: {', '.join(known)}")
    stand = _STANDS[task_id][name]
    position = np.array(stand.position)
    forward = np.array(stand.target) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    focal = HEIGHT / 2 / np.tan(np.deg2rad(stand.field) / 2)
    # Pixel centres are whole numbers in OpenCV, so the middle of the picture is half a pixel before its half.
    matrix = np.array([[focal, 0.0, (WIDTH - 1) / 2], [0.0, focal, (HEIGHT - 1) / 2], [0.0, 0.0, 1.0]])
    return Optics(WIDTH, HEIGHT, matrix, np.stack([right, down, forward], axis=1), position, stand.carried)


def _scene(task_id: str) -> Scene:
    # Only who looks at the cube needs its tags.
    return CubeScene(tags=True) if task_id == CubeRotation.id else make_scene(task_id)


class SimulatedCamera:
    """Draws with MuJoCo, off-screen: `MUJOCO_GL=egl` or `osmesa` where there is no display."""

    def __init__(self, task_id: str, name: str) -> None:
        """Raises ValueError for a task without cameras or an unknown camera."""
        self.optics = optics(task_id, name)
        self._scene = _scene(task_id)
        self._rng = np.random.default_rng(0)
        size = (self.optics.height + _NOISE_MARGIN, self.optics.width + _NOISE_MARGIN, 3)
        self._noise = np.rint(self._rng.normal(0.0, NOISE, size)).astype(np.int16)
        mj, number = self._scene.model, self._scene.model.camera("camera").id
        mj.cam_fovy[number] = _STANDS[task_id][name].field
        mj.cam_pos[number] = self.optics.position
        if self.optics.carried:
            mj.cam_bodyid[number] = mj.body("palm").id
        # MuJoCo's cameras look along -z with y up.
        rotation = self.optics.rotation @ np.diag([1.0, -1.0, -1.0])
        mujoco.mju_mat2Quat(mj.cam_quat[number], rotation.ravel())

    def render(self, joints: FloatArray, objects: Objects) -> NDArray[np.uint8]:
        """RGB picture (H, W, 3) of a hand at (J,) [rad, m] and objects, with a sensor's noise.

        Without noise a scene at rest would look like a camera that hangs.
        """
        self._scene.show(joints, objects)
        clean = self._scene.render(self.optics.width, self.optics.height)
        # A part of one large picture of noise, elsewhere each time: new noise would cost more than the drawing.
        top, left = self._rng.integers(_NOISE_MARGIN, size=2)
        noise = self._noise[top : top + self.optics.height, left : left + self.optics.width]
        return np.asarray(cv2.add(clean, noise, dtype=cv2.CV_8U), dtype=np.uint8)

    def close(self) -> None:
        """Free the renderer."""
        self._scene.close()
