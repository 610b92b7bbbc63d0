"""Pose filter: constant velocity between frames, and a declared loss of sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softflow_perception.fiducial import PoseEstimate
from softflow_perception.rotations import FloatArray, exp, log


@dataclass(frozen=True)
class TrackedPose:
    """Filtered pose and velocity of a body in the hand's base frame."""

    stamp: int
    """[ns] of the frame"""
    position: FloatArray
    """[m] (3,)"""
    rotation: FloatArray
    """(3, 3)"""
    linear: FloatArray
    """[m/s] (3,)"""
    angular: FloatArray
    """[rad/s] (3,)"""
    covariance: FloatArray
    """(12, 12) of (position, rotation vector, linear, angular)"""
    seen: bool
    """This frame had a measurement; otherwise the pose is predicted."""
    age: float
    """[s] since the last measurement"""


@dataclass(frozen=True)
class FilterSettings:
    """What the filter assumes. Accelerations are standard deviations of white noise over a second."""

    linear_noise: float = 0.6
    """[m/s^2 sqrt(s)]"""
    angular_noise: float = 25.0
    """[rad/s^2 sqrt(s)]"""
    gate: float = 60.0
    """Squared Mahalanobis distance of a measurement that is not believed (6 numbers: 22 is one in a thousand)."""
    gated_limit: int = 3
    """So many unbelievable measurements in a row are believed: the body was moved."""
    lost_after: float = 0.25
    """[s] without a measurement: out of sight."""


class PoseFilter:
    """Error-state Kalman filter; the rotation's error is a vector in the base frame."""

    def __init__(self, settings: FilterSettings | None = None) -> None:
        self.settings = settings or FilterSettings()
        self.rejected = 0
        self.restarts = 0
        self._state: TrackedPose | None = None
        self._gated = 0

    @property
    def lost(self) -> bool:
        """Never seen, or not for too long."""
        return self._state is None or self._state.age > self.settings.lost_after

    @property
    def last(self) -> TrackedPose | None:
        """The last known pose, however old; None when the body was never seen."""
        return self._state

    def reset(self) -> None:
        """Forget everything, e.g. when the scene was reset."""
        self._state, self._gated = None, 0

    def prior(self, stamp: int) -> PoseEstimate | None:
        """Where the body should be at `stamp` [ns]; None when it is lost."""
        if self._state is None or self.lost:
            return None
        p = self._predict(self._state, stamp)
        return PoseEstimate(p.position, p.rotation, p.covariance[:6, :6], 0.0, 0)

    def update(self, stamp: int, measured: PoseEstimate | None) -> TrackedPose | None:
        """Take in the frame of `stamp` [ns]; None until the body is seen for the first time, or once it is lost.

        Raises ValueError when stamps go back.
        """
        if self._state is not None and stamp < self._state.stamp:
            raise ValueError(f"stamp is {stamp} ns, must be at least {self._state.stamp} ns")
        if measured is None:
            if self._state is None or self.lost:
                return None
            self._state = self._predict(self._state, stamp)
            return None if self.lost else self._state
        if self._state is None or self.lost:
            self._state = self._start(stamp, measured)
            return self._state
        predicted = self._predict(self._state, stamp)
        residual = np.concatenate(
            [measured.position - predicted.position, log(measured.rotation @ predicted.rotation.T)]
        )
        innovation = predicted.covariance[:6, :6] + measured.covariance
        if float(residual @ np.linalg.solve(innovation, residual)) > self.settings.gate:
            self.rejected += 1
            self._gated += 1
            if self._gated >= self.settings.gated_limit:
                self.restarts += 1
                self._state = self._start(stamp, measured)
                return self._state
            self._state = predicted
            return predicted
        self._state = self._corrected(predicted, residual, innovation)
        self._gated = 0
        return self._state

    def _start(self, stamp: int, measured: PoseEstimate) -> TrackedPose:
        self._gated = 0
        covariance = np.zeros((12, 12))
        covariance[:6, :6] = measured.covariance
        covariance[6:9, 6:9] = 0.1**2 * np.eye(3)
        covariance[9:, 9:] = 3.0**2 * np.eye(3)
        zero = np.zeros(3)
        return TrackedPose(stamp, measured.position, measured.rotation, zero, zero, covariance, True, 0.0)

    def _predict(self, state: TrackedPose, stamp: int) -> TrackedPose:
        dt = (stamp - state.stamp) / 1e9
        transition = np.eye(12)
        transition[:6, 6:] = dt * np.eye(6)
        density = np.repeat([self.settings.linear_noise**2, self.settings.angular_noise**2], 3)
        noise = np.zeros((12, 12))
        noise[:6, :6] = np.diag(density * dt**3 / 3)
        noise[:6, 6:] = noise[6:, :6] = np.diag(density * dt**2 / 2)
        noise[6:, 6:] = np.diag(density * dt)
        return TrackedPose(
            stamp,
            state.position + dt * state.linear,
            exp(dt * state.angular) @ state.rotation,
            state.linear,
            state.angular,
            transition @ state.covariance @ transition.T + noise,
            seen=False,
            age=state.age + dt,
        )

    def _corrected(self, predicted: TrackedPose, residual: FloatArray, innovation: FloatArray) -> TrackedPose:
        gain = np.linalg.solve(innovation, predicted.covariance[:6]).T
        step = gain @ residual
        # Joseph's form would cost more and changes nothing at 30 Hz; symmetry is kept by hand.
        covariance = predicted.covariance - gain @ innovation @ gain.T
        return TrackedPose(
            predicted.stamp,
            predicted.position + step[:3],
            exp(step[3:6]) @ predicted.rotation,
            predicted.linear + step[6:9],
            predicted.angular + step[9:],
            (covariance + covariance.T) / 2,
            seen=True,
            age=0.0,
        )
