"""Pictures of a board through a known camera with distortion, by ray casting: the truth of the calibration's tests."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from softflow_perception.calibration.board import Board
from softflow_perception.calibration.hand_eye import Pose
from softflow_perception.calibration.views import View, Views
from softflow_perception.camera_model import CameraModel
from softflow_perception.rotations import FloatArray, exp, log

FINE = 2
"""Rays along each edge of a pixel."""
TEXTURE = 60
"""[pixels] of a square in the board's own picture"""
TRUTH = CameraModel(
    "front",
    640,
    480,
    np.array([[612.0, 0, 331.0], [0, 607.0, 233.0], [0, 0, 1]]),
    np.array([-0.21, 0.08, 0.001, -0.0015, 0.0]),
    exp(np.array([-2.1, 0.3, 0.2])),
    np.array([0.1, -0.35, 0.3]),
)


@cache
def rays(width: int, height: int) -> FloatArray:
    """(FINE height, FINE width, 3) of TRUTH, at depth 1."""
    x, y = np.meshgrid(
        (np.arange(FINE * width) + 0.5) / FINE - 0.5, (np.arange(FINE * height) + 0.5) / FINE - 0.5
    )
    pixels = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    flat = cv2.undistortPoints(pixels, TRUTH.matrix, TRUTH.distortion).reshape(*x.shape, 2)
    return np.concatenate([flat, np.ones((*x.shape, 1))], axis=-1)


def render(board: Board, pose: Pose, seed: int = 0, blur: float = 0.0, smear: int = 0) -> NDArray[np.uint8]:
    """Grey picture (H, W) of a board at a pose in the camera's frame; `blur` [pixels], `smear` [pixels] sideways."""
    texture = np.where(board.draw(TEXTURE) > 127, 225, 30).astype(np.float32)
    texture = np.pad(texture, TEXTURE // 2, constant_values=225)
    normal = pose.rotation[:, 2]
    beams = rays(TRUTH.width, TRUTH.height)
    depth = (normal @ pose.position) / (beams @ normal)
    local = (beams * depth[..., None] - pose.position) @ pose.rotation
    places = (local[..., :2] / board.square * TEXTURE + TEXTURE // 2 - 0.5).astype(np.float32)
    fine = cv2.remap(texture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderValue=120)
    image = cv2.resize(fine, (TRUTH.width, TRUTH.height), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), max(blur, 0.5))
    if smear:
        image = cv2.blur(image, (smear, 1))
    image += np.random.default_rng(seed).normal(0, 2, image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def facing(board: Board, x: float, y: float, z: float, turn: tuple[float, float, float]) -> Pose:
    """A board with its middle at (x, y, z) [m] in the camera's frame, turned by a rotation vector [rad]."""
    rotation = exp(np.array(turn))
    middle = np.array([board.columns, board.rows, 0]) * board.square / 2
    return Pose(rotation, np.array([x, y, z]) - rotation @ middle)


def all_sides(board: Board) -> list[Pose]:
    """Twelve, over the whole picture, tilted to all sides."""
    places = [(x, y) for y in (-0.075, 0.0, 0.075) for x in (-0.1, -0.035, 0.035, 0.1)]
    return [
        facing(
            board,
            x,
            y,
            0.34 + 0.03 * (i % 3),
            (0.45 * np.sin(2.4 * i), 0.45 * np.cos(2.4 * i), 0.2 * np.sin(i)),
        )
        for i, (x, y) in enumerate(places)
    ]


def projected_views(board: Board, poses: list[Pose], noise: float = 0.2, seed: int = 0) -> Views:
    """Views of a board at poses in the camera's frame, from projection alone."""
    rng, points = np.random.default_rng(seed), np.asarray(board.opencv().getChessboardCorners(), np.float64)
    good = []
    for i, pose in enumerate(poses):
        pixels, _ = cv2.projectPoints(
            points, log(pose.rotation), pose.position, TRUTH.matrix, TRUTH.distortion
        )
        good.append(View(f"{i}", points, pixels.reshape(-1, 2) + rng.normal(0, noise, (len(points), 2))))
    return Views(TRUTH.width, TRUTH.height, good, {})
