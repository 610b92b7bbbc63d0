"""What differs from hand to hand: the cube's scene with other physics, fixed or drawn anew at each reset.

The observation and the action stay those of the task. The hand's own delays and errors are unknown to whoever drives
it: the observation's last action and the joint targets are those that were asked for.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from softflow_node.parameters import ParameterError, Validated, bounded
from softflow_sim.cube_scene import CUBE_MASS, CubeScene
from softflow_tasks import palmdown
from softflow_tasks.cube_rotation import CubeRotation
from softflow_tasks.task import FloatArray, HandSample, Objects

JOINTS = len(palmdown.JOINT_NAMES)
MAX_OFFSET = 0.2
"""[rad]"""
MAX_DELAY = 10
"""[steps]"""


@dataclass(frozen=True)
class Dynamics(Validated):
    """One hand and cube. The default is the unmodified simulation, bit by bit."""

    friction: float = bounded(1.0, low=0.05, high=3.0, doc="sliding friction of the fingertips")
    cube_mass: float = bounded(CUBE_MASS, low=0.005, high=0.5, unit="kg")
    action_delay: int = bounded(0, low=0, high=MAX_DELAY, unit="steps", doc="until joint targets take effect")
    # The play operator on the joint targets: a joint follows once the slack is used up.
    backlash: float = bounded(
        0.0, low=0.0, high=0.3, unit="rad", doc="from one end of the slack to the other"
    )
    # A calibration error: a joint is this much further than it is told, and than it reads.
    joint_offset: tuple[float, ...] = bounded((0.0,) * JOINTS, unit="rad", doc="of each joint")
    actuator_gain: float = bounded(1.0, low=0.1, high=5.0, doc="stiffness of the servos, of the nominal one")
    joint_noise: float = bounded(0.0, low=0.0, high=0.2, unit="rad", doc="standard deviation of readings")
    cube_noise: float = bounded(0.0, low=0.0, high=0.01, unit="m", doc="the same, of the cube's position")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.joint_offset) != JOINTS:
            raise ParameterError(
                f"Dynamics: parameter 'joint_offset' has {len(self.joint_offset)} values, must have {JOINTS}"
            )
        for name, value in zip(palmdown.JOINT_NAMES, self.joint_offset, strict=True):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_OFFSET:
                raise ParameterError(
                    f"Dynamics: parameter 'joint_offset' of {name} is {value!r}, must be a number in "
                    f"[-{MAX_OFFSET}, {MAX_OFFSET}] rad"
                )

    def vector(self) -> FloatArray:
        """All parameters (7 + J,), each about 1 in size over the training range: what a privileged teacher sees."""
        scales = {
            "friction": (1.0, 0.3),
            "cube_mass": (CUBE_MASS, 0.02),
            "action_delay": (0.0, 1.0),
            "backlash": (0.0, 0.03),
            "actuator_gain": (1.0, 0.2),
            "joint_noise": (0.0, 0.01),
            "cube_noise": (0.0, 0.001),
        }
        singles = [(getattr(self, name) - middle) / width for name, (middle, width) in scales.items()]
        return np.concatenate([singles, np.array(self.joint_offset) / 0.03])


@dataclass(frozen=True)
class Ranges:
    """(lowest, highest) of each parameter, drawn uniformly; offsets for each joint on its own."""

    friction: tuple[float, float] = (0.7, 1.3)
    cube_mass: tuple[float, float] = (0.045, 0.080)
    action_delay: tuple[int, int] = (0, 1)
    backlash: tuple[float, float] = (0.0, 0.03)
    joint_offset: tuple[float, float] = (-0.03, 0.03)
    actuator_gain: tuple[float, float] = (0.8, 1.2)
    joint_noise: tuple[float, float] = (0.0, 0.01)
    cube_noise: tuple[float, float] = (0.0, 0.001)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            low, high = getattr(self, field.name)
            if not low <= high:
                raise ParameterError(
                    f"Ranges: parameter {field.name!r} is ({low}, {high}), must have low <= high"
                )
        # Both corners are hands that can be.
        for side in (0, 1):
            values = {f.name: getattr(self, f.name)[side] for f in dataclasses.fields(self)}
            Dynamics(**values | {"joint_offset": (values["joint_offset"],) * JOINTS})

    def draw(self, rng: np.random.Generator) -> Dynamics:
        """One hand."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        low, high = values.pop("joint_offset")
        offsets = tuple(rng.uniform(low, high, JOINTS).tolist())
        low, high = values.pop("action_delay")
        delay = int(rng.integers(low, high + 1))
        singles = {name: float(rng.uniform(*bounds)) for name, bounds in values.items()}
        return Dynamics(joint_offset=offsets, action_delay=delay, **singles)

    def outside(self, dynamics: Dynamics) -> tuple[str, ...]:
        """Names of the parameters of a hand that training never sees."""
        found = []
        for field in dataclasses.fields(self):
            low, high = getattr(self, field.name)
            values = np.atleast_1d(getattr(dynamics, field.name))
            if (values < low).any() or (values > high).any():
                found.append(field.name)
        return tuple(found)


