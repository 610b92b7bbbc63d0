"""Joint targets that never exceed range, speed, acceleration, nor let fingers touch. Pure; no clock."""

from __future__ import annotations

import numpy as np

from hand_driver.device import FloatArray
from hand_driver.hand_spec import HandSpec
from hand_driver.safety import clamp_targets

BISECTIONS = 12
"""Of the share of a movement that a pair of fingers still allows."""


class MotionLimiter:
    """Takes the joint targets from where they are towards where they are wanted, one control period at a time.

    Speeds are in [rad a period] here. Invariant: from any state the targets can be braked to rest within the range and
    without violating a pair, at no more than the allowed acceleration.
    """

    def __init__(self, spec: HandSpec) -> None:
        self._limits = spec.description("", (), spec.control_rate)
        self._period = spec.period
        self._speed = self._limits.max_velocity * self._period
        self._change = spec.values("max_acceleration") * self._period**2
        self._pairs = list(zip(*spec.pair_matrix, strict=True))
        self.command = spec.values("neutral")
        """Joint targets (J,) in force."""
        self._moved = np.zeros(len(spec.joints))
        self._before = (self.command, self._moved)

    def start(self, pose: FloatArray) -> None:
        """Begin at rest at a pose (J,), which may be out of range."""
        self.command = np.array(pose, dtype=np.float64)
        self.stop()

    def stop(self) -> FloatArray:
        """Stay where the targets are, at once; returns them."""
        self._moved = np.zeros_like(self.command)
        self._before = (self.command, self._moved)
        return self.command

    def undo(self) -> None:
        """The last targets did not reach the hand: those before are still in force, at rest."""
        self.command = self._before[0]
        self.stop()

    def step(self, wanted: FloatArray, share: FloatArray) -> FloatArray:
        """The next targets (J,) on the way to `wanted` (J,) at `share` (J,) of the maximal speed."""
        previous, lower, upper = self.command, self._limits.lower, self._limits.upper
        goal = np.clip(wanted, lower, upper)
        low, high = self._reachable(share)
        approach = self._approach(goal - previous)
        step = np.clip(approach, low, high)
        allowed = self._keep_apart(step, np.clip(0.0, low, high))
        # Where neither acceleration, braking nor a pair binds, the numbers are those of the plain clamp, bit by bit.
        free = (previous >= lower) & (previous <= upper) & (high >= self._speed) & (low <= -self._speed)
        free &= (allowed == step) & (np.abs(approach) >= np.minimum(np.abs(goal - previous), self._speed))
        plain = clamp_targets(wanted, self._limits, previous, self._period).value
        value = np.where(free, plain, previous + allowed)
        value = np.clip(value, np.minimum(lower, previous), np.maximum(upper, previous))
        self._before = (previous, self._moved)
        self.command, self._moved = value, value - previous
        return value

    def _reachable(self, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Least and largest step (J,); a speed above the allowed share is left at the allowed acceleration."""
        top, most, least = self._speed * share, self._moved + self._change, self._moved - self._change
        high = np.maximum(np.minimum(top, most), least)
        low = np.minimum(np.maximum(-top, least), most)
        return np.maximum(low, -self._speed), np.minimum(high, self._speed)

    def _approach(self, distance: FloatArray) -> FloatArray:
        """The largest step (J,) after which the goal is not passed when braking from then on.

        n steps of w, w - u, w - 2u, ... cover n w - u n (n - 1) / 2; u: change of the step from a period to the next.
        """
        room, change = np.abs(distance), self._change
        n = np.maximum(np.ceil((np.sqrt(1.0 + 8.0 * room / change) - 1.0) / 2.0), 1.0)
        return np.where(n <= 1.0, distance, np.sign(distance) * (room / n + change * (n - 1.0) / 2.0))

    def _stopping(self, step: FloatArray) -> FloatArray:
        """How far (J,) the targets go, this step included, when braked after it."""
        size = np.abs(step)
        n = np.floor(size / self._change)
        return np.sign(step) * (size * (n + 1.0) - self._change * n * (n + 1.0) / 2.0)

    def _keep_apart(self, step: FloatArray, braked: FloatArray) -> FloatArray:
        """Shortens what brings a pair together, so that it could be braked in time; what opens it is left alone."""
        for row, bound in self._pairs:
            slack = bound - float(row @ self.command)
            closing = row * step > 0.0

            def fits(candidate: FloatArray, row: FloatArray = row, slack: float = slack) -> bool:
                return float(np.maximum(row * self._stopping(candidate), 0.0).sum()) <= slack

            if not closing.any() or fits(step):
                continue
            share, width = 0.0, 0.5
            for _ in range(BISECTIONS):
                if fits(np.where(closing, braked + (share + width) * (step - braked), step)):
                    share += width
                width /= 2.0
            step = np.where(closing, braked + share * (step - braked), step)
        return step
