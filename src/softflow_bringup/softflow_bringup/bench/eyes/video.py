"""Recorded videos of the simulated scene, and the camera file that belongs to them: they stand in for a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from softflow_node.pictures import RGBImage
from softflow_perception.camera_model import CameraModel, ColourMark
from softflow_sim.cameras import SimulatedCamera
from softflow_tasks import make_task
from softflow_tasks.cube_rotation import REST_HEIGHT
from softflow_tasks.task import ObjectSample

TASK = "CubeRotation-v0"
MARK = ColourMark(24, 24, (220, 30, 30))
"""A red sticker in the corner of every picture."""
_STICKER = 16
"""[pixels] half its edge."""


def scene(count: int, name: str = "front") -> tuple[list[RGBImage], CameraModel]:
    """Pictures (480, 640, 3) of the cube at rest that differ by a sensor's noise, and the camera that took them."""
    eye = SimulatedCamera(TASK, name)
    joints = np.zeros(len(make_task(TASK).joint_names))
    rest = ObjectSample(
        np.array([0.0, 0.0, REST_HEIGHT]), np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(3), np.zeros(3)
    )
    pictures = [eye.render(joints, {"cube": rest}) for _ in range(count)]
    eye.close()
    for picture in pictures:
        near = slice(MARK.v - _STICKER, MARK.v + _STICKER), slice(MARK.u - _STICKER, MARK.u + _STICKER)
        picture[near] = MARK.rgb
    o = eye.optics
    model = CameraModel(name, o.width, o.height, o.matrix, rotation=o.rotation, position=o.position)
    return pictures, dataclasses.replace(model, mark=MARK)


def write_video(path: Path, pictures: Iterable[RGBImage], rate: float = 30.0) -> None:
    """Motion JPEG of RGB pictures at `rate` [Hz]; the file appears when it is whole. Raises OSError."""
    part, writer = path.with_name(f"part_{path.name}"), None
    for picture in pictures:
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
            if not writer.isOpened():
                raise OSError(f"{part}: no video can be written")
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if writer is None:
        raise OSError(f"{path}: no pictures")
    writer.release()
    part.replace(path)
