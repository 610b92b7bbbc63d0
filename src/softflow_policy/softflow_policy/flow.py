"""The conditional normalizing flow over action chunks (METHOD.md, Notation and Policy)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from softflow_policy.actor import Actor, Code
from softflow_policy.conditioners import ConditionerShape, Grid, mlp
from softflow_policy.couplings import (
    AffineCoupling,
    conditional_affine,
    conditional_affine_inverse,
    exact,
    parity_mask,
)
from softflow_policy.spec import PolicySpec

LOG_2PI = math.log(2.0 * math.pi)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, D) -> (B,), in float32 or better."""
    z = exact(z)
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


class ConditionalFlow(Actor):
    """log pi(x|s) = log N(f(x; E(s)); 0, I) + sum_k log|det J_k|.

    States are expected normalised. Before training log pi(x|s) = log N(x; 0, I) exactly, whatever the state.
    A state's code holds, for each coupling and for the affine transform behind them, what the state contributes:
    an update that scores data and samples at the same states pays for it once.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.grid = Grid(spec.horizon, spec.action_dim)
        self.encoder = mlp(spec.input_dim, spec.width, spec.width, layers=1)
        shape = ConditionerShape(
            self.grid, spec.conditioner, spec.width, spec.conditioner_layers, spec.conditioner_heads
        )
        self.couplings = nn.ModuleList(
            AffineCoupling(parity_mask(k, self.grid), shape, log_scale_max=spec.log_scale_max)
            for k in range(spec.couplings)
        )
        sizes = [cast(AffineCoupling, c).conditioner.code_size for c in self.couplings]
        self.code_sizes = [*sizes, 2 * self.grid.size]
        self.projection = nn.Linear(spec.width, sum(self.code_sizes))
        with torch.no_grad():  # The affine transform starts as the identity.
            self.projection.weight[-self.code_sizes[-1] :] = 0.0
            self.projection.bias[-self.code_sizes[-1] :] = 0.0

    def encode(self, state: Tensor) -> Code:
        """One tensor (B, .) for each coupling, the last one for the affine transform."""
        return self.projection(self.encoder(state)).split(self.code_sizes, dim=-1)

    def to_latent(self, x: Tensor, code: Code) -> tuple[Tensor, Tensor]:
        """x (B, D) -> z (B, D), log|det dz/dx| (B,)."""
        log_det = exact(x.new_zeros(x.shape[0]))
        for coupling, own in zip(self.couplings, code[:-1], strict=True):
            x, term = coupling(x, own)
            log_det = log_det + term
        x, term = conditional_affine(x, code[-1])
        return x, log_det + term

    def from_latent(self, z: Tensor, code: Code) -> tuple[Tensor, Tensor]:
        """z (B, D) -> x (B, D), log|det dx/dz| (B,)."""
        z, log_det = conditional_affine_inverse(z, code[-1])
        for coupling, own in zip(reversed(self.couplings), reversed(code[:-1]), strict=True):
            z, term = cast(AffineCoupling, coupling).inverse(z, own)
            log_det = log_det + term
        return z, log_det

    def log_prob_given(self, x: Tensor, code: Code) -> Tensor:
        """See `Actor.log_prob_given`."""
        z, log_det = self.to_latent(x.flatten(1), code)
        return standard_normal_log_prob(z) + log_det

    def sample_given(self, code: Code, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Actor.sample_given`: one pass through the inverse transforms."""
        z = noise.flatten(1)
        x, log_det = self.from_latent(z, code)
        return x.unflatten(1, tuple(self.grid)), standard_normal_log_prob(z) - log_det
