"""Checks between an action and the motors. Pure; every check names field, value and bound.

`safety_core` puts them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hand_driver.device import Description, FloatArray


class Refusal(ValueError):
    """A chunk or a command that is not accepted; the state in force stays."""


@dataclass(frozen=True)
class Clamped:
    """Result of a clamp: the value to use, and how many entries were changed."""

    value: FloatArray
    changed: int


def check_finite(name: str, values: FloatArray) -> None:
    """Raise Refusal naming the first entry that is NaN or infinite."""
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise Refusal(f"{name}[{index}] is {values.flat[index]}, must be finite")


def in_order(names: Sequence[str], values: FloatArray, wanted: Sequence[str]) -> FloatArray:
    """Values (J,) sorted as `wanted`, when each of its names comes exactly once. Raises Refusal."""
    if len(names) != len(values):
        raise Refusal(f"name has {len(names)} entries, position has {len(values)}")
    given = dict(zip(names, values, strict=True))
    if len(given) != len(names):
        raise Refusal(f"name: {next(n for n in names if list(names).count(n) > 1)!r} comes twice")
    missing = [n for n in wanted if n not in given]
    unknown = [n for n in names if n not in wanted]
    if missing or unknown:
        raise Refusal(f"name: missing {missing or 'none'}, unknown {unknown or 'none'}")
    return np.array([given[n] for n in wanted], dtype=np.float64)


def clamp_action(action: FloatArray) -> Clamped:
    """Clamp an action (A,) to [-1, 1]."""
    value = np.clip(action, -1.0, 1.0)
    return Clamped(value, int(np.count_nonzero(value != action)))


def clamp_targets(
    targets: FloatArray, description: Description, previous: FloatArray, period: float
) -> Clamped:
    """Clamp joint targets (J,) [rad, m] to the limits and to the speed limit over `period` [s]."""
    step = description.max_velocity * period
    value = np.clip(targets, previous - step, previous + step)
    value = np.clip(value, description.lower, description.upper)
    return Clamped(value, int(np.count_nonzero(value != targets)))
