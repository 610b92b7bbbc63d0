"""Networks that turn the unmoved part of a chunk and the condition into a coupling's scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Grid(NamedTuple):
    """The layout of a flattened chunk."""

    horizon: int
    action_dim: int

    @property
    def size(self) -> int:
        return self.horizon * self.action_dim


def mlp(inputs: int, outputs: int, width: int, layers: int) -> nn.Sequential:
    """`layers` hidden layers of `width` units with SiLU, and a linear head."""
    modules: list[nn.Module] = []
    for size in [inputs] + [width] * (layers - 1):
        modules += [nn.Linear(size, width), nn.SiLU()]
    return nn.Sequential(*modules, nn.Linear(width, outputs))


def zero_(layer: nn.Module) -> None:
    """Zero weight and bias of a linear head, so that the transform starts as the identity."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class MlpConditioner(nn.Module):
    """The fast option and the CPU default (METHOD.md, Policy)."""

    def __init__(self, grid: Grid, mask: Tensor, condition_dim: int, width: int, layers: int) -> None:
        super().__init__()
        del mask  # A fixed mask tells an MLP nothing that its weights cannot learn.
        self.net = mlp(grid.size + condition_dim, 2 * grid.size, width, layers)
        zero_(self.net[-1])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Masked chunk (B, h*A), condition (B, C) -> raw log-scale and shift, side by side, (B, 2*h*A)."""
        out: Tensor = self.net(torch.cat([x, condition], dim=-1))
        return out


CONDITIONERS: dict[str, Callable[[Grid, Tensor, int, int, int], nn.Module]] = {"mlp": MlpConditioner}
"""name -> constructor(grid, mask (h*A,), condition_dim, width, layers), zero-initialised head, no dropout."""


def build_conditioner(
    name: str, grid: Grid, mask: Tensor, condition_dim: int, width: int, layers: int
) -> nn.Module:
    """Raises ValueError for an unknown name."""
    if name not in CONDITIONERS:
        raise ValueError(f"conditioner is {name!r}, allowed: {', '.join(sorted(CONDITIONERS))}")
    return CONDITIONERS[name](grid, mask, condition_dim, width, layers)
