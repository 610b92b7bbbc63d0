"""What a hand is to the driver: connect, read, command, disconnect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Description:
    """Limits and names. Arrays are (J,) in the order of `joint_names`; prismatic joints in m and m/s."""

    hand: str
    backend: str
    joint_names: tuple[str, ...]
    lower: FloatArray
    """[rad]"""
    upper: FloatArray
    """[rad]"""
    max_velocity: FloatArray
    """[rad/s]"""
    action_names: tuple[str, ...]
    control_rate: float
    """[Hz]"""


@dataclass(frozen=True)
class ObjectReading:
    """Pose and velocity of an object, where the back end knows it (simulation only)."""

    name: str
    position: FloatArray
    """[m] (3,)"""
    quaternion: FloatArray
    """xyzw"""
    linear: FloatArray
    """[m/s] (3,)"""
    angular: FloatArray
    """[rad/s] (3,)"""


@dataclass(frozen=True)
class Reading:
    """One bus read; arrays are (J,), prismatic joints in m and m/s."""

    position: FloatArray
    """[rad]"""
    velocity: FloatArray
    """[rad/s]"""
    current: FloatArray
    """[A]"""
    valid: NDArray[np.bool_]
    objects: tuple[ObjectReading, ...]
    """Those that the back end knows."""


class Hand(Protocol):
    """A hand behind one bus. Not thread safe."""

    description: Description

    def connect(self) -> None:
        """Open the bus. Raises OSError."""

    def read(self) -> Reading:
        """Read all joints. Raises OSError."""

    def command(self, targets: FloatArray) -> FloatArray:
        """Send joint targets (J,) [rad, m]; returns the targets as they were really sent. Raises OSError."""

    def disconnect(self) -> None:
        """Close the bus; the hand is left in a safe state."""

    def reset(self, seed: int) -> FloatArray:
        """Bring hand and scene to a start state; returns the joint targets (J,) then in force. Raises OSError."""

    def wait_period(self) -> float:
        """Let one control period pass in a simulated world; returns its length [s]. Real hands return at once."""
