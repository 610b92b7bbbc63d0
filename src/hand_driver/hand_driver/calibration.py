"""How far the joints are read from where they are told to be: measured once, compared at every start. Plain Python.

Angles are those of the motors' encoders: what lies between motor and joint, a tendon that slips, is not seen by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec
from hand_driver.movement import OWN, Moment, Reach, joints_named, reach_within
from hand_driver.safety import Refusal
from softflow_node.files import write_atomically

SHARES = (0.25, -0.25)
"""Of the range on either side of neutral, how far a joint is moved to verify it."""
SETTLE = 0.4
"""[s] until a joint that was told to stand stands."""
MEAN = 10
"""Readings that an offset is the mean of."""


class CalibrationError(ValueError):
    """A calibration file that cannot be used. The text names file, field, value and bound."""


@dataclass(frozen=True)
class Calibration:
    """What was measured of a hand."""

    hand: str
    offsets: Mapping[str, float] = field(default_factory=dict)
    """[rad, m] by joint, angle read minus angle told"""

    def check(self, told: FloatArray, read: FloatArray, spec: HandSpec) -> None:
        """Compare angles (J,) of a hand that stands still with what was measured. Raises Refusal."""
        for name, offset in self.offsets.items():
            i = spec.joint_names.index(name)
            check_joint(name, float(read[i] - told[i]), offset, spec.safety.max_drift)

    def to_bytes(self) -> bytes:
        """As it stands in its file."""
        values = {"hand": self.hand, "offsets": {k: round(v, 6) for k, v in self.offsets.items()}}
        head = "# Angle read minus angle told, of each joint at neutral; written by the action `calibrate`.\n"
        return (head + yaml.safe_dump(values, sort_keys=False)).encode()


def check_joint(name: str, error: float, offset: float, bound: float) -> None:
    """Raises Refusal where `error`, the angle read minus the angle told, is not `offset`."""
    if not abs(error - offset) <= bound:
        raise Refusal(
            f"{name} is read {error:.3f} from where it was told to be, calibrated: {offset:.3f}, "
            f"allowed difference: {bound} (max_drift)"
        )


def load_calibration(path: Path, spec: HandSpec) -> tuple[Calibration | None, str]:
    """The calibration in a file, and the file's sha256; None where there is no file. Raises CalibrationError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        raise CalibrationError(f"{path.name}: {error.strerror}") from error
    try:
        values = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise CalibrationError(f"{path.name}: not YAML: {error}") from error
    return _parse(values, path.name, spec), hashlib.sha256(data).hexdigest()


def _parse(values: Any, where: str, spec: HandSpec) -> Calibration:
    if not isinstance(values, dict) or set(values) != {"hand", "offsets"}:
        raise CalibrationError(f"{where}: must be a mapping with hand and offsets")
    if values["hand"] != spec.name:
        raise CalibrationError(f"{where}: hand is {values['hand']!r}, must be {spec.name!r}")
    offsets, bound = values["offsets"], spec.safety.max_drift
    if not isinstance(offsets, dict):
        raise CalibrationError(f"{where}: offsets is {offsets!r}, must be a mapping of joints")
    for name, offset in offsets.items():
        if name not in spec.joint_names:
            raise CalibrationError(f"{where}: offsets: joint {name!r} is unknown")
        if not isinstance(offset, (int, float)) or isinstance(offset, bool) or not abs(offset) <= bound:
            raise CalibrationError(
                f"{where}: offsets.{name} is {offset!r}, must be in [-{bound}, {bound}] (max_drift)"
            )
    return Calibration(spec.name, {name: float(offset) for name, offset in offsets.items()})


def save_calibration(path: Path, calibration: Calibration) -> str:
    """Write it durably, the old file or the new; returns the file's sha256. Raises OSError."""
    data = calibration.to_bytes()
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def calibration_hash(spec: HandSpec, file_hash: str) -> str:
    """sha256 of the hand's file and its calibration: that of the hand alone where it has none."""
    if not file_hash:
        return spec.digest()
    return hashlib.sha256(f"{spec.digest()} {file_hash}".encode()).hexdigest()


class Calibrate:
    """Measures offsets at neutral, then moves joint after joint through a part of its range and compares."""

    holder, slow = OWN, True

    def __init__(self, names: Sequence[str], spec: HandSpec) -> None:
        """Raises Refusal for an unknown joint."""
        self._spec, self._joints = spec, joints_named(names, spec)
        self.joint, self.progress = "", 0.0
        self._offsets: dict[str, float] = {}
        self._moment: Moment
        self._script = self._run()

    def result(self, before: Calibration | None) -> Calibration:
        """What was measured, and what is known of the joints that were not listed."""
        return Calibration(self._spec.name, {**(before.offsets if before else {}), **self._offsets})

    def targets(self, moment: Moment) -> FloatArray | None:
        self._moment = moment
        return next(self._script, None)

    def _run(self) -> Iterator[FloatArray]:
        neutral, bound = self._spec.values("neutral"), self._spec.safety.max_drift
        yield from self._stand_at(neutral)
        errors = []
        for _ in range(MEAN):
            errors.append(self._error())
            yield neutral
        names = self._spec.joint_names
        for i in self._joints:
            self._offsets[names[i]] = float(np.mean(errors, axis=0)[i])
            self.joint = names[i]
            check_joint(names[i], self._offsets[names[i]], 0.0, bound)
        for count, i in enumerate(self._joints):
            self.joint, self.progress = names[i], count / len(self._joints)
            for share in SHARES:
                goal = neutral.copy()
                goal[i] = reach_within(self._spec, i, share)
                yield from self._stand_at(goal)
                check_joint(names[i], float(self._error()[i]), self._offsets[names[i]], bound)
        yield from self._stand_at(neutral)
        self.progress = 1.0

    def _stand_at(self, goal: FloatArray) -> Iterator[FloatArray]:
        way = Reach(goal, self._spec)
        while (targets := way.targets(self._moment)) is not None:
            yield targets
        until = self._moment.time + SETTLE
        while self._moment.time < until:
            yield goal

    def _error(self) -> FloatArray:
        """Angle read minus angle told (J,). Raises Refusal for a joint that was not read."""
        reading: Reading = self._moment.reading
        for i in self._joints:
            if not reading.valid[i]:
                raise Refusal(f"{self._spec.joint_names[i]} was not read")
        return reading.position - self._moment.command