TRAINING = Ranges()
"""What a teacher and its student are trained on: `dynamics="randomised"`."""

SHIFTED = Dynamics(
    friction=0.55,
    cube_mass=0.095,
    action_delay=2,
    backlash=0.06,
    joint_offset=(0.05, -0.06, 0.05, -0.06, 0.05, 0.06, 0.06, 0.05, -0.05, -0.05, -0.06, 0.05),
    actuator_gain=0.7,
    joint_noise=0.01,
    cube_noise=0.001,
)
"""Stands for the real hand, `dynamics="shifted"`: slippery, heavy, late, loose, weak, badly calibrated. All but the
noise lies outside of `TRAINING`."""

CALIBRATED = dataclasses.replace(SHIFTED, joint_offset=(0.0,) * JOINTS)
"""The same hand without its calibration error: joint targets take 100 ms to arrive, and fingers slip and give way."""

DYNAMICS: dict[str, Dynamics | Ranges] = {"nominal": Dynamics(), "randomised": TRAINING, "shifted": SHIFTED}
"""By the names that environments and commands take."""


def named_dynamics(name: str) -> Dynamics | Ranges:
    """Raises ParameterError that lists the known names."""
    if name not in DYNAMICS:
        raise ParameterError(f"dynamics: {name!r} is unknown, allowed: {', '.join(DYNAMICS)}")
    return DYNAMICS[name]


@dataclass(frozen=True)
class SavedScene:
    """Everything that the future of a scene depends on."""

    physics: FloatArray
    dynamics: Dynamics
    pending: tuple[FloatArray, ...]
    followed: FloatArray
    commanded: FloatArray
    applied: FloatArray
    noise: tuple[FloatArray, FloatArray]
    rng_state: Mapping[str, Any]


