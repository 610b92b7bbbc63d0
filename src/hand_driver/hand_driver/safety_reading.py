"""Which readings of the joints' positions can be believed. No clock of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec


class Plausibility:
    """Looks at one reading after the other.

    Where a joint cannot have come to since it was last read (`max_reading_speed`), it was misread. Where two
    readings in a row say so of the same place, it is there, and its encoder has lost its place.
    """

    def __init__(self, spec: HandSpec) -> None:
        self._spec, self._names = spec, spec.joint_names
        self.misread = 0
        """Positions that were not believed."""
        self.forget()

    def forget(self) -> None:
        """The next reading is believed wherever it is."""
        unknown = np.full(len(self._names), np.nan)
        self._velocity = unknown
        self._known = self._doubted = unknown, unknown

    def check(self, reading: Reading, now: float) -> Reading:
        """The reading with what is to be believed of it. `now` [s]: when it was taken.

        A misread joint is not valid and keeps position and velocity of before.
        """
        read = reading.valid & np.isfinite(reading.position)
        position, at = self._known
        near = self._near(reading.position, self._known, now) | np.isnan(position)
        lost = read & ~near & self._near(reading.position, self._doubted, now)
        misread = read & ~near & ~lost
        self.misread += int(misread.sum())
        faults = tuple(
            f"{self._names[i]} went from {position[i]:.3f} to {reading.position[i]:.3f} in "
            f"{now - at[i]:.3f} s, allowed: {self._spec.safety.max_reading_speed} rad/s (max_reading_speed); "
            "its encoder, or a lost turn of its motor?"
            for i in np.flatnonzero(lost)
        )
        velocity = np.where(misread, self._velocity, reading.velocity)
        self._doubted = np.where(misread, reading.position, np.nan), np.where(misread, now, np.nan)
        believed = read & ~misread
        self._known = np.where(believed, reading.position, position), np.where(believed, now, at)
        self._velocity = np.where(believed, reading.velocity, self._velocity)
        return replace(
            reading,
            position=np.where(misread, position, reading.position),
            velocity=velocity,
            valid=reading.valid & ~misread,
            faults=reading.faults + faults,
        )

    def _near(
        self, position: FloatArray, before: tuple[FloatArray, FloatArray], now: float
    ) -> NDArray[np.bool_]:
        """Joints (J,) that can have come to a position from where they were, `before`: position and time."""
        passed = np.maximum(now - before[1], self._spec.period)
        return np.abs(position - before[0]) <= self._spec.safety.max_reading_speed * passed

    def unknown(self, reading: Reading, whole: bool = True) -> str:
        """Why a pose cannot be trusted to begin from; empty when it can. `whole`: every joint must have been read.

        A motor that was restarted may have lost a turn; its joint would be driven into a hard stop.
        """
        margin = self._spec.safety.max_jump
        for joint, angle, valid in zip(self._spec.joints, reading.position, reading.valid, strict=True):
            if not (valid and np.isfinite(angle)):
                if whole:
                    return f"{joint.name} was not read"
            elif not joint.lower - margin <= angle <= joint.upper + margin:
                return (
                    f"{joint.name} is at {angle:.3f}, more than {margin} beyond [{joint.lower}, {joint.upper}]: "
                    "calibration, or a lost turn of its motor?"
                )
        return ""
