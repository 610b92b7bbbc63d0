"""Networks that turn the kept part of a chunk and the state's code into a coupling's scale and shift."""

from __future__ import annotations

import abc
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
    sizes = [inputs] + [width] * layers
    modules: list[nn.Module] = []
    for size in sizes[:-1]:
        modules += [nn.Linear(size, width), nn.SiLU()]
    return nn.Sequential(*modules, nn.Linear(sizes[-1], outputs))


def zero_(layer: nn.Module) -> None:
    """Zero weight and bias of a linear head, so that the transform starts as the identity."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class Conditioner(nn.Module, abc.ABC):
    """Kept dimensions and the state's code -> raw log-scale and shift of the moved dimensions."""

    code_size: int
    """C: numbers of a state's code that this network reads."""

    @abc.abstractmethod
    def forward(self, kept: Tensor, code: Tensor) -> Tensor:
        """Kept dimensions (B, K), code (B, C) or (1, C) -> raw log-scale and shift, side by side, (B, 2*M)."""


class MlpConditioner(Conditioner):
    """The fast option and the CPU default (METHOD.md, Policy). The code is what the state adds to the first layer."""

    def __init__(self, shape: ConditionerShape, mask: Tensor) -> None:
        super().__init__()
        kept = int(mask.sum())
        self.code_size = shape.width
        self.first = nn.Linear(kept, shape.width, bias=False)
        rest = mlp(shape.width, 2 * (len(mask) - kept), shape.width, shape.layers - 1)
        zero_(rest[-1])
        self.rest = nn.Sequential(nn.SiLU(), *rest)

    def forward(self, kept: Tensor, code: Tensor) -> Tensor:
        """See `Conditioner.forward`."""
        out: Tensor = self.rest(self.first(kept) + code)
        return out


def modulated(x: Tensor, modulation: Tensor) -> Tensor:
    """LayerNorm of tokens (B, h, W) whose gain and offset (B, 2*W) come from the state.

    AdaLN, arXiv 2212.09748, section 3.2.
    """
    gain, offset = modulation.unsqueeze(1).chunk(2, dim=-1)
    return F.layer_norm(x, x.shape[-1:]) * (1.0 + gain) + offset


class Block(nn.Module):
    """Attention over all time tokens, then an MLP, both behind an AdaLN. No dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)  # A key's bias would have no effect.
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, before_attention: Tensor, before_mlp: Tensor) -> Tensor:
        """Tokens (B, h, W), the two modulations (B, 2*W) -> (B, h, W)."""
        x = x + self.attention(modulated(x, before_attention))
        x = x + self.mlp(modulated(x, before_mlp))
        return x

    def attention(self, x: Tensor) -> Tensor:
        """Multi-head self-attention of tokens (B, h, W) -> (B, h, W)."""
        packed = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, h, 3, heads, W / heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.merge(read.transpose(1, 2).flatten(2))
        return merged


class TransformerConditioner(Conditioner):
    """One token for each time step, with its row of the mask and a learned position (METHOD.md, Policy).

    The code holds every AdaLN's gain and offset.
    """

    mask: Tensor
    kept: Tensor
    outputs: Tensor

    def __init__(self, shape: ConditionerShape, mask: Tensor) -> None:
        super().__init__()
        (horizon, action_dim), width = shape.grid, shape.width
        if width % shape.heads:
            raise ValueError(f"width is {width}, must be a multiple of heads = {shape.heads}")
        self.code_size = (2 * shape.layers + 1) * 2 * width
        self.register_buffer("mask", mask.reshape(horizon, action_dim), persistent=False)
        self.register_buffer("kept", mask.nonzero().flatten(), persistent=False)
        moved = (1.0 - mask).nonzero().flatten()
        self.register_buffer("outputs", torch.cat([moved, len(mask) + moved]), persistent=False)
        self.embed = nn.Linear(2 * action_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.layers))
        self.head = nn.Linear(width, 2 * action_dim)
        zero_(self.head)

    def forward(self, kept: Tensor, code: Tensor) -> Tensor:
        """See `Conditioner.forward`."""
        steps = kept.new_zeros(len(kept), self.mask.numel()).index_copy(1, self.kept, kept)
        steps = steps.unflatten(-1, self.mask.shape)
        tokens = self.embed(torch.cat([steps, self.mask.to(kept).expand_as(steps)], dim=-1)) + self.position
        *modulations, last = code.chunk(2 * len(self.blocks) + 1, dim=-1)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, modulations[2 * index], modulations[2 * index + 1])
        raw, shift = self.head(modulated(tokens, last)).chunk(2, dim=-1)
        return torch.cat([raw.flatten(1), shift.flatten(1)], dim=-1).index_select(1, self.outputs)


CONDITIONERS: dict[str, Callable[[ConditionerShape, Tensor], Conditioner]] = {
    "mlp": MlpConditioner,
    "transformer": TransformerConditioner,
}
"""name -> constructor(shape, mask (h*A,)), zero-initialised head, no dropout."""


def build_conditioner(shape: ConditionerShape, mask: Tensor) -> Conditioner:
    """Raises ValueError for an unknown name."""
    if shape.kind not in CONDITIONERS:
        raise ValueError(f"conditioner is {shape.kind!r}, allowed: {', '.join(sorted(CONDITIONERS))}")
    return CONDITIONERS[shape.kind](shape, mask)