class DynamicCubeScene(CubeScene):
    """The cube's scene with other physics. With the default dynamics, the unmodified one bit by bit."""

    STATE = mujoco.mjtState.mjSTATE_INTEGRATION
    """With the solver's warm start: what follows a restored state repeats bitwise."""

    def __init__(
        self, dynamics: Dynamics | Ranges | str = "nominal", task: CubeRotation | None = None
    ) -> None:
        """`dynamics` as such, or ranges to draw from at each reset, or a name of `DYNAMICS`.

        Raises ParameterError for an unknown name.
        """
        self._source = named_dynamics(dynamics) if isinstance(dynamics, str) else dynamics
        self.dynamics = Dynamics()
        self._rng = np.random.default_rng(0)
        self._noise = (np.zeros(JOINTS), np.zeros(3))
        self._commanded = self._followed = np.zeros(JOINTS)
        self._pending: deque[FloatArray] = deque()
        self._nominal: dict[str, FloatArray] = {}
        super().__init__(task)

    def reset(self, seed: int) -> FloatArray:
        """See `Scene.reset`; the seed fixes the dynamics and the noise too."""
        self._rng = np.random.default_rng([seed, 1])  # Another stream than the start state's.
        source = self._source
        self._apply(source.draw(self._rng) if isinstance(source, Ranges) else source)
        return super().reset(seed)

    def _apply(self, dynamics: Dynamics) -> None:
        """Write the dynamics into the model, from nominal values: nothing adds up over resets."""
        self.dynamics = dynamics
        model = self.model
        fields = ("geom_friction", "body_mass", "body_inertia", "actuator_gainprm", "actuator_biasprm")
        if not self._nominal:
            self._nominal = {name: np.array(getattr(model, name)) for name in fields}
        for name, value in self._nominal.items():
            getattr(model, name)[:] = value
        tips = [model.geom(f"finger{i}_tip").id for i in range(palmdown.FINGERS)]
        model.geom_friction[tips, 0] *= (
            dynamics.friction
        )  # Nominally 1; the tips decide on every contact of theirs.
        cube = model.body("cube").id
        model.body_inertia[cube] *= dynamics.cube_mass / CUBE_MASS
        model.body_mass[cube] *= dynamics.cube_mass / CUBE_MASS
        model.actuator_gainprm[:, 0] *= dynamics.actuator_gain
        model.actuator_biasprm[:, 1] *= dynamics.actuator_gain
        mujoco.mj_setConst(model, mujoco.MjData(model))

    def _place(self, rng: np.random.Generator) -> None:
        super()._place(rng)
        self._commanded = np.array(self.data.ctrl)
        self._followed = self._commanded.copy()
        self._pending = deque([self._commanded] * self.dynamics.action_delay)
        offset = np.array(self.dynamics.joint_offset)
        if offset.any():  # The open hand touches nothing, so it may just be put there.
            self.data.ctrl[:] += offset
            self.data.qpos[:JOINTS] += offset
            mujoco.mj_forward(self.model, self.data)
        self._draw_noise()

    def set_targets(self, targets: FloatArray) -> FloatArray:
        """Set joint targets (J,) [rad]; they take effect as the dynamics let them. Returns them."""
        self._commanded = np.array(targets, dtype=np.float64)
        return targets

    def step_period(self) -> None:
        """Step the physics for one control period."""
        self._pending.append(self._commanded)
        arrived = self._pending.popleft()
        slack = self.dynamics.backlash / 2
        self._followed = np.clip(self._followed, arrived - slack, arrived + slack)
        self.data.ctrl[:] = self._followed + np.array(self.dynamics.joint_offset)
        super().step_period()
        self._draw_noise()

    def joint_targets(self) -> FloatArray:
        """Joint targets (J,) [rad] as asked for."""
        return self._commanded.copy()

    def hand(self) -> HandSample:
        """Reading of the hand, with its errors; the same until the next control period."""
        read = super().hand()
        position = read.position - np.array(self.dynamics.joint_offset) + self._noise[0]
        return dataclasses.replace(read, position=position)

    def objects(self) -> Objects:
        """Poses and velocities, the position with its error; the same until the next control period."""
        cube = super().objects()["cube"]
        return {"cube": dataclasses.replace(cube, position=cube.position + self._noise[1])}

    def _draw_noise(self) -> None:
        joints, cube = self._rng.standard_normal(JOINTS), self._rng.standard_normal(3)
        self._noise = (self.dynamics.joint_noise * joints, self.dynamics.cube_noise * cube)

    def save(self) -> SavedScene:
        """All that the future depends on; `restore` goes back there."""
        physics = np.empty(mujoco.mj_stateSize(self.model, self.STATE))
        mujoco.mj_getState(self.model, self.data, physics, self.STATE)
        return SavedScene(
            physics,
            self.dynamics,
            tuple(self._pending),
            self._followed,
            self._commanded,
            self._applied,
            self._noise,
            self._rng.bit_generator.state,
        )

    def restore(self, saved: SavedScene) -> None:
        """Go on from `saved`, of this or of another scene, as if nothing had happened since."""
        if saved.dynamics != self.dynamics:
            self._apply(saved.dynamics)
        mujoco.mj_setState(self.model, self.data, saved.physics, self.STATE)
        self._pending = deque(saved.pending)
        self._followed, self._commanded, self._applied = saved.followed, saved.commanded, saved.applied
        self._noise = saved.noise
        self._rng.bit_generator.state = saved.rng_state
