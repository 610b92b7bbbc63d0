"""Means with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}] (n = {self.n})"


def bootstrap(values: Sequence[float], resamples: int = 10_000) -> Estimate:
    """Percentile bootstrap of the mean; the resampling is seeded, so equal values give equal intervals.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("values has 0 entries, must have at least 1")
    rng = np.random.default_rng(0)
    means = data[rng.integers(0, data.size, (resamples, data.size))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(data.mean()), float(low), float(high), int(data.size))


def bootstrap_nested(groups: Sequence[Sequence[float]], resamples: int = 10_000) -> Estimate:
    """Mean over groups (seeds) of their members' (episodes') mean; resamples groups, then members within each.

    Raises:
        ValueError: no groups, or an empty one.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError(f"groups has sizes {[len(g) for g in groups]}, must have at least 1 of at least 1")
    rng, data = np.random.default_rng(0), [np.asarray(group, dtype=np.float64) for group in groups]
    drawn = np.stack([g[rng.integers(0, g.size, (resamples, g.size))].mean(axis=1) for g in data])
    chosen = rng.integers(0, len(data), (len(data), resamples))
    means = np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)
    low, high = np.percentile(means, (2.5, 97.5))
    mean = float(np.mean([g.mean() for g in data]))
    return Estimate(mean, float(low), float(high), sum(g.size for g in data))
