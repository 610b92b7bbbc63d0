"""What is known of a hand: joints and their limits, settings of the safety core, motors, bus. Frozen dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hand_driver.device import Description, FloatArray
from softflow_node.parameters import Validated, bounded

BACKENDS = ("dynamixel", "mock", "orca", "sim")
KINDS = ("revolute", "prismatic")
WIDE = 1.0e6
"""A limit of this size never binds: how a file says that a check is not wanted."""


@dataclass(frozen=True)
class Joint(Validated):
    """Limits of a joint; [rad], and [m] for a prismatic one. Soft limits are where derating begins."""

    name: str
    lower: float = bounded(0.0, low=-1e3, high=1e3, unit="rad")
    upper: float = bounded(0.0, low=-1e3, high=1e3, unit="rad")
    neutral: float = bounded(0.0, low=-1e3, high=1e3, unit="rad")
    kind: str = bounded("revolute", choices=KINDS)
    max_velocity: float = bounded(0.0, low=1e-3, high=WIDE, unit="rad/s")
    max_acceleration: float = bounded(0.0, low=1e-3, high=WIDE, unit="rad/s^2")
    soft_current: float = bounded(0.0, low=1e-3, high=WIDE, unit="A")
    max_current: float = bounded(0.0, low=1e-3, high=WIDE, unit="A")
    soft_temperature: float = bounded(0.0, low=0.0, high=WIDE, unit="degC")
    max_temperature: float = bounded(0.0, low=0.0, high=WIDE, unit="degC")


REQUIRED_OF_JOINT = tuple(f.name for f in dataclasses.fields(Joint) if f.name not in ("neutral", "kind"))


@dataclass(frozen=True)
class Pair:
    """sum(coefficients * joints) <= bound: fingers that would touch each other beyond it."""

    coefficients: tuple[tuple[str, float], ...]
    bound: float


@dataclass(frozen=True)
class SafetySettings(Validated):
    """Times and bounds of the safety core; docs/hand.md tells what each check does."""

    max_jump: float = bounded(0.5, low=1e-3, high=WIDE, unit="rad", doc="of wanted targets; beyond: refused")
    takeover_jump: float = bounded(
        0.05, low=0.0, high=WIDE, unit="rad", doc="a new source that is farther away is approached slowly"
    )
    takeover_share: float = bounded(0.25, low=1e-3, high=1.0, doc="share of max_velocity of that approach")
    max_action: float = bounded(3.0, low=1.0, high=WIDE, doc="of chunks; beyond: other units, refused")
    max_expiry: float = bounded(5.0, low=1e-3, high=WIDE, unit="s", doc="beyond: future-dated, refused")
    starve_relax: float = bounded(5.0, low=1e-3, high=WIDE, unit="s", doc="without targets, then relaxed")
    relax_stiffness: float = bounded(0.3, low=0.0, high=1.0, doc="share of the current limits when relaxed")
    estop_stiffness: float = bounded(1.0, low=0.0, high=1.0, doc="the same in an emergency stop")
    lease_timeout: float = bounded(0.5, low=1e-3, high=WIDE, unit="s", doc="silence after which others may")
    read_failures: int = bounded(3, low=1, high=1000, doc="in a row, then a fault")
    write_failures: int = bounded(3, low=1, high=1000, doc="in a row, then a fault")
    max_age: float = bounded(0.1, low=1e-3, high=WIDE, unit="s", doc="of a reading; older: a fault")
    max_reading_speed: float = bounded(
        30.0, low=1e-3, high=WIDE, unit="rad/s", doc="of a joint between two readings; beyond: misread"
    )
    frozen_time: float = bounded(0.3, low=1e-3, high=WIDE, unit="s", doc="bit-identical state, then a fault")
    frozen_motion: float = bounded(0.05, low=0.0, high=WIDE, unit="rad", doc="commanded meanwhile")
    current_time: float = bounded(0.3, low=0.0, high=WIDE, unit="s", doc="time constant of the load")
    derate_floor: float = bounded(0.2, low=0.0, high=1.0, doc="share of speed and current left at the limit")
    max_drift: float = bounded(
        0.1, low=1e-4, high=WIDE, unit="rad", doc="read from where it was told to be, against the calibration"
    )


@dataclass(frozen=True)
class Motor(Validated):
    """A motor: its angle is offset + sum(ratio * joint angle), so tendons that pass several joints are a row."""

    id: int = bounded(0, low=0, high=252)
    joint: str = ""
    ratio: float = bounded(1.0, low=-100.0, high=100.0, doc="sign: which way it turns")
    coupling: tuple[tuple[str, float], ...] = ()
    offset: float = bounded(0.0, low=-100.0, high=100.0, unit="rad")
    current_unit: float = bounded(1e-3, low=1e-6, high=1.0, unit="A", doc="of the motor's model, a count")
    p_gain: int = bounded(800, low=0, high=16383)
    i_gain: int = bounded(0, low=0, high=16383)
    d_gain: int = bounded(0, low=0, high=16383)


@dataclass(frozen=True)
class Bus(Validated):
    """How motors on a Dynamixel bus are reached."""

    port: str = "/dev/ttyUSB0"
    baudrate: int = bounded(1_000_000, low=9600, high=4_000_000, unit="baud")
    watchdog: float = bounded(0.2, low=0.02, high=2.54, unit="s", doc="silence after which the motors stop")
    timeout: float = bounded(0.02, low=0.0005, high=0.1, unit="s", doc="beyond the bytes' own time")


@dataclass(frozen=True)
class Orca(Validated):
    """Where orca-core finds its own files."""

    model: str = "orcahand-right"
    version: str = "v2"
    port: str = "auto"
    calibration: str = bounded("", doc="path of calibration.yaml; empty: an error, but for a mock")


@dataclass(frozen=True)
class HandSpec:
    """A hand. Arrays are (J,) in the order of the file."""

    name: str
    backend: str
    control_rate: float
    """[Hz]"""
    joints: tuple[Joint, ...]
    pairs: tuple[Pair, ...] = ()
    safety: SafetySettings = field(default_factory=SafetySettings)
    motors: tuple[Motor, ...] = ()
    bus: Bus = field(default_factory=Bus)
    orca: Orca = field(default_factory=Orca)

    @property
    def period(self) -> float:
        """[s]"""
        return 1.0 / self.control_rate

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(j.name for j in self.joints)

    def values(self, name: str) -> FloatArray:
        """One field of all joints, (J,)."""
        return np.array([getattr(j, name) for j in self.joints], dtype=np.float64)

    @cached_property
    def pair_matrix(self) -> tuple[FloatArray, FloatArray]:
        """Coefficients (P, J) and bounds (P,) of the pairs."""
        matrix = np.zeros((len(self.pairs), len(self.joints)))
        for row, pair in enumerate(self.pairs):
            for name, coefficient in pair.coefficients:
                matrix[row, self.joint_names.index(name)] = coefficient
        return matrix, np.array([p.bound for p in self.pairs])

    @cached_property
    def motor_matrix(self) -> tuple[FloatArray, FloatArray]:
        """Coupling (M, J) and offsets (M,) [rad]: motor angles = coupling @ joints + offsets."""
        matrix = np.zeros((len(self.motors), len(self.joints)))
        for row, motor in enumerate(self.motors):
            for name, ratio in motor.coupling or ((motor.joint, motor.ratio),):
                matrix[row, self.joint_names.index(name)] = ratio
        return matrix, np.array([m.offset for m in self.motors])

    def description(self, backend: str, action_names: Sequence[str], control_rate: float) -> Description:
        """What the driver tells about this hand."""
        return Description(
            hand=self.name,
            backend=backend,
            joint_names=self.joint_names,
            lower=self.values("lower"),
            upper=self.values("upper"),
            max_velocity=self.values("max_velocity"),
            action_names=tuple(action_names),
            control_rate=control_rate,
        )

    def digest(self) -> str:
        """A hash of everything in it, to be stored with each episode."""
        return hashlib.sha256(repr(dataclasses.asdict(self)).encode()).hexdigest()
