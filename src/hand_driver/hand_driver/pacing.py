"""When the next control step is due."""

from __future__ import annotations

import math
from dataclasses import dataclass


def parse_speed(text: str) -> float:
    """Speed of the simulated clock against the wall clock; 'max' is infinity.

    Raises:
        ValueError: not a positive number and not 'max'.
    """
    if text == "max":
        return math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= 1000.0:
        raise ValueError(f"speed is {text!r}, must be 'max' or a number in (0, 1000]")
    return value


@dataclass
class Pacer:
    """Due times on a fixed grid of wall time; a step that comes late does not shift the grid by less than a period."""

    period: float
    """[s] of wall time; 0 = as fast as possible."""
    due: float = 0.0
    missed: int = 0
    """Times at which no step was made, because one was late by more than a period."""

    def start(self, now: float) -> None:
        """The next step is due now."""
        self.due = now

    def advance(self, now: float) -> float:
        """A step was made; sets the next due time and returns how late the step was [s]."""
        late = now - self.due
        if self.period > 0.0:
            self.missed += max(0, int(late / self.period))
        self.due += self.period
        if self.due < now - self.period:
            self.due = now
        return late
