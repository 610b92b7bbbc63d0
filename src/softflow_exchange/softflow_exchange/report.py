"""What was understood of a recording: collected while reading, printed by the dry run and after an import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from softflow_exchange.mapping import Input
from softflow_exchange.series import FloatArray, Series, Times
from softflow_exchange.units import UNITS

SHOWN = 4
"""Values of a row that are printed."""


@dataclass
class InputReport:
    """One input of one recording."""

    name: str
    where: str
    spec: Input
    count: int = 0
    rate: float = 0.0
    """[Hz] of the median period."""
    gap: float = 0.0
    """[s] the longest between two samples."""
    lag: float | None = None
    """[s] median of receive time minus header stamp."""
    before: tuple[float, float] | None = None
    after: tuple[float, float] | None = None
    first: tuple[float, ...] = ()
    size: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Why messages were passed over -> how many."""
    problem: str = ""

    def describe_times(self, times: Times) -> None:
        """Count, rate and the longest gap."""
        self.count = len(times)
        if len(times) > 1:
            periods = np.diff(times) / 1e9
            self.gap = float(periods.max())
            self.rate = 1.0 / max(float(np.median(periods)), 1e-9)

    def lines(self) -> list[str]:
        """As people read it."""
        lines = [
            f"  {self.name}: {self.where}: {self.count} messages, {self.rate:.1f} Hz, longest gap {self.gap:.3f} s"
        ]
        if self.before is not None and self.after is not None:
            lines.append(
                f"    {self.size} values, {self._units()}: {_range(self.before)} -> {_range(self.after)}"
            )
            lines.append(
                f"    first: {shorten(self.first)}; {self.spec.resample}, at most {self.spec.max_age:g} s old"
            )
        lines += [f"    passed over {count}: {why}" for why, count in self.skipped.items()]
        return lines

    def _units(self) -> str:
        units = self.spec.unit or ("1",)
        text = ", ".join(dict.fromkeys(f"{unit} -> {UNITS[unit][0]}" for unit in units))
        if self.spec.scale:
            text += f", * {shorten(self.spec.scale)}"
        return text + (f", + {shorten(self.spec.offset)}" if self.spec.offset else "")


@dataclass
class SourceReport:
    """One bag, or one data set."""

    origin: str
    topics: list[tuple[str, str, int]] = field(default_factory=list)
    """(topic, type, messages), or (feature, type, frames)"""
    inputs: list[InputReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    brief: bool = False
    """Inputs like those of the report before: they are not printed again."""
    problems: list[str] = field(default_factory=list)
    """Each is a part of the recording that is not imported."""

    def lines(self) -> list[str]:
        """As people read it."""
        used = {report.spec.topic or report.spec.feature for report in self.inputs}
        lines = [self.origin]
        there = {topic for topic, _, _ in self.topics}
        lines += [f"  MISSING {name}" for name in sorted(used - there)]
        if not self.brief:
            for topic, kind, count in sorted(self.topics):
                lines.append(f"  {'used   ' if topic in used else 'unused '} {topic} ({kind}, {count})")
            for report in self.inputs:
                lines += report.lines()
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  PROBLEM: {problem}" for problem in self.all_problems()]
        return lines

    def all_problems(self) -> list[str]:
        """Of the inputs, and of the whole."""
        return [f"input {r.name!r}: {r.problem}" for r in self.inputs if r.problem] + self.problems


def finish_series(times: Sequence[int], values: FloatArray, about: InputReport) -> tuple[Times, FloatArray]:
    """In the order of time, one sample a time; the last one received counts."""
    stamps = np.array(times, dtype=np.int64)
    order = np.argsort(stamps, kind="stable")
    stamps, values = stamps[order], values[order]
    last = np.concatenate([np.diff(stamps) > 0, [True]])
    if not last.all():
        about.skipped["the same stamp as the message after it"] = int((~last).sum())
    about.describe_times(stamps[last])
    return stamps[last], values[last]


def convert(times: Times, values: FloatArray, about: InputReport) -> Series:
    """Into SI units, scaled and shifted; rows that are not finite are left out and counted.

    Raises:
        ValueError: units, scale or offset do not fit the number of values; no row is finite.
    """
    spec, size = about.spec, values.shape[1]
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        about.skipped["a value is not finite"] = int((~finite).sum())
        times, values = times[finite], values[finite]
    if not len(times):
        raise ValueError("no message has only finite values")
    factors = _fit("unit", [UNITS[unit][1] for unit in spec.unit] or [1.0], size)
    scale, offset = _fit("scale", spec.scale or (1.0,), size), _fit("offset", spec.offset or (0.0,), size)
    converted = values * factors * scale + offset
    about.size = size
    about.before = (float(values.min()), float(values.max()))
    about.after = (float(converted.min()), float(converted.max()))
    about.first = tuple(map(float, converted[0]))
    return Series(times, converted)


def _fit(name: str, values: Sequence[float], size: int) -> NDArray[np.float64]:
    if len(values) not in (1, size):
        raise ValueError(f"{name} has {len(values)} values, must have 1 or {size}")
    return np.array(values, dtype=np.float64)


def _range(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:.4g}, {bounds[1]:.4g}]"


def shorten(values: Sequence[float]) -> str:
    """The first few values of a row."""
    more = f" ... ({len(values)})" if len(values) > SHOWN else ""
    return ", ".join(f"{value:.4g}" for value in values[:SHOWN]) + more
