"""A scripted teacher for the tool task: way-points from the case to one of the two tapes.

Which tape is random, so that the demonstrations have two modes. The teacher sees only observations, places hand and
blades with errors as a human operator does, and therefore fails often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softflow_tasks import gantry
from softflow_tasks.task import FloatArray, StateVector
from softflow_tasks.tool_cut import REST_HEIGHT, TAPE_DISTANCE, ToolCut

GRASP_ERROR = 0.005
"""[m] default standard deviation of where the hand closes, along each axis."""
CUT_ERROR = 0.002
"""[m] default standard deviation of where the blades close, across the tape."""
NOISE = 0.02
"""Default standard deviation of the Ornstein-Uhlenbeck noise's increments on the action."""

GANTRY_NOISE = 3.0
"""So much larger is the noise on the gantry: it wanders off and comes back, and so shows how to correct a miss."""

ABOVE = 0.030
"""[m] the gantry's height before it comes down."""
GRASP = REST_HEIGHT + 0.030 - (gantry.PALM_HEIGHT - gantry.REACH)
"""[m] the gantry's height at which the fingertips are at the handles' pads."""
CARRY = GRASP + 0.050
"""[m] the gantry's height while it carries the tool."""
BELOW_TAPE = 0.010
"""[m] blade tips below the tape when they close."""
GRIP = 0.30
"""Closure that holds the scissors without closing them."""
GRIP_SPREAD = 20.0
"""[1/m] standard deviation of the grip per metre of grasp error."""
GRIP_STEPS = 14
"""Control steps for the grip to settle."""
GRIP_RATE, CUT_RATE = 0.15, 0.12
"""Closure per control step."""


@dataclass(frozen=True)
class ToolTeacherStyle:
    """How one demonstration is driven."""

    side: int
    """0: the tape at positive y; 1: the other."""
    speed: float
    """Share of the gantry's largest speed."""
    grip: float
    """Closure of the two gripping fingers while the tool is carried."""
    grasp_error: FloatArray
    """[m] (3,) by which the hand misses the handles."""
    cut_error: float
    """[m] by which the blades miss the tape."""
    noise: float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        noise: float = NOISE,
        grasp_error: float = GRASP_ERROR,
        cut_error: float = CUT_ERROR,
    ) -> ToolTeacherStyle:
        """A style at random; the errors [m] are standard deviations, 0 for none."""
        return cls(
            side=int(rng.integers(2)),
            speed=rng.uniform(0.5, 0.9),
            grip=GRIP + GRIP_SPREAD * grasp_error * rng.standard_normal(),
            grasp_error=grasp_error * rng.standard_normal(3),
            cut_error=cut_error * rng.standard_normal(),
            noise=noise,
        )


class ToolTeacher:
    """Gives one action a control step; between two observations it plays on from its own commands."""

    def __init__(self, seed: int, style: ToolTeacherStyle | None = None, noise: float = NOISE) -> None:
        self._rng = np.random.default_rng(seed)
        self.style = style or ToolTeacherStyle.draw(self._rng, noise)
        self._task = ToolCut()
        self._period = 1.0 / self._task.control_hz
        self._phase = 0
        self._steps = 0
        self._closure = -1.0
        self._drift = np.zeros(self._task.action_dim)
        self._noise = self.style.noise * np.array([GANTRY_NOISE] * 3 + [1.0] * 4)
        self._home: FloatArray | None = None

    def observe(self, state: StateVector) -> None:
        """Take in an observation (S,)."""
        block = self._task.block
        palm = block(state, "gantry_position")
        self._target = palm + block(state, "gantry_ahead")
        across = block(state, "jaw_to_tapes")[self.style.side]
        y, height = block(state, "jaw_place")
        if self._home is None:
            self._home = block(state, "tool_position")
        # The tool hangs rigidly in the hand: where the palm must be for the jaw to be at the tape.
        side = 1.0 if self.style.side == 0 else -1.0
        self._over_tape = palm - (across - self.style.cut_error, y - side * TAPE_DISTANCE, 0.0)
        self._over_tape[2] = CARRY
        self._at_tape = np.array([*self._over_tape[:2], palm[2] - BELOW_TAPE - height])

    def __call__(self) -> FloatArray:
        """The next action (7,)."""
        if self._home is None:
            raise RuntimeError("the teacher has 0 observations, must have at least 1 before it acts")
        self._steps += 1
        velocity, done = self._move()
        if done:
            self._phase, self._steps = self._phase + 1, 0
        closure = [self._closure, -1.0, self._closure, -1.0]
        self._drift = 0.8 * self._drift + self._noise * self._rng.standard_normal(7)
        action = np.clip(np.concatenate([velocity, closure]) + self._drift, -1.0, 1.0)
        self._target = gantry.gantry_target(self._target, action[gantry.GANTRY], self._period)
        return action

    def _move(self) -> tuple[FloatArray, bool]:
        """Velocity (3,) in [-1, 1] of the phase, and whether the phase is over; sets the closure."""
        assert self._home is not None
        error, still = self.style.grasp_error, (np.zeros(3), self._steps > GRIP_STEPS)
        x, y = self._home[:2] + error[:2]
        if self._phase == 0:
            return self._towards(np.array([x, y, ABOVE]), 0.004)
        if self._phase == 1:
            return self._towards(np.array([x, y, GRASP + error[2]]), 0.004)
        if self._phase == 2:
            self._closure = min(self.style.grip, self._closure + GRIP_RATE)
            return still
        if self._phase == 3:
            return self._towards(np.array([*self._target[:2], CARRY]), 0.004)
        if self._phase == 4:
            return self._towards(self._over_tape, 0.003)
        if self._phase == 5:
            return self._towards(self._at_tape, 0.002)
        self._closure = min(1.0, self._closure + CUT_RATE)
        return np.zeros(3), False

    def _towards(self, target: FloatArray, tolerance: float) -> tuple[FloatArray, bool]:
        """Straight to a gantry target [m] at the style's speed, exact in the last step."""
        way = target - self._target
        velocity = way / (gantry.MAX_SPEED * self._period)
        fastest = float(np.abs(velocity).max())
        slower = min(1.0, self.style.speed / max(fastest, 1e-9))
        return velocity * slower, bool(np.abs(way).max() < tolerance)
