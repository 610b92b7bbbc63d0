"""Joint trajectories: what of them is accepted, and where the joints are to be at a time. Pure; no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hand_driver.device import FloatArray
from hand_driver.hand_spec import HandSpec
from hand_driver.safety import Refusal

IntArray = NDArray[np.int64]


def indices(field: str, names: Sequence[str], known: Sequence[str]) -> IntArray:
    """Where each of `names` is in `known`, (K,). Raises Refusal for none, an unknown one, or one that comes twice."""
    if not names:
        raise Refusal(f"{field} is empty, must name at least one joint")
    for i, name in enumerate(names):
        if name not in known:
            raise Refusal(f"{field}[{i}] is {name!r}, must be one of {', '.join(known)}")
        if name in names[:i]:
            raise Refusal(f"{field}[{i}] is {name!r}, comes twice")
    return np.array([list(known).index(name) for name in names], dtype=np.int64)


def with_targets(
    names: Sequence[str], position: FloatArray, known: Sequence[str], others: FloatArray
) -> FloatArray:
    """Joint targets (J,): those of the joints named, in any order, and `others` (J,) of the rest. Raises Refusal."""
    where = indices("name", names, known)
    if position.shape != where.shape:
        raise Refusal(f"position has {len(position)} values, name has {len(names)}")
    _finite("position", names, position)
    targets = np.array(others, dtype=np.float64)
    targets[where] = position
    return targets


def _finite(field: str, names: Sequence[str], values: FloatArray) -> None:
    for i in np.flatnonzero(~np.isfinite(values))[:1]:
        raise Refusal(f"{field}[{i}] ({names[i]}) is {values[i]}, must be finite")


@dataclass(frozen=True)
class Trajectory:
    """Knots of some joints. Times are [s] from its start."""

    joints: IntArray
    """(K,) indices"""
    times: FloatArray
    """(N,) strictly increasing, not negative"""
    positions: FloatArray
    """[rad, m] (N, K)"""
    velocities: FloatArray | None
    """[rad/s, m/s] (N, K); None: straight from knot to knot"""

    @property
    def end(self) -> float:
        """[s] from its start"""
        return float(self.times[-1])

    def sample(self, time: float, begin: float, pose: FloatArray) -> FloatArray:
        """Positions (K,) [rad, m] at `time`, when its joints were at rest at `pose` (K,) at `begin`.

        Knots at or before `begin` are passed already. Cubic (Hermite) where knots have velocities, else linear.
        """
        first = int(np.searchsorted(self.times, begin, side="right"))
        ahead = int(np.searchsorted(self.times, time, side="left"))
        if len(self.times) in (first, ahead):
            return self.positions[-1]
        if time <= begin:
            return pose
        rest = np.zeros_like(pose)
        t0, p0, v0 = begin, pose, rest
        if ahead > first:
            t0, p0 = float(self.times[ahead - 1]), self.positions[ahead - 1]
            v0 = rest if self.velocities is None else self.velocities[ahead - 1]
        t1, p1 = float(self.times[ahead]), self.positions[ahead]
        share = (time - t0) / (t1 - t0)
        if self.velocities is None:
            return p0 + share * (p1 - p0)
        return _hermite(share, t1 - t0, p0, v0, p1, self.velocities[ahead])


def _hermite(
    s: float, span: float, p0: FloatArray, v0: FloatArray, p1: FloatArray, v1: FloatArray
) -> FloatArray:
    """The cubic with these ends and slopes, at share `s` of its span [s]."""
    p = (1 + 2 * s) * (1 - s) ** 2 * p0 + s**2 * (3 - 2 * s) * p1
    return p + span * (s * (1 - s) ** 2 * v0 - s**2 * (1 - s) * v1)


def checked_trajectory(
    names: Sequence[str],
    times: Sequence[float],
    positions: Sequence[FloatArray],
    velocities: Sequence[FloatArray],
    spec: HandSpec,
) -> Trajectory:
    """A trajectory of what a message holds: a time [s], positions and velocities (K,) or (0,) a point.

    Raises:
        Refusal: names field, value and bound; nothing of the trajectory is followed.
    """
    joints = indices("joint_names", names, spec.joint_names)
    if not times:
        raise Refusal("points is empty, must hold at least one")
    before = -1e-12
    with_velocities = bool(len(velocities[0]))
    lower, upper, fastest = (spec.values(n)[joints] for n in ("lower", "upper", "max_velocity"))
    for i, (time, position, velocity) in enumerate(zip(times, positions, velocities, strict=True)):
        where = f"points[{i}]"
        if not time > before:
            raise Refusal(f"{where}.time_from_start is {time} s, must be after {max(before, 0.0)} s")
        before = time
        if len(position) != len(names):
            raise Refusal(f"{where}.positions has {len(position)} values, joint_names has {len(names)}")
        if len(velocity) != (len(names) if with_velocities else 0):
            raise Refusal(
                f"{where}.velocities has {len(velocity)} values, must have "
                f"{len(names) if with_velocities else 0}, as points[0]"
            )
        _finite(f"{where}.positions", names, position)
        _finite(f"{where}.velocities", names, velocity)
        _within(f"{where}.positions", names, position, lower, upper)
        if with_velocities:
            _within(f"{where}.velocities", names, velocity, -fastest, fastest)
    return Trajectory(
        joints,
        np.array(times, dtype=np.float64),
        np.array(positions, dtype=np.float64),
        np.array(velocities, dtype=np.float64) if with_velocities else None,
    )


def _within(
    field: str, names: Sequence[str], values: FloatArray, lower: FloatArray, upper: FloatArray
) -> None:
    for i in np.flatnonzero((values < lower) | (values > upper))[:1]:
        raise Refusal(f"{field}[{i}] ({names[i]}) is {values[i]:.4g}, must be in [{lower[i]}, {upper[i]}]")
