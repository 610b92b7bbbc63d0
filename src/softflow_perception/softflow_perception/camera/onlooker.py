"""Cameras whose pictures go to a policy, watched where nobody looks for a pose in them. Plain Python."""

from __future__ import annotations

from collections.abc import Iterable

from softflow_node.pictures import Data, FrameError, check_format
from softflow_perception.camera.frames import CameraHealth, FrameLimits, FrameWatch

SILENCE = 1.0
"""[s] of the host's time that a camera is silent, beside the robot's: a simulated world may outrun its camera."""


class Onlooker:
    """Says of each camera why it must not be relied on. Pictures are not opened: their size is not looked at."""

    def __init__(self, names: Iterable[str]) -> None:
        self._watches = {name: FrameWatch(FrameLimits(0, 0)) for name in names}
        self._health = {name: CameraHealth() for name in self._watches}
        self._own = dict.fromkeys(self._watches, "")
        self._heard: dict[str, float] = {}

    def own(self, name: str, why: str) -> None:
        """What a camera's own node says: it comes first, that there are no pictures is a consequence."""
        self._own[name] = why

    def picture(self, name: str, stamp: int, text: str, data: Data, now: float) -> str:
        """Take in a picture, its stamp [ns] and `format`, at [s] on a monotonic clock; why it must not be used."""
        watch, health = self._watches[name], self._health[name]
        self._heard[name] = now
        if watch.repeats(stamp):
            return ""
        try:
            check_format(text)
            # Whether its stamp is the robot's shows in that it finds no state.
            fault = watch.picture(stamp, (stamp, stamp), (0, 0), data)
        except FrameError as error:
            fault = str(error)
        if fault:
            health.bad(fault, certain=watch.frozen)
        else:
            health.good()
        return fault

    def look(self, robot: int, now: float) -> None:
        """Look for cameras that have gone silent, at a state's stamp [ns] and [s] on a monotonic clock."""
        for name, watch in self._watches.items():
            silent, heard = watch.check(robot), self._heard.setdefault(name, now)
            if silent and now - heard > SILENCE:
                self._health[name].bad(silent, certain=True)

    def why(self) -> dict[str, str]:
        """Name of a camera -> what is wrong with it; empty where nothing is."""
        return {name: self._own[name] or health.why for name, health in self._health.items()}
