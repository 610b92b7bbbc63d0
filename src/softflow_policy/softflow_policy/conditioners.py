"""Networks that turn the unmoved part of a chunk and the condition into a coupling's scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Grid(NamedTuple):
    """The layout of a flattened chunk."""

    horizon: int
    action_dim: int

    @property
    def size(self) -> int:
        return self.horizon * self.action_dim


class ConditionerShape(NamedTuple):
    """What every conditioner of a flow has in common."""

    grid: Grid
    kind: str = "mlp"
    width: int = 128
    layers: int = 2
    heads: int = 4
    """of the transformer's attention"""


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

    def __init__(self, shape: ConditionerShape, mask: Tensor, condition_dim: int) -> None:
        super().__init__()
        del mask  # A fixed mask tells an MLP nothing that its weights cannot learn.
        size = shape.grid.size
        self.net = mlp(size + condition_dim, 2 * size, shape.width, shape.layers)
        zero_(self.net[-1])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Masked chunk (B, h*A), condition (B, C) -> raw log-scale and shift, side by side, (B, 2*h*A)."""
        out: Tensor = self.net(torch.cat([x, condition], dim=-1))
        return out


class AdaLayerNorm(nn.Module):
    """LayerNorm whose gain and offset come from the condition (AdaLN, arXiv 2212.09748, section 3.2)."""

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition_dim, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, h, W), condition (B, C) -> (B, h, W)."""
        gain, offset = self.modulation(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:]) * (1.0 + gain) + offset


class Block(nn.Module):
    """Attention over all time tokens, then an MLP, both behind an AdaLN. No dropout."""

    def __init__(self, width: int, heads: int, condition_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = AdaLayerNorm(width, condition_dim)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)  # A key's bias would have no effect.
        self.merge = nn.Linear(width, width)
        self.before_mlp = AdaLayerNorm(width, condition_dim)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, h, W), condition (B, C) -> (B, h, W)."""
        x = x + self.attention(self.before_attention(x, condition))
        x = x + self.mlp(self.before_mlp(x, condition))
        return x

    def attention(self, x: Tensor) -> Tensor:
        """Multi-head self-attention of tokens (B, h, W) -> (B, h, W)."""
        packed = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, h, 3, heads, W / heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.merge(read.transpose(1, 2).flatten(2))
        return merged


class TransformerConditioner(nn.Module):
    """One token for each time step, with its row of the mask and a learned position (METHOD.md, Policy)."""

    mask: Tensor

    def __init__(self, shape: ConditionerShape, mask: Tensor, condition_dim: int) -> None:
        super().__init__()
        (horizon, action_dim), width = shape.grid, shape.width
        if width % shape.heads:
            raise ValueError(f"width is {width}, must be a multiple of heads = {shape.heads}")
        self.register_buffer("mask", mask.reshape(horizon, action_dim), persistent=False)
        self.embed = nn.Linear(2 * action_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.blocks = nn.ModuleList(Block(width, shape.heads, condition_dim) for _ in range(shape.layers))
        self.norm = AdaLayerNorm(width, condition_dim)
        self.head = nn.Linear(width, 2 * action_dim)
        zero_(self.head)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Masked chunk (B, h*A), condition (B, C) -> raw log-scale and shift, side by side, (B, 2*h*A)."""
        steps = x.unflatten(-1, self.mask.shape)
        tokens = self.embed(torch.cat([steps, self.mask.expand_as(steps)], dim=-1)) + self.position
        for block in self.blocks:
            tokens = block(tokens, condition)
        raw, shift = self.head(self.norm(tokens, condition)).chunk(2, dim=-1)
        return torch.cat([raw.flatten(1), shift.flatten(1)], dim=-1)


CONDITIONERS: dict[str, Callable[[ConditionerShape, Tensor, int], nn.Module]] = {
    "mlp": MlpConditioner,
    "transformer": TransformerConditioner,
}
"""name -> constructor(shape, mask (h*A,), condition_dim), zero-initialised head, no dropout."""


def build_conditioner(shape: ConditionerShape, mask: Tensor, condition_dim: int) -> nn.Module:
    """Raises ValueError for an unknown name."""
    if shape.kind not in CONDITIONERS:
        raise ValueError(f"conditioner is {shape.kind!r}, allowed: {', '.join(sorted(CONDITIONERS))}")
    return CONDITIONERS[shape.kind](shape, mask, condition_dim)
