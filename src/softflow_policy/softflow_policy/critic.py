"""The chunked critic (METHOD.md, stage 2): it values chunks over the horizon that the robot executes."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softflow_policy.couplings import exact
from softflow_policy.spec import PolicySpec


class EnsembleLinear(nn.Module):
    """One linear layer for each of E members, as one batched product: (E, B, I) -> (E, B, O)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        # Not baddbmm(): that copies the bias to every row first, where compiled code adds it on the way.
        out = torch.bmm(x, self.weight)
        return out + self.bias.to(out.dtype)


class EnsembleHead(nn.Module):
    """One number for each of E members: (E, B, I) -> (E, B), in float32 or better.

    A product and a sum: several times faster than a matrix product with a single column.
    """

    def __init__(self, members: int, inputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return (exact(x) * self.weight[:, None]).sum(-1) + self.bias[:, None]


class EnsembleCritic(nn.Module):
    """Q_j(s, x): E independent MLPs, LayerNorm before each activation.

    (ours) The LayerNorm has no gain and offset of its own: on a CPU their gradients cost more than the
    normalisation itself, and the layer after it can express the gain.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.members = spec.critic_members
        sizes = [spec.input_dim + spec.chunk_dim] + [spec.critic_width] * spec.critic_layers
        self.hidden = nn.ModuleList(EnsembleLinear(self.members, i, o) for i, o in itertools.pairwise(sizes))
        self.head = EnsembleHead(self.members, spec.critic_width)

    def forward(self, state: Tensor, chunk: Tensor) -> Tensor:
        """Normalised states (B, S), chunks in [-1, 1] (B, h, A) -> values (E, B) [reward]."""
        x = torch.cat([state, chunk.flatten(1)], dim=-1).expand(self.members, -1, -1)
        for layer in self.hidden:
            x = layer(x)
            x = F.silu(F.layer_norm(x, x.shape[-1:]))
        value: Tensor = self.head(x)
        return value
