"""From a network's logits to probabilities. Plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """probability = sigmoid(scale * logit + bias)."""

    scale: float = 1.0
    """1 / temperature"""
    bias: float = 0.0
    """Successes are rarer in episodes than in the balanced batches of the training."""

    def __call__(self, logits: FloatArray) -> FloatArray:
        """Probabilities (N,) of logits (N,)."""
        return sigmoid(self.scale * logits + self.bias)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without an overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
