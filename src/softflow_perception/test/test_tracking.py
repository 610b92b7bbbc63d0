"""The pose filter: velocities, gaps, outliers, loss of sight."""

from __future__ import annotations

import numpy as np
import pytest

from softflow_perception.fiducial import PoseEstimate
from softflow_perception.rotations import exp, log
from softflow_perception.tracking import PoseFilter

FRAME = 50_000_000
SPIN = np.array([0.0, 0.0, 2.0])
DRIFT = np.array([0.02, -0.01, 0.0])
COVARIANCE = np.diag([3e-4**2] * 3 + [6e-3**2] * 3)


def measured(step: int, rng: np.random.Generator | None = None) -> PoseEstimate:
    seconds = step * FRAME / 1e9
    noise = np.zeros(6) if rng is None else rng.multivariate_normal(np.zeros(6), COVARIANCE)
    rotation = exp(noise[3:]) @ exp(SPIN * seconds)
    return PoseEstimate(DRIFT * seconds + noise[:3], rotation, COVARIANCE, 0.3, 4)


def test_constant_motion_is_followed_with_its_velocities() -> None:
    tracker, rng = PoseFilter(), np.random.default_rng(0)
    for step in range(40):
        tracked = tracker.update(step * FRAME, measured(step, rng))
    assert tracked is not None
    truth = measured(39)
    np.testing.assert_allclose(tracked.position, truth.position, atol=1e-3)
    assert np.linalg.norm(log(tracked.rotation @ truth.rotation.T)) < 0.02
    np.testing.assert_allclose(tracked.linear, DRIFT, atol=0.06)
    np.testing.assert_allclose(tracked.angular, SPIN, atol=0.5)
    eigenvalues = np.linalg.eigvalsh(tracked.covariance)
    assert eigenvalues.min() > 0


def test_a_gap_is_bridged_and_then_declared() -> None:
    tracker = PoseFilter()
    for step in range(20):
        tracker.update(step * FRAME, measured(step))
    bridged = tracker.update(22 * FRAME, None)
    assert bridged is not None and not bridged.seen
    assert bridged.age == pytest.approx(0.15)
    assert np.linalg.norm(log(bridged.rotation @ measured(22).rotation.T)) < 0.05
    assert tracker.update(30 * FRAME, None) is None and tracker.lost
    assert tracker.prior(31 * FRAME) is None
    again = tracker.update(32 * FRAME, measured(32))
    assert again is not None and again.seen
    np.testing.assert_array_equal(again.angular, np.zeros(3))


def test_one_outlier_is_not_believed_and_a_moved_body_is() -> None:
    tracker = PoseFilter()
    for step in range(20):
        tracker.update(step * FRAME, measured(step))
    moved = PoseEstimate(np.array([0.2, 0.0, 0.0]), np.eye(3), COVARIANCE, 0.3, 4)
    for step in (20, 21):
        tracked = tracker.update(step * FRAME, moved)
        assert tracked is not None and not tracked.seen
        assert np.linalg.norm(tracked.position - measured(step).position) < 2e-3
    tracked = tracker.update(22 * FRAME, moved)
    assert tracked is not None and tracked.seen and (tracker.rejected, tracker.restarts) == (3, 1)
    np.testing.assert_array_equal(tracked.position, moved.position)


def test_stamps_that_go_back_are_refused_and_a_reset_forgets() -> None:
    tracker = PoseFilter()
    tracker.update(FRAME, measured(1))
    with pytest.raises(ValueError, match="stamp is 0 ns"):
        tracker.update(0, measured(0))
    tracker.reset()
    assert tracker.lost and tracker.update(0, None) is None
    assert tracker.update(0, measured(0)) is not None
