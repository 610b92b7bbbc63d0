"""What readings say about the hand: faults, and how much speed and current it may still have. No clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec


@dataclass(frozen=True)
class Fault:
    """A reason to stop. `relax`: the motors need rest, beyond standing still."""

    key: str
    text: str
    relax: bool = False


@dataclass(frozen=True)
class Health:
    """What a reading means: causes of faults that last, and shares (J,) in [0, 1]."""

    causes: tuple[Fault, ...]
    share: FloatArray
    """Of speed and of current, 1 where a joint is well."""


class Monitor:
    """Looks at one reading each control period."""

    def __init__(self, spec: HandSpec) -> None:
        self._names, self._settings = spec.joint_names, spec.safety
        self._current = spec.values("soft_current"), spec.values("max_current")
        self._temperature = spec.values("soft_temperature"), spec.values("max_temperature")
        joints = len(self._names)
        self._load = np.zeros(joints)
        self._heat_share = np.ones(joints)
        self._hot = np.zeros(joints, dtype=np.bool_)
        self._overloaded = np.zeros(joints, dtype=np.bool_)
        self._failed_reads = self._failed_writes = 0
        self._unread = np.zeros(joints, dtype=np.int64)
        self._good_at: float | None = None
        self._seen_at: float | None = None
        unknown = np.full(joints, np.nan)
        self._state = unknown, unknown, unknown
        self._commanded = np.zeros(joints)
        self._asked = np.zeros(joints)
        self._commanded_at = np.full(joints, np.nan)

    def wrote(self, ok: bool) -> None:
        """Whether the last targets could be sent."""
        self._failed_writes = 0 if ok else self._failed_writes + 1

    def look(self, now: float, reading: Reading | None, command: FloatArray) -> Health:
        """`reading` is None when the bus could not be read; `command` (J,) is in force since before it."""
        causes: list[Fault] = []
        if reading is None:
            self._failed_reads += 1
        else:
            self._failed_reads = 0
            self._good_at = now - reading.age
            good = reading.valid & np.isfinite(reading.position) & np.isfinite(reading.velocity)
            self._unread = np.where(good, 0, self._unread + 1)
            causes += [Fault(f"hand: {text}", text) for text in reading.faults]
            causes += (
                self._heat(reading)
                + self._loads(now, reading, good)
                + self._frozen(now, reading, good, command)
            )
        causes += self._bus(now)
        self._seen_at = now
        return Health(tuple(causes), self._share())

    def forget(self) -> None:
        """A frozen encoder shows only in movement: give it another chance."""
        self._commanded_at[:] = np.nan

    def _bus(self, now: float) -> list[Fault]:
        s = self._settings
        causes = []
        if self._failed_reads >= s.read_failures:
            causes.append(
                Fault("read", f"{self._failed_reads} reads in a row failed, allowed: {s.read_failures - 1}")
            )
        if self._failed_writes >= s.write_failures:
            causes.append(
                Fault(
                    "write", f"{self._failed_writes} writes in a row failed, allowed: {s.write_failures - 1}"
                )
            )
        if self._good_at is None:
            self._good_at = now
        if now - self._good_at > s.max_age:
            causes.append(
                Fault("stale", f"the last reading is {now - self._good_at:.3f} s old, allowed: {s.max_age} s")
            )
        for index in np.flatnonzero(self._unread >= s.read_failures):
            name = self._names[index]
            causes.append(
                Fault(f"silent: {name}", f"{name} was not read {self._unread[index]} times in a row")
            )
        return causes

    def _heat(self, reading: Reading) -> list[Fault]:
        soft, limit = self._temperature
        heat = np.where(np.isnan(reading.temperature), -np.inf, reading.temperature)
        # Once hot, a joint stays so until it is below the soft limit.
        self._hot = (heat >= limit) | (self._hot & (heat >= soft))
        self._heat_share = np.clip((limit - heat) / (limit - soft), 0.0, 1.0)
        return [
            Fault(
                f"hot: {self._names[i]}",
                f"{self._names[i]} is at {heat[i]:.0f} degC, limit {limit[i]:.0f}",
                relax=True,
            )
            for i in np.flatnonzero(self._hot)
        ]

    def _loads(self, now: float, reading: Reading, good: np.ndarray) -> list[Fault]:
        """A current is judged by its mean over `current_time`: motors may take peaks."""
        soft, limit = self._current
        dt = 0.0 if self._seen_at is None else max(now - self._seen_at, 0.0)
        weight = 1.0 - np.exp(-dt / max(self._settings.current_time, 1e-9))
        measured = np.where(good & np.isfinite(reading.current), np.abs(reading.current), self._load)
        self._load = self._load + weight * (measured - self._load)
        self._overloaded = (self._load >= limit) | (self._overloaded & (self._load >= soft))
        return [
            Fault(
                f"overload: {self._names[i]}",
                f"{self._names[i]} draws {self._load[i]:.3f} A, limit {limit[i]:.3f} A",
                relax=True,
            )
            for i in np.flatnonzero(self._overloaded)
        ]

    def _share(self) -> FloatArray:
        soft, limit = self._current
        share = np.clip((limit - self._load) / (limit - soft), 0.0, 1.0)
        return np.maximum(np.minimum(share, self._heat_share), self._settings.derate_floor)

    def _frozen(self, now: float, reading: Reading, good: np.ndarray, command: FloatArray) -> list[Fault]:
        """Position, velocity and current bit-identical, while the joint was commanded to move."""
        s = self._settings
        state = reading.position, reading.velocity, reading.current
        same = good & np.isfinite(self._commanded_at)
        for value, before in zip(state, self._state, strict=True):
            same &= value == before
        self._state = state
        self._commanded_at = np.where(same, self._commanded_at, now)
        self._commanded = np.where(same, self._commanded, command)
        asked = self._asked = np.where(same, np.maximum(self._asked, np.abs(command - self._commanded)), 0.0)
        frozen = same & (now - self._commanded_at >= s.frozen_time) & (asked > s.frozen_motion)
        return [
            Fault(
                f"frozen: {self._names[i]}",
                f"{self._names[i]} has reported the very same state for {now - self._commanded_at[i]:.2f} s "
                f"while commanded to move {asked[i]:.3f} rad",
            )
            for i in np.flatnonzero(frozen)
        ]
