"""Time series of a recording, and their values on the grid of control steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from softflow_exchange.mapping import Input

Times = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

TOLERANCE = 1_000
"""[ns] stamps nearer than this are the same time: periods are rounded."""


@dataclass(frozen=True)
class Series:
    """Samples of one input, in the order of time, in SI units."""

    times: Times
    """(n,) [ns]"""
    values: FloatArray
    """(n, k)"""


@dataclass(frozen=True)
class Recording:
    """One bag, or one episode of a data set."""

    origin: str
    series: dict[str, Series]
    texts: dict[str, tuple[Times, list[str]]]
    """Inputs whose values are compared as text, message by message."""

    @cached_property
    def sha256(self) -> str:
        """Of all samples; asked for when they are complete."""
        digest = hashlib.sha256()
        for name in sorted(self.series):
            digest.update(self.series[name].times.tobytes() + self.series[name].values.tobytes())
        return digest.hexdigest()


def seconds(value: float) -> int:
    """[s] as [ns]."""
    return round(value * 1e9)


def resample(series: Series, grid: Times, how: Input) -> tuple[FloatArray, BoolArray]:
    """Values (g, k) at the times of `grid`, and where they are good (g,).

    nearest: the sample nearest in time; hold: the last one; linear and rotation: between the two around; `rotation`
    keeps quaternions on their sphere. None of the samples used may be further away than `max_age`.
    """
    times, wanted, age = series.times, grid + seconds(how.shift), seconds(how.max_age) + TOLERANCE
    # The last sample that is not later, and the first that is not earlier.
    before = np.searchsorted(times, wanted + TOLERANCE, side="right") - 1
    after = np.searchsorted(times, wanted - TOLERANCE, side="left")
    has_before, has_after = before >= 0, after < len(times)
    before, after = np.maximum(before, 0), np.minimum(after, len(times) - 1)
    to_before, to_after = wanted - times[before], times[after] - wanted
    if how.resample == "hold":
        return series.values[before], has_before & (to_before <= age)
    if how.resample == "nearest":
        use_after = has_after & (~has_before | (to_after < to_before))
        distance = np.where(use_after, to_after, to_before)
        return series.values[np.where(use_after, after, before)], distance <= age
    good = has_before & has_after & (to_before <= age) & (to_after <= age)
    span = (times[after] - times[before]).astype(np.float64)
    share = np.where(after > before, to_before / np.maximum(span, 1.0), 0.0)[:, None]
    first, second = series.values[before], series.values[after]
    if how.resample == "rotation":
        # q and -q are one rotation; between the nearer two lies the short way.
        second = np.where((first * second).sum(axis=1, keepdims=True) < 0, -second, second)
    mixed = first + (second - first) * share
    if how.resample == "rotation":
        norms = np.linalg.norm(mixed, axis=1, keepdims=True)
        good = good & (norms[:, 0] > 0.0)
        mixed = mixed / np.maximum(norms, 1e-12)
    return mixed, good


def runs(good: BoolArray) -> list[slice]:
    """Stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
