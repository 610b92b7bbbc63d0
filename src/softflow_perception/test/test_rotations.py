"""Rotations: exponential and logarithm are inverse, quaternions and matrices agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow_perception.rotations import exp, from_quaternion, log, to_quaternion

ANGLES = st.floats(0.0, np.pi - 1e-3)
AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


@given(ANGLES, AXES)
def test_log_undoes_exp(angle: float, axis: tuple[float, float, float]) -> None:
    vector = angle * np.array(axis) / np.linalg.norm(axis)
    rotation = exp(vector)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(log(rotation), vector, atol=1e-7)


@given(st.floats(0.0, np.pi), AXES)
def test_a_quaternion_gives_the_matrix_back(angle: float, axis: tuple[float, float, float]) -> None:
    rotation = exp(angle * np.array(axis) / np.linalg.norm(axis))
    q = to_quaternion(rotation)
    assert q[3] >= 0 and np.linalg.norm(q) == pytest.approx(1.0)
    np.testing.assert_allclose(from_quaternion(q), rotation, atol=1e-9)
    np.testing.assert_allclose(from_quaternion(3 * q), rotation, atol=1e-9)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    rotation = exp(np.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(rotation @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(to_quaternion(rotation), (0, 0, np.sqrt(0.5), np.sqrt(0.5)), atol=1e-12)


@pytest.mark.parametrize("q", [(0, 0, 0, 0), (np.nan, 0, 0, 1)])
def test_a_quaternion_without_length_is_named(q: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must have a length above 0"):
        from_quaternion(np.array(q))
