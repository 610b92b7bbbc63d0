"""Normalisation of the state vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """(s - mean) / std, clipped. Before `fit` it is the identity (up to the clip).

    The floor keeps an entry that hardly varies in the data from being blown up; the clip bounds what a broken
    sensor can do.
    """

    STD_FLOOR = 1e-2
    """In the units of the state: added to the standard deviation."""
    CLIP = 8.0
    """[standard deviations]"""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, states: Tensor) -> None:
        """Take mean and standard deviation from states (N, S). Raises ValueError if they are not finite."""
        if states.ndim != 2 or states.shape[1] != self.mean.shape[0] or states.shape[0] < 2:
            raise ValueError(
                f"states have shape {tuple(states.shape)}, must be (N >= 2, {self.mean.shape[0]})"
            )
        if not torch.isfinite(states).all():
            raise ValueError("states to normalise by are not finite")
        double = states.double()
        self.mean.copy_(double.mean(0))
        self.std.copy_(double.std(0, correction=0) + self.STD_FLOOR)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, S) -> (B, S)."""
        return ((states - self.mean) / self.std).clamp(-self.CLIP, self.CLIP)
