"""Taking up the slack of tendons, joint by joint, with little current. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from hand_driver.device import FloatArray
from hand_driver.hand_spec import HandSpec
from hand_driver.movement import OWN, Moment, Reach, joints_named
from hand_driver.safety import Refusal

PULL_SHARE = 0.25
"""Of a joint's soft current: what is pulled with when nothing else is asked for."""
LONGEST = 0.5
"""[rad] of a joint within which its tendon must be taut."""


class Tension:
    """Closes joint after joint until its motor draws the current asked for, and opens it again.

    What the motor turned until then is the slack. The safety core limits current, speed and range as ever.
    """

    holder, slow = OWN, True

    def __init__(self, names: Sequence[str], current: float, spec: HandSpec) -> None:
        """`current` [A], 0: a share of each joint's soft current. Raises Refusal where there is nothing to tension."""
        self._spec, self._joints = spec, joints_named(names, spec)
        if not any(m.coupling for m in spec.motors):
            kind = "its motors drive the joints directly" if spec.motors else "its file has no `motors`"
            raise Refusal(
                f"{spec.name} has no tendons that are known here: {kind}; tendons are motors with a `coupling`"
            )
        for i in self._joints:
            joint = spec.joints[i]
            if not (math.isfinite(current) and 0.0 <= current <= joint.soft_current):
                raise Refusal(
                    f"current is {current:.4g} A, must be in [0, {joint.soft_current}] A (soft_current of {joint.name})"
                )
        self._current = current
        self.joint, self.progress = "", 0.0
        self.slack: list[float] = []
        """[rad at the motor], of each of the joints"""
        self._moment: Moment
        self._script = self._run()

    def targets(self, moment: Moment) -> FloatArray | None:
        self._moment = moment
        return next(self._script, None)

    def _run(self) -> Iterator[FloatArray]:
        coupling = np.abs(self._spec.motor_matrix[0])
        for count, i in enumerate(self._joints):
            joint = self._spec.joints[i]
            self.joint, self.progress = joint.name, count / len(self._joints)
            pull = self._current or PULL_SHARE * joint.soft_current
            start = np.array(self._moment.command)
            begin = float(self._moment.reading.position[i])
            goal = start.copy()
            goal[i] = min(start[i] + LONGEST, joint.upper)
            yield from self._until_taut(i, goal, pull)
            # The motor that moves a joint most is the one whose current it is read with.
            gear = float(coupling[:, i].max())
            self.slack.append(gear * abs(float(self._moment.reading.position[i]) - begin))
            yield from self._to(start)
        self.progress = 1.0

    def _until_taut(self, i: int, goal: FloatArray, pull: float) -> Iterator[FloatArray]:
        way = Reach(goal, self._spec)
        while True:
            reading = self._moment.reading
            if reading.valid[i] and reading.current[i] >= pull:
                return
            targets = way.targets(self._moment)
            if targets is None:
                raise Refusal(
                    f"{self.joint} draws {reading.current[i]:.3f} A at {goal[i]:.3f}, wanted: {pull:.3f} A; "
                    f"its tendon is not taut within {LONGEST} rad"
                )
            yield targets

    def _to(self, goal: FloatArray) -> Iterator[FloatArray]:
        way = Reach(goal, self._spec)
        while (targets := way.targets(self._moment)) is not None:
            yield targets
