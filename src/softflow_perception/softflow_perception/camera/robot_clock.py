"""The robot's clock as those who read cameras need it: at any moment, from what comes once a control period."""

from __future__ import annotations

GAP = 0.5
"""[s] without a word from the robot's clock after which nothing is said of it: the world may stand still."""


class RobotClock:
    """Goes on with the host's clock from the last word of the robot's. Stamps [ns]; `now` [s], monotonic."""

    def __init__(self) -> None:
        self._heard: tuple[int, float] | None = None
        self._last = 0

    def hear(self, stamp: int, now: float) -> None:
        """The robot's clock said `stamp` at `now`. One that goes back was started again."""
        if self._heard is not None and stamp < self._heard[0]:
            self._last = 0
        # One assignment: a reader in another thread sees both numbers or neither.
        self._heard = (stamp, now)

    def span(self, now: float) -> tuple[int, int] | None:
        """Its last word, and what it may say by now: it is heard once a period, and a period may be late.

        None before its first word.
        """
        heard = self._heard
        if heard is None:
            return None
        return heard[0], heard[0] + round(1e9 * min(max(now - heard[1], 0.0), GAP))

    def at(self, now: float) -> int | None:
        """Robot time at a moment, now or just before; later with every call.

        None while the robot's clock is not heard.
        """
        heard = self._heard
        if heard is None or now - heard[1] > GAP:
            return None
        self._last = max(self._last + 1, heard[0] + round(1e9 * (now - heard[1])))
        return self._last
