"""The ORCA hand through its makers' package, orca-core. Degrees and milliamperes stay in this file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from orca_core import OrcaHand, load_hand

from hand_driver.backends import HandMismatchError
from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec
from softflow_tasks import Task

SLOW_PERIOD = 1.0
"""[s] between two looks at temperatures and errors, each a transfer of its own."""
RANGE_TOLERANCE = 1e-6
"""[rad]"""


def make(spec: HandSpec, task: Task | None) -> OrcaBackend:
    o = spec.orca
    if not o.calibration or not Path(o.calibration).is_file():
        # Without this file a hand would begin to calibrate by itself, into its hard stops.
        raise HandMismatchError(
            f"{spec.name}: orca.calibration is {o.calibration!r}, must be a file; calibrate first"
        )
    # No loop of its own in the background: it would read between a read of ours and the question whether it went well.
    hand = load_hand(
        calibration_path=o.calibration, model_version=o.version, model_name=o.model, engage_feedback=False
    )
    return OrcaBackend(spec, hand, task)


class OrcaBackend:
    """An `OrcaHand` behind our verbs.

    orca-core neither confirms a write nor says which motor a failed read missed; a motor that does not follow shows as
    frozen or as a failed read. Its connection switches the torque off for a moment, and its end for good.
    """

    _in_use: OrcaBackend | None = None
    """orca-core keeps the joint names of a process in one place: two hands would mix them up."""

    def __init__(self, spec: HandSpec, hand: OrcaHand, task: Task | None = None) -> None:
        if OrcaBackend._in_use is not None:
            raise HandMismatchError(f"{spec.name}: this process has an ORCA hand already; one process a hand")
        self._spec, self._hand = spec, hand
        names = task.action_names if task is not None else spec.joint_names
        self.description = spec.description("orca", names, spec.control_rate)
        config = hand.config
        if set(config.joint_ids) != set(spec.joint_names):
            differing = ", ".join(sorted(set(config.joint_ids) ^ set(spec.joint_names)))
            raise HandMismatchError(f"{spec.name} and {spec.orca.model} differ in joints: {differing}")
        ranges = np.radians([config.joint_roms_dict[n] for n in spec.joint_names])
        self._low, self._high = ranges[:, 0], ranges[:, 1]
        self._check_ranges()
        motors = [config.joint_to_motor_map[n] for n in spec.joint_names]
        self._order = np.array([config.motor_ids.index(m) for m in motors])
        """Place of each joint's motor in what orca-core returns."""
        self._motor_ids = motors
        self._slope, self._base = np.ones(len(motors)), np.zeros(len(motors))
        self._stiffness = np.full(len(motors), np.nan)
        """As it was sent last; NaN where orca-core may have set limits of its own since."""
        self._temperature = np.full(len(motors), np.nan)
        self._limp = np.zeros(len(motors), dtype=np.bool_)
        self._faults: tuple[str, ...] = ()
        self._looked_at = -np.inf
        self._clock = time.monotonic()
        OrcaBackend._in_use = self

    def _check_ranges(self) -> None:
        for i, joint in enumerate(self._spec.joints):
            if joint.lower < self._low[i] - RANGE_TOLERANCE or joint.upper > self._high[i] + RANGE_TOLERANCE:
                raise HandMismatchError(
                    f"{self._spec.name}: {joint.name} is allowed [{joint.lower}, {joint.upper}] rad, "
                    f"{self._spec.orca.model} [{self._low[i]:.4f}, {self._high[i]:.4f}]"
                )

    def connect(self) -> None:
        self._join(np.ones(len(self._order)))

    def _join(self, stiffness: FloatArray) -> None:
        """Connect, at this share (J,) of the current limits. Raises OSError."""
        ok, message = self._hand.connect(interactive=False)
        if not ok:
            raise OSError(f"{self._spec.name}: {message}")
        if not (self._hand.calibrated and self._hand.is_calibrated()):
            self._hand.disconnect()
            raise OSError(
                f"{self._spec.name} is not calibrated according to {self._hand.config.calibration_path}"
            )
        if self._hand.absent_joints:
            absent = ", ".join(self._hand.absent_joints)
            self._hand.disconnect()
            raise OSError(f"{self._spec.name}: no motor answers for {absent}")
        self._hand.init_joints(move_to_neutral=False)
        self._stiffness[:] = np.nan
        self.set_stiffness(stiffness)
        self._map_motors()

    def _map_motors(self) -> None:
        """Joint angle [deg] = slope * motor angle [rad] + base, so that one transfer gives all there is to know."""
        hand, names = self._hand, self._spec.joint_names
        ratios = np.array([hand.joint_to_motor_ratios_dict[m] for m in self._motor_ids])
        limits = np.array([hand.motor_limits_dict[m][0] for m in self._motor_ids])
        roms = np.array([hand.effective_joint_roms_dict[n] for n in names], dtype=np.float64)
        inverted = np.array([bool(hand.config.joint_inversion_dict.get(n, False)) for n in names])
        self._slope = np.where(inverted, -1.0, 1.0) / ratios
        plain = np.where(inverted, roms[:, 1], roms[:, 0]) - self._slope * limits
        # A motor may have been switched on a turn away from where it was calibrated: orca-core knows by how many turns.
        theirs = hand.get_joint_position().as_array(names)
        motor = self._state()[0]
        turns = np.rint((theirs - plain - self._slope * motor) / (self._slope * 2.0 * np.pi))
        self._base = plain + turns * self._slope * 2.0 * np.pi
        worst = float(np.abs(theirs - self._base - self._slope * motor).max())
        if not worst < 1.0:
            raise OSError(f"{self._spec.name}: joint angles differ from orca-core's by {worst:.2f} deg")

    def _state(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Angle [rad], speed [rad/s] and current [A] of the joints' motors. Raises OSError."""
        state: Any = self._hand.get_motor_state()
        if not self._hand.last_read_ok:
            absent = ", ".join(self._hand.absent_joints) or "unknown"
            raise OSError(f"{self._spec.name}: not every motor answered (absent: {absent})")
        position, velocity, current = (np.asarray(v, dtype=np.float64)[self._order] for v in state)
        return position, velocity, current / 1000.0

    def read(self) -> Reading:
        motor, speed, current = self._state()
        if time.monotonic() - self._looked_at >= SLOW_PERIOD:
            self._look()
        return Reading(
            position=np.radians(self._slope * motor + self._base),
            velocity=np.radians(self._slope * speed),
            current=np.abs(current),
            temperature=self._temperature,
            valid=np.ones(len(motor), dtype=np.bool_),
            faults=self._faults,
        )

    def _look(self) -> None:
        """Temperatures and errors. Nothing is repaired here: a reboot drops what the motor holds."""
        self._looked_at = time.monotonic()
        temperatures = self._hand.get_motor_temp(as_dict=True)
        self._temperature = np.array([float(temperatures.get(m, np.nan)) for m in self._motor_ids])
        client = self._hand.motor_client
        errors = client.read_hardware_errors(self._motor_ids) if client is not None else {}
        self._faults = tuple(
            f"{name} reports hardware error {errors[motor]:#x}"
            for name, motor in zip(self._spec.joint_names, self._motor_ids, strict=True)
            if errors.get(motor)
        )

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        self.set_stiffness(stiffness)
        sent = np.clip(targets, self._low, self._high)
        degrees = np.degrees(sent)
        self._hand.set_joint_positions(dict(zip(self._spec.joint_names, degrees.tolist(), strict=True)))
        return sent

    def set_stiffness(self, stiffness: FloatArray) -> None:
        """Current limits are sent where they change, in the order of orca-core's motors."""
        if not self._hand.is_connected():
            raise OSError(f"{self._spec.name} is not connected")
        if np.array_equal(stiffness, self._stiffness):
            return
        limits = np.zeros(len(stiffness))
        limits[self._order] = stiffness * self._spec.values("max_current") * 1000.0
        self._hand.set_max_current(limits.tolist())
        self._stiffness = stiffness.copy()

    def wait_period(self) -> float:
        now = time.monotonic()
        passed, self._clock = now - self._clock, now
        return passed

    def reset(self, seed: int) -> None:
        return None

    def recover(self) -> NDArray[np.bool_]:
        """orca-core restarts the motors that report an error, and gives them their torque back."""
        soft = np.fmin(self._stiffness, self._spec.safety.relax_stiffness)
        if not self._hand.is_connected():
            self._limp[:] = True
            self._join(soft)
        restarted = {action.motor_id for action in self._hand.poll_faults() if action.kind == "reboot"}
        self._limp |= np.array([m in restarted for m in self._motor_ids])
        # A restarted motor has forgotten its limit.
        self._stiffness[:] = np.nan
        self.set_stiffness(soft)
        self._look()
        if self._faults:
            raise OSError(f"{self._spec.name}: {self._faults[0]} after a restart")
        limp, self._limp = self._limp, np.zeros_like(self._limp)
        return limp

    def disconnect(self) -> None:
        """orca-core switches the torque off: what the hand holds falls."""
        OrcaBackend._in_use = None
        self._hand.disconnect()
