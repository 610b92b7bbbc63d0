"""The conditional normalizing flow over action chunks (METHOD.md, Notation and Policy)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from softflow_policy.actor import Actor
from softflow_policy.conditioners import ConditionerShape, Grid, mlp
from softflow_policy.couplings import AffineCoupling, ConditionalAffine, parity_mask
from softflow_policy.spec import PolicySpec

LOG_2PI = math.log(2.0 * math.pi)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, D) -> (B,), in float32 or better."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


class ConditionalFlow(Actor):
    """log pi(x|s) = log N(f(x; E(s)); 0, I) + sum_k log|det J_k|.

    States are expected normalised. Before training log pi(x|s) = log N(x; 0, I) exactly, whatever the state.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.grid = Grid(spec.horizon, spec.action_dim)
        self.encoder = mlp(spec.state_dim, spec.width, spec.width, layers=1)
        shape = ConditionerShape(
            self.grid, spec.conditioner, spec.width, spec.conditioner_layers, spec.conditioner_heads
        )
        couplings = [
            AffineCoupling(parity_mask(k, self.grid), shape, spec.width, log_scale_max=spec.log_scale_max)
            for k in range(spec.couplings)
        ]
        self.transforms = nn.ModuleList([*couplings, ConditionalAffine(self.grid.size, spec.width)])

    def to_latent(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D), condition E(s) (B, C) -> z (B, D), log|det dz/dx| (B,)."""
        log_det = x.new_zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
        for transform in self.transforms:
            x, term = transform(x, condition)
            log_det = log_det + term
        return x, log_det

    def from_latent(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D), condition E(s) (B, C) -> x (B, D), log|det dx/dz| (B,)."""
        log_det = z.new_zeros(z.shape[0], dtype=torch.promote_types(z.dtype, torch.float32))
        for transform in reversed(self.transforms):
            z, term = cast(AffineCoupling, transform).inverse(z, condition)
            log_det = log_det + term
        return z, log_det

    def log_prob(self, x: Tensor, state: Tensor) -> Tensor:
        """Log density [nats] of chunks x (B, h, A) given states (B, S) -> (B,)."""
        z, log_det = self.to_latent(x.flatten(1), self.encoder(state))
        return standard_normal_log_prob(z) + log_det

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Actor.sample`: one pass through the inverse transforms."""
        z = noise.flatten(1)
        condition = self.encoder(state).expand(z.shape[0], -1)
        x, log_det = self.from_latent(z, condition)
        return x.unflatten(1, tuple(self.grid)), standard_normal_log_prob(z) - log_det
