"""Whether the joint targets of a hand moved as they may. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ROUNDING = 1e-5
"""Relative to the magnitude of a target: HandState carries float32."""


@dataclass(frozen=True)
class Limits:
    """Arrays (J,) [rad; prismatic m]."""

    lower: FloatArray
    upper: FloatArray
    step: FloatArray
    """The most that a target may move in one control step."""


@dataclass
class MotionCheck:
    """Looks at every HandState of one hand."""

    limits: Limits | None = None
    states: int = 0
    held: int = 0
    """Steps without a chunk, in which the hand held."""
    largest: float = 0.0
    """The largest step of a target, as a share of what it may be."""
    violations: list[str] = field(default_factory=list)
    _last: tuple[str, int, FloatArray] | None = None

    def add(self, episode_id: str, step: int, command: Sequence[float], starved: bool) -> None:
        """One state; `command` (J,) are the targets that led to it."""
        targets = np.asarray(command, dtype=np.float64)
        last, self._last = self._last, (episode_id, step, targets)
        self.states += 1
        if self.limits is not None:
            self._check_range(episode_id, step, targets, self.limits)
        if last is None or last[0] != episode_id or not episode_id or step <= last[1]:
            return  # another episode begins where the reset has put the hand
        if starved and step == last[1] + 1:
            self.held += 1
            if not np.array_equal(targets, last[2]):
                self.violations.append(f"{episode_id} step {step}: no chunk to play, and the targets moved")
        if self.limits is not None:
            self._check_step(episode_id, step, targets - last[2], (step - last[1]) * self.limits.step)

    def _check_range(self, episode_id: str, step: int, targets: FloatArray, limits: Limits) -> None:
        slack = ROUNDING * (1.0 + np.abs(targets))
        outside = (targets < limits.lower - slack) | (targets > limits.upper + slack) | ~np.isfinite(targets)
        if outside.any():
            joint = int(np.flatnonzero(outside)[0])
            self.violations.append(
                f"{episode_id} step {step}: target of joint {joint} is {targets[joint]}, must be in "
                f"[{limits.lower[joint]}, {limits.upper[joint]}]"
            )

    def _check_step(self, episode_id: str, step: int, moved: FloatArray, allowed: FloatArray) -> None:
        share = np.abs(moved) / allowed
        self.largest = max(self.largest, float(share.max(initial=0.0)))
        if (share > 1.0 + ROUNDING).any():
            joint = int(np.argmax(share))
            self.violations.append(
                f"{episode_id} step {step}: target of joint {joint} moved by {moved[joint]}, at most "
                f"{allowed[joint]} is allowed"
            )
