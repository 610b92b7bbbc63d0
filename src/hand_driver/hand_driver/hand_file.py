"""A hand as one YAML file, config/hands/NAME.yaml, checked into `HandSpec`. Adding a hand needs no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from hand_driver.hand_spec import (
    BACKENDS,
    REQUIRED_OF_JOINT,
    Bus,
    HandSpec,
    Joint,
    Motor,
    Orca,
    Pair,
    SafetySettings,
)
from softflow_node.parameters import ParameterError, from_mapping

T = TypeVar("T")


class HandFileError(ValueError):
    """A hand file that cannot be used. The text names file, field, value and bound."""


def hands_directory() -> Path:
    """config/hands of the source tree, else of the installation. Raises HandFileError."""
    source_tree = Path(__file__).absolute().parents[3] / "config" / "hands"
    if source_tree.is_dir():
        return source_tree
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        raise HandFileError("no config/hands here, and no ROS 2 environment to look in") from None
    try:
        return Path(get_package_share_directory("softflow_bringup")) / "config" / "hands"
    except PackageNotFoundError:
        raise HandFileError("no config/hands here, and softflow_bringup is not installed") from None


def hand_names() -> tuple[str, ...]:
    """Names that `load_hand` knows."""
    return tuple(sorted(p.stem for p in hands_directory().glob("*.yaml")))


def hand_path(name: str) -> Path:
    """config/hands/NAME.yaml, or a path that ends in .yaml. Raises HandFileError."""
    return Path(name) if name.endswith(".yaml") else hands_directory() / f"{name}.yaml"


def load_hand(name: str) -> HandSpec:
    """The hand of config/hands/NAME.yaml, or of a path that ends in .yaml. Raises HandFileError."""
    path = hand_path(name)
    try:
        text = path.read_text()
    except OSError as error:
        known = ", ".join(hand_names())
        raise HandFileError(f"hand {name!r}: {path.name}: {error.strerror}; known hands: {known}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HandFileError(f"{path.name}: not YAML: {error}") from error
    return parse_hand(values, path.name)


def parse_hand(values: Any, where: str) -> HandSpec:
    """A hand of what its file holds. Raises HandFileError naming file, field, value and bound."""
    try:
        return _Parser(where).hand(values)
    except ParameterError as error:
        raise HandFileError(str(error)) from error


class _Parser:
    """Reads the sections of one file, whose name comes first in every error."""

    TOP = (
        *("name", "backend", "control_rate", "joint_defaults", "joints", "pairs", "safety"),
        *("motor_defaults", "motors", "bus", "orca"),
    )

    def __init__(self, where: str) -> None:
        self.where = where

    def error(self, text: str) -> HandFileError:
        return HandFileError(f"{self.where}: {text}")

    def mapping(self, values: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(values, Mapping) or not all(isinstance(k, str) for k in values):
            raise self.error(f"{what} is {values!r}, must be a mapping of names")
        return values

    def section(self, cls: type[T], values: Any, what: str) -> T:
        return from_mapping(cls, self.mapping(values or {}, what), f"{self.where}: {what}")

    def hand(self, values: Any) -> HandSpec:
        top = self.mapping(values, "the file")
        for key in top:
            if key not in self.TOP:
                raise self.error(f"{key!r} (value {top[key]!r}) is unknown; known: {', '.join(self.TOP)}")
        for key in ("name", "backend", "control_rate", "joints"):
            if key not in top:
                raise self.error(f"{key} is missing")
        rate = top["control_rate"]
        if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 1.0 <= rate <= 1000.0:
            raise self.error(f"control_rate is {rate!r}, must be in [1, 1000] Hz")
        if top["backend"] not in BACKENDS:
            raise self.error(f"backend is {top['backend']!r}, allowed: {', '.join(BACKENDS)}")
        joints = self.joints(top)
        names = [j.name for j in joints]
        spec = HandSpec(
            name=str(top["name"]),
            backend=top["backend"],
            control_rate=float(rate),
            joints=joints,
            pairs=tuple(self.pair(i, p, names) for i, p in enumerate(self.rows(top, "pairs"))),
            safety=self.section(SafetySettings, top.get("safety"), "safety"),
            motors=self.motors(top, names),
            bus=self.section(Bus, top.get("bus"), "bus"),
            orca=self.section(Orca, top.get("orca"), "orca"),
        )
        self.check(spec)
        return spec

    def rows(self, top: Mapping[str, Any], name: str) -> list[Any]:
        rows = top.get(name) or []
        if not isinstance(rows, list):
            raise self.error(f"{name} is {rows!r}, must be a list")
        return rows

    def joints(self, top: Mapping[str, Any]) -> tuple[Joint, ...]:
        defaults = self.mapping(top.get("joint_defaults") or {}, "joint_defaults")
        joints = self.mapping(top["joints"], "joints")
        if not joints:
            raise self.error("joints is empty, must name at least one")
        return tuple(self.joint(name, {**defaults, **self.mapping(v, name)}) for name, v in joints.items())

    def joint(self, name: str, values: Mapping[str, Any]) -> Joint:
        where = f"joints.{name}"
        for key in REQUIRED_OF_JOINT[1:]:
            if key not in values:
                raise self.error(f"{where}: {key} is missing")
        joint = self.section(Joint, {**values, "name": name}, where)
        for low, high, what in (
            (joint.lower, joint.upper, "upper"),
            (joint.soft_current, joint.max_current, "max_current"),
            (joint.soft_temperature, joint.max_temperature, "max_temperature"),
        ):
            if not low < high:
                raise self.error(f"{where}: {what} is {high}, must be above {low}")
        if not joint.lower <= joint.neutral <= joint.upper:
            raise self.error(
                f"{where}: neutral is {joint.neutral}, must be in [{joint.lower}, {joint.upper}]"
            )
        return joint

    def coefficients(self, values: Any, what: str, names: list[str]) -> tuple[tuple[str, float], ...]:
        for name, number in self.mapping(values, what).items():
            if name not in names:
                raise self.error(f"{what}: joint {name!r} is unknown")
            if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 < abs(number) <= 100:
                raise self.error(f"{what}.{name} is {number!r}, must be in [-100, 100] and not 0")
        return tuple((name, float(number)) for name, number in values.items())

    def pair(self, index: int, values: Any, names: list[str]) -> Pair:
        what = f"pairs[{index}]"
        row = self.mapping(values, what)
        if set(row) != {"joints", "bound"}:
            raise self.error(f"{what} has {', '.join(row)}, must have joints and bound")
        bound = row["bound"]
        if not isinstance(bound, (int, float)) or isinstance(bound, bool) or not math.isfinite(bound):
            raise self.error(f"{what}.bound is {bound!r}, must be a finite number")
        return Pair(self.coefficients(row["joints"], f"{what}.joints", names), float(bound))

    def motors(self, top: Mapping[str, Any], names: list[str]) -> tuple[Motor, ...]:
        defaults = self.mapping(top.get("motor_defaults") or {}, "motor_defaults")
        motors = []
        for index, values in enumerate(self.rows(top, "motors")):
            what = f"motors[{index}]"
            row = {**defaults, **self.mapping(values, what)}
            for key in ("joint", "coupling"):
                row.setdefault(key, () if key == "coupling" else "")
            if bool(row["joint"]) == bool(row["coupling"]):
                raise self.error(f"{what} must have one of joint and coupling")
            if row["coupling"]:
                row["coupling"] = self.coefficients(row["coupling"], f"{what}.coupling", names)
            elif row["joint"] not in names:
                raise self.error(f"{what}: joint {row['joint']!r} is unknown")
            motors.append(self.section(Motor, row, what))
        return tuple(motors)

    def check(self, spec: HandSpec) -> None:
        """What concerns several fields."""
        matrix, bounds = spec.pair_matrix
        excess = matrix @ spec.values("neutral") - bounds
        if (excess > 0).any():
            index = int(np.argmax(excess))
            raise self.error(f"pairs[{index}] is violated by the neutral pose, by {excess[index]:.4g}")
        for joint in spec.joints:
            if not joint.max_velocity < spec.safety.max_reading_speed:
                raise self.error(
                    f"safety.max_reading_speed is {spec.safety.max_reading_speed}, must be above "
                    f"{joint.max_velocity}, joints.{joint.name}.max_velocity"
                )
        if spec.backend == "dynamixel" and len(spec.motors) != len(spec.joints):
            raise self.error(
                f"motors has {len(spec.motors)} entries, must have {len(spec.joints)}, as joints"
            )
        if spec.motors:
            ids = [m.id for m in spec.motors]
            twice = sorted({i for i in ids if ids.count(i) > 1})
            if twice:
                raise self.error(f"motors: id {twice[0]} comes twice")
            coupling, _ = spec.motor_matrix
            if coupling.shape[0] == coupling.shape[1] and np.linalg.cond(coupling) > 1e4:
                raise self.error("motors: the coupling cannot be inverted; a joint is driven by no motor")
