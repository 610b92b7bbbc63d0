"""What the driver says of its control loop on /diagnostics, for a part of its life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hand_driver.histogram import QUANTILES, Histogram, read_figures

TIMES = {
    "late": "control step late",
    "action_delay": "chunk -> first action",
    "bus_read": "bus read",
    "bus_write": "bus write",
}
"""Names on /diagnostics, and in words."""
HEADER = f"{'':<26}{'p50 us':>10}{'p99 us':>10}{'p99.9 us':>10}{'max us':>10}{'n':>10}"


@dataclass(frozen=True)
class LoopFigures:
    """Times [s] and counts since the start of the driver, or between two moments."""

    times: dict[str, Histogram]
    steps: int
    missed: int
    starved: int

    @classmethod
    def of(cls, said: Mapping[str, str]) -> LoopFigures:
        """From the key values of the driver's status. Raises ValueError."""
        times = {name: read_figures(name, said) for name in TIMES}
        counts = (int(said.get(key, "0")) for key in ("control_steps", "missed_ticks", "starved_steps"))
        return cls(times, *counts)

    def since(self, before: LoopFigures) -> LoopFigures:
        """What came between. Raises ValueError when the driver was started again meanwhile."""
        times = {name: self.times[name].since(before.times[name]) for name in TIMES}
        return LoopFigures(
            times,
            self.steps - before.steps,
            self.missed - before.missed,
            self.starved - before.starved,
        )

    def table(self) -> list[str]:
        """A line each for what was measured."""
        return [HEADER, *(line(words, self.times[name]) for name, words in TIMES.items())]


def line(words: str, times: Histogram) -> str:
    """Quantiles and longest, in microseconds."""
    values = [*(times.quantile(share) for share in QUANTILES.values()), times.longest]
    return f"{words:<26}" + "".join(f"{1e6 * value:>10.0f}" for value in values) + f"{times.count:>10}"
