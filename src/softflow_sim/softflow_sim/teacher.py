"""A scripted teacher for the cube rotation: twist with all fingers, then re-grip pair by pair.

Opposite fingers form a pair. After a twist either pair may re-grip first; the order is random, so that the
demonstrations have two modes. The teacher is slow and noisy on purpose: it stands for a human's first attempts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softflow_tasks import palmdown
from softflow_tasks.cube_rotation import CUBE_HALF, CubeRotation
from softflow_tasks.task import FloatArray, StateVector

GRIP_RADIUS = CUBE_HALF + palmdown.TIP_RADIUS
"""[m] radius of a fingertip that just touches the cube's face."""
LIFT = 0.012
"""[m] distance of a re-gripping fingertip from the cube."""
CLOSE_TIME = 0.35
"""[s] closing the hand at the start."""


@dataclass(frozen=True)
class TeacherStyle:
    """How one demonstration is driven."""

    twist_time: float
    """[s] for a full twist from -th to +th."""
    regrip_time: float
    """[s] for a pair to travel back."""
    hold_time: float
    """[s] between re-grips."""
    press: float
    """[m] how deep the fingertip targets lie inside the cube."""
    amplitude: float
    """[rad] twist angle th to either side."""
    noise: float
    """Standard deviation of the Ornstein-Uhlenbeck noise's increments on the action."""

    @classmethod
    def draw(cls, rng: np.random.Generator, noise: float = 0.02) -> TeacherStyle:
        """A slow style at random: 1.5-2.5 s a twist."""
        twist = rng.uniform(1.5, 2.5)
        return cls(
            twist_time=twist,
            regrip_time=twist * rng.uniform(0.35, 0.5),
            hold_time=0.1,
            press=rng.uniform(0.003, 0.006),
            amplitude=float(np.deg2rad(rng.uniform(30.0, 42.0))),
            noise=noise,
        )


class CubeTeacher:
    """Gives one action a control step; reproducible from its seed."""

    def __init__(self, seed: int, style: TeacherStyle | None = None, noise: float = 0.02) -> None:
        self._rng = np.random.default_rng(seed)
        self.style = style or TeacherStyle.draw(self._rng, noise)
        self._task = CubeRotation()
        self._dt = 1.0 / self._task.control_hz
        self._phase = "close"
        self._clock = 0.0
        self._start = 0.0
        self._first = int(self._rng.integers(2))
        self._angle = np.zeros(2)
        self._drift = np.zeros(self._task.action_dim)

    def observe(self, state: StateVector) -> None:
        """Nothing: this teacher turns blindly, by the clock."""

    def __call__(self) -> FloatArray:
        """The next action (8,)."""
        radius = np.full(2, GRIP_RADIUS - self.style.press)
        self._clock += self._dt
        if self._phase == "close":
            if self._clock >= CLOSE_TIME:
                self._enter("twist")
        elif self._phase == "twist":
            self._twist()
        else:
            self._regrip(radius)
        action = np.array(
            [
                self._task.synergy.from_tip(
                    radius[i % 2] * np.sin(self._angle[i % 2]), radius[i % 2] * np.cos(self._angle[i % 2])
                )
                for i in range(palmdown.FINGERS)
            ]
        ).reshape(-1)
        self._drift = 0.9 * self._drift + self.style.noise * self._rng.standard_normal(action.size)
        return np.clip(action + self._drift, -1.0, 1.0)

    def _enter(self, phase: str) -> None:
        self._phase, self._clock = phase, 0.0

    def _twist(self) -> None:
        s = self.style
        share = max(0.3, (s.amplitude - self._start) / (2 * s.amplitude))
        done = min(1.0, self._clock / (s.twist_time * share))
        self._angle[:] = self._start + (s.amplitude - self._start) * done
        if done >= 1.0:
            self._first = int(self._rng.integers(2))
            self._enter("regrip_first")

    def _regrip(self, radius: FloatArray) -> None:
        s = self.style
        pair = self._first if self._phase == "regrip_first" else 1 - self._first
        done = min(1.0, self._clock / s.regrip_time)
        travel = np.clip((done - 0.15) / 0.7, 0.0, 1.0)
        self._angle[pair] = s.amplitude - np.pi / 2 * (3 * travel**2 - 2 * travel**3)
        if done < 1.0:
            radius[pair] = GRIP_RADIUS + LIFT * min(1.0, 6 * min(done, 1 - done))
        if self._clock >= s.regrip_time + s.hold_time:
            if self._phase == "regrip_first":
                self._enter("regrip_second")
            else:
                self._start = s.amplitude - np.pi / 2
                self._enter("twist")
