"""What of a hand matters to whoever steers it, and joint targets by name, from any device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class TargetError(ValueError):
    """Joint targets that are not followed. The text names field, value and bound."""


@dataclass(frozen=True)
class HandLimits:
    """Joints of a hand in its order; arrays are (J,), [rad, rad/s], prismatic joints in m and m/s."""

    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    max_velocity: FloatArray

    @property
    def range(self) -> FloatArray:
        """(J,) upper minus lower."""
        return self.upper - self.lower

    def index(self, name: str) -> int:
        """Of a joint. Raises TargetError."""
        if name not in self.names:
            raise TargetError(f"joint {name!r} is unknown; known: {', '.join(self.names)}")
        return self.names.index(name)

    def clip(self, pose: FloatArray) -> FloatArray:
        """A pose (J,) within the range of each joint."""
        return np.clip(pose, self.lower, self.upper)


def merge_targets(
    limits: HandLimits, pose: FloatArray, names: Sequence[str], positions: Sequence[float]
) -> FloatArray:
    """`pose` (J,) with new positions of the named joints, clipped to their range; any order, a part of them too.

    Raises:
        TargetError: nothing in it, another number of names than positions, an unknown or repeated name, or a position
            that is not finite.
    """
    if not names or len(names) != len(positions):
        raise TargetError(
            f"name has {len(names)} entries and position {len(positions)}; must be equal, at least 1"
        )
    merged = pose.copy()
    given: set[str] = set()
    for name, position in zip(names, positions, strict=True):
        if name in given:
            raise TargetError(f"name {name!r} comes twice")
        if not math.isfinite(position):
            raise TargetError(f"position of {name!r} is {position}, must be finite")
        given.add(name)
        merged[limits.index(name)] = position
    return limits.clip(merged)


class Jog:
    """A pose that keys and sticks move: joints one by one, or several together along a synergy."""

    def __init__(
        self, limits: HandLimits, synergies: Mapping[str, Mapping[str, float]], pose: FloatArray
    ) -> None:
        """`synergies`: name -> {joint: its way [rad, m] from open to closed}. Raises TargetError: unknown joint."""
        self.limits, self.pose = limits, limits.clip(pose)
        self._ways: dict[str, FloatArray] = {}
        for name, ways in synergies.items():
            way = np.zeros(len(limits.names))
            for joint, distance in ways.items():
                way[limits.index(joint)] = distance
            self._ways[name] = way

    def joint(self, name: str, share: float) -> None:
        """Move a joint by a share of its range. Raises TargetError."""
        index = self.limits.index(name)
        moved = self.pose.copy()
        moved[index] += share * self.limits.range[index]
        self.pose = self.limits.clip(moved)

    def synergy(self, name: str, share: float) -> None:
        """Move along a synergy, 1 = from open to closed. Raises TargetError."""
        if name not in self._ways:
            raise TargetError(f"synergy {name!r} is unknown; known: {', '.join(self._ways) or 'none'}")
        self.pose = self.limits.clip(self.pose + share * self._ways[name])
