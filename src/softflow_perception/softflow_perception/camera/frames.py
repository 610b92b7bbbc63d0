"""A camera's stream of pictures, watched."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from softflow_node.pictures import Data


@dataclass(frozen=True)
class FrameLimits:
    """What a camera may do before it counts as broken."""

    width: int
    """[pixels]"""
    height: int
    """[pixels]"""
    frozen_after: int = 10
    """Equal pictures in a row: a real sensor's noise never repeats."""
    stale_after: float = 0.5
    """[s] without a picture"""
    first_within: float = 5.0
    """[s] from the first look at the robot's clock to the first picture"""
    clock_offset: float = 0.2
    """[s] between a picture's stamp and what the robot's clock may say"""


class FrameWatch:
    """Says what is wrong with a stream of pictures, in words; "" while it is well."""

    def __init__(self, limits: FrameLimits) -> None:
        self.limits = limits
        self.fault = "no picture yet"
        self._last: int | None = None
        self._since: int | None = None
        self._mark = 0
        self._equal = 0

    @property
    def frozen(self) -> bool:
        """Whether the last pictures were all equal."""
        return self._equal >= self.limits.frozen_after

    def repeats(self, stamp: int) -> bool:
        """Whether a picture of this stamp [ns] is the last one, sent again: a world that waits repeats its state."""
        return stamp == self._last

    def picture(self, stamp: int, clock: tuple[int, int], size: tuple[int, int], data: Data) -> str:
        """Take in a picture of `size` (width, height) as it came over the wire.

        Args:
            stamp: [ns], robot clock.
            clock: what the robot's clock says [ns], at least and at most.
            size: (width, height) [pixels].
            data: compared only with the one before.

        Returns the fault that it shows.
        """
        before, self._last = self._last, stamp
        mark = zlib.crc32(data)
        self._equal = self._equal + 1 if mark == self._mark else 0
        self._mark = mark
        wanted = (self.limits.width, self.limits.height)
        offset = (stamp - min(max(stamp, clock[0]), clock[1])) / 1e9
        if size != wanted:
            self.fault = f"picture is {size[0]}x{size[1]}, the calibration is for {wanted[0]}x{wanted[1]}"
        elif before is not None and stamp <= before:
            self.fault = f"stamp is {stamp} ns, must be above the one before, {before} ns"
        elif abs(offset) > self.limits.clock_offset:
            self.fault = (
                f"stamp is {offset:+.3f} s off the robot's clock, must be within {self.limits.clock_offset} s"
            )
        elif self.frozen:
            self.fault = (
                f"{self._equal + 1} equal pictures in a row: frozen, limit {self.limits.frozen_after}"
            )
        else:
            self.fault = ""
        return self.fault

    def check(self, now: int) -> str:
        """Why there are no pictures at a time [ns] on the robot's clock; empty while they come, or may still come.

        The world's clock may stand still: nothing is missed then.
        """
        if self._since is None:
            self._since = now
        elif now < self._since:
            # The robot's clock was started again: stamps of the one before say nothing.
            self._since, self._last = now, None
        if self._last is not None:
            silent, limit = (now - self._last) / 1e9, self.limits.stale_after
        else:
            silent, limit = (now - self._since) / 1e9, self.limits.first_within
        if silent <= limit:
            return ""
        self.fault = f"no picture for {silent:.2f} s, limit {limit} s"
        return self.fault


BAD_AFTER, GOOD_AFTER = 3, 10
"""Pictures in a row: one bad picture is left out, more are a camera that is down, until so many good ones came."""


@dataclass
class CameraHealth:
    """Whether a camera may be relied on. What is seen once is not acted upon; what lasts is, and ends as slowly."""

    why: str = ""
    """What it went down for; empty while it is well, and before anything is known."""
    faults: int = 0
    """How often it went down."""
    _bad: int = 0
    _good: int = 0

    def bad(self, fault: str, certain: bool = False) -> bool:
        """A picture that must not be used, or none; whether the camera has just gone down.

        `certain`: the fault took its time to show, and once is enough.
        """
        self._good = 0
        self._bad += 1
        if self.why or not (certain or self._bad >= BAD_AFTER):
            return False
        self.why = fault
        self.faults += 1
        return True

    def good(self) -> bool:
        """A picture that can be used. Whether the camera has just become well."""
        self._bad = 0
        self._good += 1
        if not self.why or self._good < GOOD_AFTER:
            return False
        self.why = ""
        return True
