"""Rotations as quaternions xyzw, matrices and vectors; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def cross_matrix(v: FloatArray) -> FloatArray:
    """[v]x (3, 3) of (3,), or (N, 3, 3) of (N, 3): [v]x w = v x w."""
    x, y, z = np.moveaxis(np.asarray(v, dtype=np.float64), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def exp(vector: FloatArray) -> FloatArray:
    """Rotation matrix (3, 3) of a rotation vector (3,) [rad]."""
    angle = float(np.linalg.norm(vector))
    k = cross_matrix(vector)
    # Series near zero, where the quotients are 0/0.
    a = np.sin(angle) / angle if angle > 1e-6 else 1.0 - angle**2 / 6
    b = (1 - np.cos(angle)) / angle**2 if angle > 1e-6 else 0.5 - angle**2 / 24
    return np.asarray(np.eye(3) + a * k + b * k @ k)


def log(matrix: FloatArray) -> FloatArray:
    """Rotation vector (3,) [rad], length in [0, pi], of a rotation matrix (3, 3)."""
    x, y, z, w = to_quaternion(matrix)
    v = np.array([x, y, z])
    length = float(np.linalg.norm(v))
    if length < 1e-12:
        return 2 * v
    angle = 2 * np.arctan2(length, w)
    return np.asarray(v * (angle / length))


def to_quaternion(matrix: FloatArray) -> FloatArray:
    """Quaternion xyzw (4,), w >= 0, of a rotation matrix (3, 3)."""
    m = matrix
    # The largest of the four squares is safe to divide by (Shepperd 1978).
    squares = np.array([1 + m[0, 0] - m[1, 1] - m[2, 2], 1 - m[0, 0] + m[1, 1] - m[2, 2],
                        1 - m[0, 0] - m[1, 1] + m[2, 2], 1 + np.trace(m)])  # fmt: skip
    i = int(np.argmax(squares))
    if i == 3:
        q = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]])
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q = np.zeros(4)
        q[i], q[j], q[k] = squares[i], m[j, i] + m[i, j], m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    q /= np.linalg.norm(q)
    return q if q[3] >= 0 else -q


def from_quaternion(q: FloatArray) -> FloatArray:
    """Rotation matrix (3, 3) of a quaternion xyzw (4,), which need not have length 1. Raises ValueError at length 0."""
    length = float(np.linalg.norm(q))
    if not np.isfinite(length) or length < 1e-9:
        raise ValueError(f"quaternion is {np.asarray(q).tolist()}, must have a length above 0")
    x, y, z, w = np.asarray(q, dtype=np.float64) / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
