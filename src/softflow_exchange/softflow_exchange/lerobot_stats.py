"""Statistics of features, as a LeRobotDataset keeps them for each episode and for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow_exchange.lerobot_format import decode

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SAMPLED_IMAGES = 20
"""Images of an episode that are decoded for its statistics."""

Stats = dict[str, list[Any]]


def of_values(rows: NDArray[Any]) -> Stats:
    """Statistics over the first axis of (n, k), k values each; `count` is one value."""
    values = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    found |= dict(zip(QUANTILES, quantiles, strict=True))
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(values)]}


def of_images(images: Sequence[bytes]) -> Stats:
    """Statistics of pixels in [0, 1] by channel, shape (3, 1, 1), over a sample of the images."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), SAMPLED_IMAGES)).round().astype(int))
    pixels = np.concatenate([decode(images[i]).reshape(-1, 3) for i in chosen]) / 255.0
    by_channel = {
        name: np.reshape(value, (3, 1, 1)).tolist()
        for name, value in of_values(pixels).items()
        if name != "count"
    }
    return {**by_channel, "count": [len(chosen)]}


def together(parts: Sequence[Stats]) -> Stats:
    """Of several sets: exact for min, max, mean and std; quantiles are the mean, weighted by count."""
    counts = np.array([part["count"][0] for part in parts], dtype=np.float64)
    stacked = {
        name: np.stack([np.array(part[name]) for part in parts]) for name in parts[0] if name != "count"
    }
    weights = counts / counts.sum()
    mean = np.tensordot(weights, stacked["mean"], axes=1)
    second = np.tensordot(weights, stacked["std"] ** 2 + stacked["mean"] ** 2, axes=1)
    found = {name: np.tensordot(weights, stacked[name], axes=1) for name in QUANTILES}
    found |= {"min": stacked["min"].min(0), "max": stacked["max"].max(0), "mean": mean}
    found["std"] = np.sqrt(np.maximum(second - mean**2, 0.0))
    return {name: value.tolist() for name, value in found.items()} | {"count": [int(counts.sum())]}
