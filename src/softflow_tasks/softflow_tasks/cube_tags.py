"""ArUco tags on the task's cube: which number, where, and which way up.

Nine small ones on each of the six faces rather than a large one: a fingertip in the middle of a face then hides some of
them and not all.
"""

from __future__ import annotations

import numpy as np

from softflow_tasks.cube_rotation import CUBE_HALF
from softflow_tasks.task import FloatArray

DICTIONARY = "DICT_4X4_100"
"""Of OpenCV. Tag 9 f + i is the i-th of face f, by rows from its top left."""
PER_EDGE = 3
TAG_HALF = 0.0064
"""[m] half the edge of a tag's black square; between them the face is white, as detectors need it."""
PITCH = 2 * CUBE_HALF / PER_EDGE
"""[m] from tag to tag."""

# Outward normal and what is up on the face, in the cube's frame.
_FACES = (
    ((1, 0, 0), (0, 0, 1)),
    ((-1, 0, 0), (0, 0, 1)),
    ((0, 1, 0), (0, 0, 1)),
    ((0, -1, 0), (0, 0, 1)),
    ((0, 0, 1), (1, 0, 0)),
    ((0, 0, -1), (1, 0, 0)),
)
FACES = len(_FACES)


def square(face: int, half: float, right: float = 0.0, up: float = 0.0) -> FloatArray:
    """Corners (4, 3) [m] of a square on a face, in the cube's frame; its middle is `right` and `up` of the face's.

    `half` of an edge [m]. In OpenCV's order: top left, top right, bottom right, bottom left, seen from outside.
    """
    normal, upward = (np.array(v, dtype=np.float64) for v in _FACES[face])
    rightward = np.cross(upward, normal)
    offsets = ((-half, half), (half, half), (half, -half), (-half, -half))
    return np.array([CUBE_HALF * normal + (right + x) * rightward + (up + y) * upward for x, y in offsets])


def tag_corners() -> dict[int, FloatArray]:
    """Tag number -> corners (4, 3) [m] in the cube's frame, in OpenCV's order."""
    found: dict[int, FloatArray] = {}
    for face in range(FACES):
        for row in range(PER_EDGE):
            for column in range(PER_EDGE):
                right, up = (column - 1) * PITCH, (1 - row) * PITCH
                found[len(found)] = square(face, TAG_HALF, right, up)
    return found
