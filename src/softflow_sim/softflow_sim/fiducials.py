"""The cube's tags as something to look at: a textured box around it that has no mass and touches nothing."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softflow_tasks.cube_rotation import CUBE_HALF
from softflow_tasks.cube_tags import DICTIONARY, FACES, PER_EDGE, PITCH, TAG_HALF, square

TAG_PIXELS = 96
CELL = round(TAG_PIXELS * PITCH / (2 * TAG_HALF))
"""[pixels] edge of a tag with its share of the white around it."""
TILE = PER_EDGE * CELL
"""[pixels] edge of a face in the texture."""
Row = tuple[float, ...]
TEXTURE_FILE = "cube_tags.png"


def tag_texture() -> bytes:
    """PNG of the six faces side by side, (TILE, 6 TILE)."""
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, DICTIONARY))
    margin = (CELL - TAG_PIXELS) // 2
    picture: NDArray[np.uint8] = np.full((TILE, FACES * TILE), 255, dtype=np.uint8)
    for number in range(FACES * PER_EDGE**2):
        face, place = divmod(number, PER_EDGE**2)
        row, column = divmod(place, PER_EDGE)
        top, left = row * CELL + margin, face * TILE + column * CELL + margin
        tag = cv2.aruco.generateImageMarker(dictionary, number, TAG_PIXELS)
        picture[top : top + TAG_PIXELS, left : left + TAG_PIXELS] = tag
    file = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(file, "PNG")
    return file.getvalue()


def tag_assets() -> str:
    """MJCF `asset` elements: texture, material, and a box mesh with four vertices of its own for each face."""
    vertices: list[Row] = []
    coordinates: list[Row] = []
    triangles: list[Row] = []
    for face in range(FACES):
        corners = square(face, CUBE_HALF)
        first = len(vertices)
        vertices += [tuple(corner) for corner in corners.tolist()]
        left, right = face / FACES, (face + 1) / FACES
        coordinates += [(left, 0.0), (right, 0.0), (right, 1.0), (left, 1.0)]
        # Counter-clockwise from outside: top left, bottom left, bottom right, top right.
        triangles += [(first, first + 3, first + 2), (first, first + 2, first + 1)]
    numbers = f'vertex="{_numbers(vertices)}" texcoord="{_numbers(coordinates)}" face="{_numbers(triangles)}"'
    return f"""
    <texture name="cube_tags" type="2d" file="{TEXTURE_FILE}"/>
    <material name="cube_tags" texture="cube_tags" specular="0" shininess="0"/>
    <mesh name="cube_tags" {numbers}/>"""


_UNTOUCHABLE = 'mass="0" contype="0" conaffinity="0"'
TAG_GEOM = f'<geom name="cube_tags" type="mesh" mesh="cube_tags" material="cube_tags" {_UNTOUCHABLE}/>'


def _numbers(rows: list[Row]) -> str:
    return " ".join(f"{value:.9g}" for row in rows for value in row)
