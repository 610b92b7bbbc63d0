"""One emulated X-series motor: its control table, its rules for access, and a simple motor behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TABLE_SIZE = 160
NO_ERROR, RESULT_FAIL, INSTRUCTION, RANGE, LENGTH, ACCESS = 0, 1, 2, 4, 5, 7
ALERT = 0x80
OVERHEATING, OVERLOAD = 0x04, 0x20
EEPROM_END = 64
FIRST_READ_ONLY = 120
"""From here on everything is what the motor reports; below, only what `_READ_ONLY` names."""
_READ_ONLY = ((0, 7), (69, 71))
GOALS = range(100, 120)

# name -> address, size, signed, value after a restart (None: keeps its value, EEPROM)
FIELDS: dict[str, tuple[int, int, bool, int | None]] = {
    "model_number": (0, 2, False, None),
    "firmware": (6, 1, False, None),
    "id": (7, 1, False, None),
    "return_delay": (9, 1, False, None),
    "operating_mode": (11, 1, False, None),
    "temperature_limit": (31, 1, False, None),
    "current_limit": (38, 2, False, None),
    "velocity_limit": (44, 4, False, None),
    "shutdown": (63, 1, False, None),
    "torque_enable": (64, 1, False, 0),
    "status_return_level": (68, 1, False, 2),
    "hardware_error": (70, 1, False, 0),
    "position_d": (80, 2, False, 0),
    "position_i": (82, 2, False, 0),
    "position_p": (84, 2, False, 800),
    "bus_watchdog": (98, 1, True, 0),
    "goal_pwm": (100, 2, True, 885),
    "goal_current": (102, 2, True, 1193),
    "goal_velocity": (104, 4, True, 0),
    "profile_acceleration": (108, 4, False, 0),
    "profile_velocity": (112, 4, False, 0),
    "goal_position": (116, 4, True, 0),
    "moving": (122, 1, False, 0),
    "present_current": (126, 2, True, 0),
    "present_velocity": (128, 4, True, 0),
    "present_position": (132, 4, True, 0),
    "present_voltage": (144, 2, False, 120),
    "present_temperature": (146, 1, False, 30),
}
FACTORY = {
    "model_number": 1020,
    "firmware": 45,
    "return_delay": 250,
    "operating_mode": 3,
    "temperature_limit": 80,
    "current_limit": 1193,
    "velocity_limit": 330,
    "shutdown": 0x34,
}
TIME_CONSTANT = 0.03
"""[s] in which the motor goes 63 % of the way to its goal."""
STIFFNESS = 20.0
"""Counts of current a tick of distance from the goal."""
WATCHDOG_UNIT = 0.020
VELOCITY_TICKS = 0.229 * 4096 / 60.0
"""[ticks/s] of one count of velocity."""
REBOOT_TIME = 0.15
"""[s] without answers; real ones take 0.3 to 2.3."""


@dataclass
class Thermal:
    """Temperature [degC] that rises with the square of the current, towards ambient otherwise."""

    value: float = 30.0
    ambient: float = 30.0
    rise: float = 0.0
    """[degC/s] at 1000 counts of current"""
    cooling: float = 0.02
    """[1/s]"""

    def advance(self, seconds: float, current: float) -> None:
        heating = self.rise * (current / 1000.0) ** 2
        self.value += seconds * (heating - self.cooling * (self.value - self.ambient))


class EmulatedMotor:
    """Answers reads and writes as a motor would; time comes in from outside, in [s].

    Faults are attributes: `silent`, `frozen`, `blocked_at`, `extra_current`, `thermal`.
    """

    def __init__(self, motor_id: int, position: int = 2048) -> None:
        self._table = bytearray(TABLE_SIZE)
        self.id = motor_id
        for name, value in FACTORY.items():
            self.set(name, value)
        self.set("id", motor_id)
        self.silent = False
        self.frozen = False
        self.blocked_at: int | None = None
        """[ticks] beyond which something keeps it from going."""
        self.extra_current = 0
        self.thermal = Thermal()
        self.ticks = float(position)
        """Where it really is, whatever its encoder says."""
        self._now = self._heard = 0.0
        self._back_at = 0.0
        self._restart()

    def get(self, name: str) -> int:
        address, size, signed, _ = FIELDS[name]
        return int.from_bytes(self._table[address : address + size], "little", signed=signed)

    def set(self, name: str, value: int) -> None:
        """Without any rule of access."""
        address, size, signed, _ = FIELDS[name]
        self._table[address : address + size] = value.to_bytes(size, "little", signed=signed)

    def _restart(self) -> None:
        for name, (_, _, _, value) in FIELDS.items():
            if value is not None:
                self.set(name, value)
        self.set("goal_position", round(self.ticks))
        self._report(0.0, 0.0)

    @property
    def answers(self) -> bool:
        """Whether it takes part on the bus now."""
        return not self.silent and self._now >= self._back_at

    def reboot(self) -> None:
        """Forget RAM, errors and whole turns; silent for a while."""
        self.ticks %= 4096
        self._restart()
        self._back_at = self._now + REBOOT_TIME

    def heard(self) -> None:
        """An instruction packet passed on the bus."""
        self._heard = self._now

    def advance(self, now: float) -> None:
        """Let time pass up to `now`; the first call begins it."""
        if not self._now:
            self._now = self._heard = now
        # In small steps, so that a motor that nobody asked for a while moves as it would have.
        while self._now < now:
            step = min(now - self._now, 0.005)
            self._now += step
            self._watch()
            self._move(step)

    def _watch(self) -> None:
        watchdog = self.get("bus_watchdog")
        silence = self._now - self._heard
        if self.get("torque_enable") and watchdog > 0 and silence > watchdog * WATCHDOG_UNIT:
            self.set("bus_watchdog", -1)
            self.set("goal_position", round(self.ticks))

    def _move(self, step: float) -> None:
        before, current = self.ticks, 0.0
        if self.get("torque_enable"):
            distance = self.get("goal_position") - self.ticks
            move = distance * (1.0 - math.exp(-step / TIME_CONSTANT))
            fastest = self.get("profile_velocity") * VELOCITY_TICKS * step
            if fastest > 0:
                move = float(np.clip(move, -fastest, fastest))
            self.ticks += move
            if self.blocked_at is not None and self.ticks > self.blocked_at:
                self.ticks = max(float(self.blocked_at), before)
            limit = self.get("goal_current")
            current = float(np.clip(STIFFNESS * (self.get("goal_position") - self.ticks), -limit, limit))
            current += self.extra_current
        self.thermal.advance(step, current)
        self._shut_down()
        if not self.frozen:
            self._report((self.ticks - before) / step, current)

    def _report(self, velocity: float, current: float) -> None:
        self.set("present_position", round(self.ticks))
        self.set("present_velocity", round(velocity / VELOCITY_TICKS))
        self.set("present_current", int(np.clip(round(current), -32768, 32767)))
        self.set("present_temperature", int(np.clip(round(self.thermal.value), 0, 255)))

    def _shut_down(self) -> None:
        if self.thermal.value > self.get("temperature_limit"):
            self.fail(OVERHEATING)

    def fail(self, error: int) -> None:
        """A hardware error; one that `shutdown` names takes the torque off until a reboot."""
        self.set("hardware_error", self.get("hardware_error") | error)
        if error & self.get("shutdown"):
            self.set("torque_enable", 0)

    def status(self, code: int = NO_ERROR) -> int:
        """Error byte of a status packet."""
        return code | (ALERT if self.get("hardware_error") else 0)

    def read(self, address: int, size: int) -> tuple[int, bytes]:
        """Error code and bytes."""
        if address + size > TABLE_SIZE:
            return RANGE, b""
        return NO_ERROR, bytes(self._table[address : address + size])

    def write(self, address: int, data: bytes) -> int:
        """Error code."""
        span = range(address, address + len(data))
        if not data or span.stop > FIRST_READ_ONLY or any(a in range(*ro) for ro in _READ_ONLY for a in span):
            return ACCESS
        if address < EEPROM_END and self.get("torque_enable"):
            return ACCESS
        if self.get("bus_watchdog") < 0 and any(a in GOALS for a in span):
            return RANGE
        name = next((n for n, (a, size, _, _) in FIELDS.items() if a == address and size == len(data)), "")
        if not name:
            return LENGTH
        signed = FIELDS[name][2]
        value = int.from_bytes(data, "little", signed=signed)
        error = self._check(name, value)
        if error == NO_ERROR:
            self._table[address : address + len(data)] = data
        return error

    def _check(self, name: str, value: int) -> int:
        if name == "torque_enable" and value and self.get("hardware_error"):
            return ACCESS
        if name == "torque_enable" and value and not self.get("torque_enable"):
            self._heard = self._now
        low, high = {
            "bus_watchdog": (0, 127),
            "goal_current": (-self.get("current_limit"), self.get("current_limit")),
            "goal_position": (-1_048_575, 1_048_575),
            "operating_mode": (0, 16),
            "torque_enable": (0, 1),
            "return_delay": (0, 254),
            "profile_velocity": (0, 32767),
            "profile_acceleration": (0, 32767),
        }.get(name, (-(2**31), 2**32))
        return NO_ERROR if low <= value <= high else RANGE
