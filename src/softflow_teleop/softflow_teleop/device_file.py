"""config/teleop/NAME.yaml: what keys and sticks do to a hand. NAME is the hand's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from softflow_node.parameters import ParameterError, Validated, bounded, from_mapping

ESTOP = "estop"
BUTTONS = (ESTOP, "reward")
"""What a button of a gamepad may do, besides being the one that must be held."""


class DeviceFileError(ValueError):
    """A file that cannot be used. The text names file, field, value and bound."""


@dataclass(frozen=True)
class Axis(Validated):
    """An axis of a gamepad that moves a joint or a synergy."""

    axis: int = bounded(0, low=0, high=63, doc="its index in sensor_msgs/Joy")
    joint: str = ""
    synergy: str = ""
    rate: float = bounded(
        0.0,
        low=-10.0,
        high=10.0,
        unit="1/s",
        doc="at full deflection: ranges of the joint, or synergies, a second",
    )


@dataclass(frozen=True)
class GamepadMap:
    """How a sensor_msgs/Joy is read."""

    deadman: int
    """Button that must be held; the hand is the human's as long as it is."""
    deadzone: float
    """Deflection below which an axis is at rest."""
    axes: tuple[Axis, ...]
    buttons: dict[str, int] = field(default_factory=dict)
    """What a button does -> its index"""


@dataclass(frozen=True)
class DeviceMap:
    """What keys and sticks do to the hand of one name."""

    name: str
    synergies: dict[str, dict[str, float]]
    """name -> {joint: its way [rad, m] from open to closed}"""
    step: float
    """Share of a joint's range, and of a synergy, that one key press moves."""
    gamepad: GamepadMap | None


@dataclass(frozen=True)
class _Keyboard(Validated):
    step: float = bounded(0.04, low=0.001, high=0.5)


@dataclass(frozen=True)
class _Gamepad(Validated):
    deadman: int = bounded(0, low=0, high=63)
    deadzone: float = bounded(0.1, low=0.0, high=0.9)


def device_directory() -> Path:
    """config/teleop of the source tree, else of the installation. Raises DeviceFileError."""
    source_tree = Path(__file__).absolute().parents[3] / "config" / "teleop"
    if source_tree.is_dir():
        return source_tree
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        raise DeviceFileError("no config/teleop here, and no ROS 2 environment to look in") from None
    try:
        return Path(get_package_share_directory("softflow_bringup")) / "config" / "teleop"
    except PackageNotFoundError:
        raise DeviceFileError("no config/teleop here, and softflow_bringup is not installed") from None


def load_device_map(name: str) -> DeviceMap:
    """Of config/teleop/NAME.yaml, or of a path that ends in .yaml. Raises DeviceFileError."""
    path = Path(name) if name.endswith(".yaml") else device_directory() / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise DeviceFileError(f"{path.name}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DeviceFileError(f"{path.name}: not YAML: {error}") from error
    try:
        return _device_map(path.stem, _section(path.name, values))
    except (ParameterError, DeviceFileError) as error:
        raise DeviceFileError(f"{path.name}: {error}") from error


def _device_map(name: str, values: Mapping[str, Any]) -> DeviceMap:
    _known("the file", values, ("synergies", "keyboard", "gamepad"))
    synergies = {
        synergy: {
            joint: _number(f"synergies.{synergy}.{joint}", way)
            for joint, way in _section(synergy, ways).items()
        }
        for synergy, ways in _section("synergies", values.get("synergies", {})).items()
    }
    keyboard = from_mapping(_Keyboard, _section("keyboard", values.get("keyboard", {})), "keyboard")
    pad = values.get("gamepad")
    gamepad = None if pad is None else _gamepad(_section("gamepad", pad), synergies)
    return DeviceMap(name, synergies, keyboard.step, gamepad)


def _gamepad(values: Mapping[str, Any], synergies: Mapping[str, Any]) -> GamepadMap:
    _known("gamepad", values, ("deadman", "deadzone", "axes", "buttons"))
    if "deadman" not in values:
        raise DeviceFileError("gamepad.deadman is missing: a button that must be held")
    plain = from_mapping(_Gamepad, {k: values[k] for k in ("deadman", "deadzone") if k in values}, "gamepad")
    axes = []
    for i, entry in enumerate(values.get("axes") or ()):
        axis = from_mapping(Axis, _section(f"gamepad.axes[{i}]", entry), f"gamepad.axes[{i}]")
        if bool(axis.joint) == bool(axis.synergy):
            raise DeviceFileError(f"gamepad.axes[{i}]: must name a joint or a synergy, one of them")
        if axis.synergy and axis.synergy not in synergies:
            raise DeviceFileError(
                f"gamepad.axes[{i}].synergy is {axis.synergy!r}, known: {', '.join(synergies)}"
            )
        axes.append(axis)
    buttons = _section("gamepad.buttons", values.get("buttons", {}))
    _known("gamepad.buttons", buttons, BUTTONS)
    for what, button in buttons.items():
        if type(button) is not int or not 0 <= button <= 63:
            raise DeviceFileError(f"gamepad.buttons.{what} is {button!r}, must be a whole number in [0, 63]")
    return GamepadMap(plain.deadman, plain.deadzone, tuple(axes), dict(buttons))


def _section(where: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DeviceFileError(f"{where} is {values!r}, must be a mapping")
    return values


def _known(where: str, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in values:
        if name not in names:
            raise DeviceFileError(f"{where}: {name!r} is unknown; known: {', '.join(names)}")


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 100.0:
        raise DeviceFileError(f"{where} is {value!r}, must be a number in [-100, 100]")
    return float(value)
