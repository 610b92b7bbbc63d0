"""Resampling and rotations: properties, against straightforward calculations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow_exchange import rotations
from softflow_exchange.mapping import Input
from softflow_exchange.series import Series, resample, runs

MS = 1_000_000
stamps = st.lists(st.integers(0, 2000), min_size=1, max_size=30, unique=True).map(sorted)
"""[ms]"""


def how(method: str, max_age: float = 0.1, shift: float = 0.0) -> Input:
    return Input(topic="/t", field=("data",), resample=method, max_age=max_age, shift=shift)


def series(times: list[int]) -> Series:
    return Series(np.array(times) * MS, np.array(times, dtype=np.float64)[:, None])


@given(stamps, st.integers(0, 2000), st.integers(1, 500))
def test_each_method_is_what_it_says(times: list[int], wanted: int, age: int) -> None:
    grid = np.array([wanted * MS])
    before, after = [t for t in times if t <= wanted], [t for t in times if t >= wanted]

    values, good = resample(series(times), grid, how("hold", age / 1000))
    assert good[0] == (bool(before) and wanted - before[-1] <= age)
    assert not good[0] or values[0, 0] == before[-1]

    values, good = resample(series(times), grid, how("nearest", age / 1000))
    nearest = min(abs(t - wanted) for t in times)
    assert good[0] == (nearest <= age)
    assert not good[0] or abs(values[0, 0] - wanted) == nearest

    # The value is the time, so between two samples it is what was wanted.
    values, good = resample(series(times), grid, how("linear", age / 1000))
    assert good[0] == (bool(before) and bool(after) and max(wanted - before[-1], after[0] - wanted) <= age)
    assert not good[0] or abs(values[0, 0] - wanted) < 1e-9


def test_a_shift_reads_later_samples() -> None:
    values, good = resample(series([0, 50, 100]), np.array([0, 50 * MS]), how("nearest", 0.0, shift=0.05))
    assert good.all() and values[:, 0].tolist() == [50, 100]


@given(st.lists(st.booleans(), max_size=20))
def test_runs_are_the_stretches_of_true(flags: list[bool]) -> None:
    found = runs(np.array(flags, dtype=np.bool_))
    again = np.zeros(len(flags), dtype=np.bool_)
    for run in found:
        again[run] = True
    assert again.tolist() == flags
    assert all(a.stop < b.start for a, b in itertools.pairwise(found))


def about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) of turns by angles (n,) about one axis."""
    return np.concatenate([np.sin(angle / 2)[:, None] * axis, np.cos(angle / 2)[:, None]], axis=1)


AXIS = np.array([2.0, -1.0, 2.0]) / 3.0


@pytest.mark.parametrize("rate", [0.0, 0.5, -3.0])
def test_a_steady_turn_has_its_angular_velocity(rate: float) -> None:
    turn = about(AXIS, rate * np.arange(40) * 0.05)
    turn[::3] *= -1.0  # the same rotations
    np.testing.assert_allclose(
        rotations.angular_velocity(turn, 0.05), np.tile(rate * AXIS, (40, 1)), atol=1e-9
    )


def test_rotations_between_two_samples_are_on_the_way() -> None:
    turn = about(AXIS, np.array([0.0, 0.4]))
    turn[1] *= -1.0
    middle, good = resample(Series(np.array([0, 100 * MS]), turn), np.array([50 * MS]), how("rotation"))
    assert good.all()
    np.testing.assert_allclose(middle, about(AXIS, np.array([0.2])), atol=1e-12)


def test_rotating_twice_is_the_product() -> None:
    rng = np.random.default_rng(0)
    a, b = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in rng.normal(size=(2, 20, 4)))
    v = rng.normal(size=(20, 3))
    twice = rotations.rotate(a, rotations.rotate(b, v))
    np.testing.assert_allclose(rotations.rotate(rotations.multiply(a, b), v), twice, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(twice, axis=1), np.linalg.norm(v, axis=1))
    np.testing.assert_allclose(
        rotations.rotate(rotations.conjugate(a), rotations.rotate(a, v)), v, atol=1e-12
    )
