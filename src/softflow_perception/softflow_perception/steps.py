"""The control step that a picture belongs to. Plain Python."""

from __future__ import annotations

from collections import deque
from statistics import median

KEPT = 100
"""States; a picture is not older than the oldest of them."""


class Steps:
    """States of the hand, by which pictures are named. Stamps are [ns], robot clock."""

    def __init__(self) -> None:
        self._states: deque[tuple[int, str, int]] = deque(maxlen=KEPT)
        self._periods: deque[int] = deque(maxlen=KEPT)

    def add(self, stamp: int, episode: str, step: int) -> None:
        """A state as it comes; a repetition of the last one changes nothing."""
        if self._states and stamp > self._states[-1][0]:
            self._periods.append(stamp - self._states[-1][0])
        self._states.append((stamp, episode, step))

    def at(self, stamp: int) -> tuple[str, int]:
        """Episode and step of the newest state that is not younger than a picture; ("", 0) without one."""
        for when, episode, step in reversed(self._states):
            if when <= stamp:
                return episode, step
        return "", 0

    def awaited(self, stamp: int) -> bool:
        """Whether a picture is a whole period newer than the newest state: its own state is on its way."""
        return bool(self._periods) and stamp - self._states[-1][0] >= median(self._periods)
