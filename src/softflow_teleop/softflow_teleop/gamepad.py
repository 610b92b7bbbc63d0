"""A gamepad: sensor_msgs/Joy by a mapping file into movements and pressed buttons. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from softflow_teleop.device_file import ESTOP, Axis, GamepadMap
from softflow_teleop.joints import Jog, TargetError


@dataclass(frozen=True)
class PadState:
    """What a human does with a gamepad."""

    held: bool = False
    """The deadman's button is."""
    deflections: tuple[tuple[Axis, float], ...] = ()
    """Of the axes out of their dead zone, in [-1, 1]."""
    pressed: tuple[str, ...] = ()
    """Buttons that went down since the message before, by what they do; `stops` says it of the emergency stop."""


class Gamepad:
    """Reads one message after another."""

    def __init__(self, mapping: GamepadMap) -> None:
        self.mapping = mapping
        self.state = PadState()
        self._down: set[str] = set()
        self._stop_down = False

    def stops(self, buttons: Sequence[int]) -> bool:
        """Whether the emergency stop's button went down; asked of each message, also of one that `read` refuses."""
        index = self.mapping.buttons.get(ESTOP)
        before = self._stop_down
        self._stop_down = index is not None and index < len(buttons) and bool(buttons[index])
        return self._stop_down and not before

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> PadState:
        """Take in a message.

        Raises:
            TargetError: an axis or a button of the mapping is not in it, or not finite; nothing is held then.
        """
        self.state = PadState()
        m = self.mapping
        down = {what for what, index in m.buttons.items() if _at(buttons, index, "buttons") and what != ESTOP}
        held = bool(_at(buttons, m.deadman, "buttons"))
        deflections = []
        for axis in m.axes:
            value = float(_at(axes, axis.axis, "axes"))
            if not math.isfinite(value):
                raise TargetError(f"axes[{axis.axis}] is {value}, must be finite")
            if abs(value) > m.deadzone:
                deflections.append((axis, max(-1.0, min(1.0, value))))
        pressed, self._down = tuple(sorted(down - self._down)), down
        self.state = PadState(held, tuple(deflections), pressed)
        return self.state

    def move(self, jog: Jog, seconds: float) -> None:
        """Move the pose as the sticks stand now, for so long. Raises TargetError for an unknown joint."""
        if not self.state.held:
            return
        for axis, deflection in self.state.deflections:
            share = axis.rate * deflection * seconds
            if axis.joint:
                jog.joint(axis.joint, share)
            else:
                jog.synergy(axis.synergy, share)


def _at(values: Sequence[float], index: int, name: str) -> float:
    if index >= len(values):
        raise TargetError(f"{name} has {len(values)} values, the mapping reads {name}[{index}]")
    return values[index]
