"""What a hand is to the driver: connect, read, command, disconnect; and reset."""

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
    temperature: FloatArray
    """[degC], NaN where it cannot be read"""
    valid: NDArray[np.bool_]
    """False where a joint could not be read and its values are those before."""
    faults: tuple[str, ...] = ()
    """What the hand reports of itself, with the joint's name."""
    age: float = 0.0
    """[s] how old the measurement was when the read returned"""
    objects: tuple[ObjectReading, ...] = ()
    """Those that the back end knows."""


class Hand(Protocol):
    """A hand behind one bus. Not thread safe."""

    description: Description

    def connect(self) -> None:
        """Open the bus. Raises OSError."""

    def read(self) -> Reading:
        """Read all joints. Raises OSError."""

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        """Send joint targets (J,) [rad, m] and the share (J,) of the current limits that may be used for them.

        Returns the targets as they were really sent. Raises OSError.
        """

    def set_stiffness(self, stiffness: FloatArray) -> None:
        """Send the share (J,) of the current limits alone; targets stay as they are. Raises OSError."""

    def disconnect(self) -> None:
        """Close the bus; the hand is left in a safe state. Never raises."""

    def reset(self, seed: int) -> FloatArray | None:
        """Bring hand and scene to a start state, where that is possible at once, in a simulated world.

        Returns the joint targets (J,) then in force; None of a real hand, which does not move: the driver brings it
        to its neutral pose at a safe speed. Raises OSError.
        """

    def wait_period(self) -> float:
        """Let one control period pass in a simulated world. Real hands return at once.

        Returns how far the robot clock has gone on since the last call [s].
        """

    def recover(self) -> NDArray[np.bool_]:
        """After a fault: open the bus again where it was lost, restart motors that report an error.

        Returns which joints (J,) had lost torque or target and are now held where they are, also those of calls before
        that failed half-way. Raises OSError when that does not help.
        """
