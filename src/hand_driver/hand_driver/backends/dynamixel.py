"""A hand of Dynamixel X motors on one bus: current-based position control, described by its file alone."""

from __future__ import annotations

import contextlib
import time

import numpy as np
from numpy.typing import NDArray

from hand_driver.backends import HandMismatchError
from hand_driver.backends import dynamixel_bus as dxl
from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec, Motor
from softflow_tasks import Task

MOST_TICKS = 100_000
"""Of a goal position. The SDK sends FF FF FD in a goal without the stuffing that Protocol 2.0 wants; from here to
-131,073 no goal holds it."""
REBOOT_LIMIT = 2.0
"""[s] in which a motor must answer again."""
STATE = 126, 10
"""Address and size of present current, velocity and position: one block."""
WELL_BEING = 64, 83
"""From torque enable to temperature: one block, of one motor each period."""


def make(spec: HandSpec, task: Task | None) -> DynamixelHand:
    return DynamixelHand(spec, task)


class DynamixelHand:
    """Joint angles are solved from motor angles, which are coupling @ joints + offsets.

    Current and temperature of a joint are those of the motor that moves it most. When the host falls silent, the
    motors' own watchdog stops them where they are, with torque.
    """

    def __init__(self, spec: HandSpec, task: Task | None = None) -> None:
        if len(spec.motors) != len(spec.joints):
            raise HandMismatchError(
                f"{spec.name} has {len(spec.motors)} motors for {len(spec.joints)} joints"
            )
        self._spec, self._motors = spec, spec.motors
        self._ids = tuple(m.id for m in spec.motors)
        self._coupling, self._offsets = spec.motor_matrix
        self._inverse = np.linalg.inv(self._coupling)
        self._main = np.argmax(np.abs(self._coupling), axis=0)
        self._needs = np.abs(self._inverse) > 1e-9
        self._check_ticks()
        names = task.action_names if task is not None else spec.joint_names
        self.description = spec.description("dynamixel", names, spec.control_rate)
        self._bus = dxl.Bus(spec.bus.port, spec.bus.baudrate, spec.bus.timeout)
        count = len(self._ids)
        self._angles, self._speeds, self._currents = np.zeros(count), np.zeros(count), np.zeros(count)
        self._temperatures = np.full(count, np.nan)
        self._reports: dict[int, str] = {}
        self._silent: list[int] = []
        self._turn = 0
        self._stiffness = np.full(count, -1.0)
        self._limp = np.zeros(count, dtype=np.bool_)
        self._clock = time.monotonic()

    def _check_ticks(self) -> None:
        spec = self._spec
        reach = np.maximum(np.abs(spec.values("lower")), np.abs(spec.values("upper")))
        ticks = (np.abs(self._coupling) @ reach + np.abs(self._offsets)) * dxl.TICKS
        if ticks.max() > MOST_TICKS:
            index = int(np.argmax(ticks))
            raise HandMismatchError(
                f"{spec.name}: motor {self._ids[index]} would turn to {ticks[index]:.0f} ticks, allowed: {MOST_TICKS}"
            )

    def connect(self) -> None:
        """Open the bus. Motors that hold something go on holding it; the others are held where they are."""
        self._bus.open()
        absent = []
        for motor in self._motors:
            try:
                self._bus.ping(motor.id)
            except OSError as error:
                absent.append(str(error))
        if absent:
            self._bus.close()
            raise OSError(
                f"{self._spec.name}: {len(absent)} of {len(self._motors)} motors absent: {absent[0]}"
            )
        self._reports.clear()
        # Disconnecting, another process or a restart may have set other limits meanwhile.
        self._stiffness[:] = -1.0
        for index, motor in enumerate(self._motors):
            self._take(index, motor)
        self._clock = time.monotonic()

    def _take(self, index: int, motor: Motor, share: float = 1.0) -> bool:
        """Make a motor ready, at this share of its current limit, without moving it; whether it had lost torque or
        target. Errors stay reported."""
        bus, joint = self._bus, self._spec.joints[int(np.argmax(np.abs(self._coupling[index])))]
        error = bus.read(motor.id, dxl.HARDWARE_ERROR)
        if error:
            self._reports[index] = f"reports {dxl.hardware_errors(error)}"
            return True
        tripped = bus.read(motor.id, dxl.BUS_WATCHDOG) < 0
        # While the watchdog has tripped, goals cannot be written.
        bus.write(motor.id, dxl.BUS_WATCHDOG, 0)
        powered = bus.read(motor.id, dxl.TORQUE_ENABLE) == 1
        if bus.read(motor.id, dxl.OPERATING_MODE) != dxl.CURRENT_BASED_POSITION:
            bus.write(motor.id, dxl.TORQUE_ENABLE, 0)
            bus.write(motor.id, dxl.OPERATING_MODE, dxl.CURRENT_BASED_POSITION)
            powered = False
        if not powered:
            bus.write(motor.id, dxl.RETURN_DELAY, 0)
        gear = abs(self._coupling[index]).sum()
        for register, value in (
            (dxl.POSITION_P, motor.p_gain),
            (dxl.POSITION_I, motor.i_gain),
            (dxl.POSITION_D, motor.d_gain),
            # A second guard, in the motor: it does not follow a goal faster than this.
            (dxl.PROFILE_ACCELERATION, _at_least_one(joint.max_acceleration * gear / dxl.ACCELERATION_UNIT)),
            (dxl.PROFILE_VELOCITY, _at_least_one(joint.max_velocity * gear / dxl.VELOCITY_UNIT)),
            (dxl.GOAL_CURRENT, self._current_limit(index, share)),
        ):
            bus.write(motor.id, register, value)
        self._stiffness[index] = share
        if tripped or not powered:
            bus.write(motor.id, dxl.GOAL_POSITION, bus.read(motor.id, dxl.PRESENT_POSITION))
        if not powered:
            bus.write(motor.id, dxl.TORQUE_ENABLE, 1)
        bus.write(motor.id, dxl.BUS_WATCHDOG, max(1, round(self._spec.bus.watchdog / dxl.WATCHDOG_UNIT)))
        self._reports.pop(index, None)
        return tripped or not powered

    def _current_limit(self, index: int, share: float = 1.0) -> int:
        """Of a motor, in its own unit, for this share of its joint's limit."""
        joint = self._spec.joints[int(np.argmax(np.abs(self._coupling[index])))]
        return min(int(share * joint.max_current / self._motors[index].current_unit + 1e-6), 2047)

    def set_stiffness(self, stiffness: FloatArray) -> None:
        shares = stiffness[np.argmax(np.abs(self._coupling), axis=1)]
        if (shares != self._stiffness).any():
            limits = {m: self._current_limit(i, shares[i]) for i, m in enumerate(self._ids)}
            self._bus.sync_write(dxl.GOAL_CURRENT, limits)
            self._stiffness = shares

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        self.set_stiffness(stiffness)
        ticks = np.rint((self._coupling @ targets + self._offsets) * dxl.TICKS).astype(np.int64)
        self._bus.sync_write(dxl.GOAL_POSITION, dict(zip(self._ids, ticks.tolist(), strict=True)))
        return self._joints(ticks / dxl.TICKS)

    def _joints(self, angles: FloatArray) -> FloatArray:
        """Joint angles (J,) of motor angles (M,)."""
        return self._inverse @ (angles - self._offsets)

    def read(self) -> Reading:
        # Those that were silent come last: in a chain of answers a motor waits for the one before it.
        order = [m for m in self._ids if m not in self._silent] + self._silent
        answers = self._bus.sync_read(order, *STATE)
        for motor in order:
            if motor not in answers and motor not in self._silent:
                with contextlib.suppress(OSError):
                    answers[motor] = self._bus.read_block(motor, *STATE, attempts=1), 0
        self._silent = [m for m in order if m not in answers]
        if len(self._silent) == len(order):
            raise OSError(f"{self._spec.name}: no motor answers on {self._spec.bus.port}")
        heard = np.array([m in answers for m in self._ids])
        for index, motor in enumerate(self._ids):
            if motor in answers:
                self._decode(index, *answers[motor])
        self._look_after_one(heard)
        return Reading(
            position=self._joints(self._angles),
            velocity=self._inverse @ self._speeds,
            current=np.abs(self._currents)[self._main],
            temperature=self._temperatures[self._main],
            valid=np.array([heard[needs].all() for needs in self._needs]),
            faults=tuple(f"motor {self._ids[i]} {self._reports[i]}" for i in sorted(self._reports)),
        )

    def _decode(self, index: int, data: bytes, error: int) -> None:
        self._currents[index] = dxl.PRESENT_CURRENT.decode(data[0:2]) * self._motors[index].current_unit
        self._speeds[index] = dxl.PRESENT_VELOCITY.decode(data[2:6]) * dxl.VELOCITY_UNIT
        self._angles[index] = dxl.PRESENT_POSITION.decode(data[6:10]) / dxl.TICKS
        if error & dxl.ALERT and index not in self._reports:
            self._reports[index] = "reports a hardware error"
            self._turn = index  # and is asked which one

    def _look_after_one(self, heard: NDArray[np.bool_]) -> None:
        """Temperature, errors, torque, watchdog and current limit of one motor; the next one in the next period."""
        index, self._turn = self._turn, (self._turn + 1) % len(self._ids)
        if not heard[index]:
            return
        try:
            block = self._bus.read_block(self._ids[index], *WELL_BEING, attempts=1)
        except OSError:
            return  # whether it answers at all is seen elsewhere

        def value(register: dxl.Register) -> int:
            start = register.address - WELL_BEING[0]
            return register.decode(block[start : start + register.size])

        self._temperatures[index] = value(dxl.PRESENT_TEMPERATURE)
        share = self._stiffness[index]
        if share >= 0.0 and value(dxl.GOAL_CURRENT) != self._current_limit(index, share):
            self._stiffness[index] = -1.0  # the packet was lost: it is sent again
        error = value(dxl.HARDWARE_ERROR)
        if error:
            self._reports[index] = f"reports {dxl.hardware_errors(error)}"
        elif value(dxl.BUS_WATCHDOG) < 0:
            self._reports[index] = f"was stopped by its watchdog, {self._spec.bus.watchdog} s of silence"
        elif value(dxl.TORQUE_ENABLE) != 1:
            self._reports[index] = "has lost its torque"

    def wait_period(self) -> float:
        now = time.monotonic()
        passed, self._clock = now - self._clock, now
        return passed

    def reset(self, seed: int) -> None:
        return None

    def recover(self) -> NDArray[np.bool_]:
        try:
            self._bus.ping(self._ids[0])
        except OSError:
            self._bus.open()
        for index, motor in enumerate(self._motors):
            if self._bus.read(motor.id, dxl.HARDWARE_ERROR):
                self._restart(motor)
            # A motor that rests from heat or load stays as soft as it was until a command says otherwise.
            last, relaxed = self._stiffness[index], self._spec.safety.relax_stiffness
            self._limp[index] |= self._take(index, motor, min(last, relaxed) if last >= 0.0 else relaxed)
            if index in self._reports:
                raise OSError(f"motor {motor.id} {self._reports[index]} after a restart")
        self._reports.clear()
        self._silent = []
        limp, self._limp = self._limp, np.zeros_like(self._limp)
        return np.array([limp[needs].any() for needs in self._needs])

    def _restart(self, motor: Motor) -> None:
        """Reboot, and wait until it answers; the others keep their bus alive meanwhile."""
        self._bus.reboot(motor.id)
        until = time.monotonic() + REBOOT_LIMIT
        while True:
            try:
                self._bus.ping(motor.id)
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def disconnect(self) -> None:
        """Torque stays on, at the current of a relaxed hand, so that what is held is not dropped."""
        share = self._spec.safety.relax_stiffness
        try:
            limits = {m: self._current_limit(i, share) for i, m in enumerate(self._ids)}
            self._bus.sync_write(dxl.GOAL_CURRENT, limits)
        except OSError:
            pass
        self._bus.close()


def _at_least_one(value: float) -> int:
    """A profile register; 0 would mean no limit, 32767 is the largest."""
    return min(max(round(value), 1), 32767)
