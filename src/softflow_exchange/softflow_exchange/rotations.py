"""Quaternions xyzw, (..., 4), as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def multiply(a: FloatArray, b: FloatArray) -> FloatArray:
    """The rotation b, then a."""
    av, aw, bv, bw = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = aw * bv + bw * av + np.cross(av, bv)
    return np.concatenate([vector, aw * bw - (av * bv).sum(axis=-1, keepdims=True)], axis=-1)


def conjugate(q: FloatArray) -> FloatArray:
    """The inverse of a unit quaternion."""
    return q * np.array([-1.0, -1.0, -1.0, 1.0])


def rotate(q: FloatArray, v: FloatArray) -> FloatArray:
    """Vectors (..., 3), rotated."""
    pure = np.concatenate([v, np.zeros((*v.shape[:-1], 1))], axis=-1)
    return multiply(multiply(q, pure), conjugate(q))[..., :3]


def angular_velocity(q: FloatArray, period: float) -> FloatArray:
    """(n, 3) [rad/s] in the fixed frame, of unit quaternions (n, 4) a `period` [s] apart; one value repeats at the end.

    The rotation vector of q[i+1] * conj(q[i]), averaged over the two neighbouring periods.
    """
    if len(q) < 2:
        return np.zeros((len(q), 3))
    turn = multiply(q[1:], conjugate(q[:-1]))
    turn = np.where(turn[:, 3:] < 0, -turn, turn)
    sine = np.linalg.norm(turn[:, :3], axis=1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, turn[:, 3:])
    velocity = turn[:, :3] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0) / period
    return (np.concatenate([velocity[:1], velocity]) + np.concatenate([velocity, velocity[-1:]])) / 2.0
