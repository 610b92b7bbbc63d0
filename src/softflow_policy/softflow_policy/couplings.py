"""Invertible transforms of a flattened chunk (B, h*A); each owns its forward, inverse and log-determinant.

METHOD.md, Policy. `forward` goes from data to latent (x -> z), `inverse` back; both return the
log-determinant of their own Jacobian, (B,), in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softflow_policy.conditioners import ConditionerShape, Grid, build_conditioner, zero_


def parity_mask(index: int, grid: Grid) -> Tensor:
    """Mask (h*A,) of coupling `index`: 1 = kept and read, 0 = moved.

    The axis alternates between time (even `index`) and joint (odd), the parity changes every two couplings,
    so that four couplings move every dimension exactly twice. An axis of length 1 has no parity: the other
    is used.
    """
    axis = 0 if (index % 2 == 0 and grid.horizon > 1) or grid.action_dim == 1 else 1
    alternates = index // 2 if min(grid) > 1 else index
    step, joint = torch.meshgrid(torch.arange(grid.horizon), torch.arange(grid.action_dim), indexing="ij")
    position = step if axis == 0 else joint
    return ((position + alternates) % 2 == 0).float().reshape(-1)


def sum_log_scale(log_scale: Tensor) -> Tensor:
    """Sum over a chunk (B, D) -> (B,), never in half precision."""
    return log_scale.sum(-1, dtype=torch.promote_types(log_scale.dtype, torch.float32))


def bounded_log_scale(raw: Tensor, bound: float) -> Tensor:
    """s_max * tanh(u / s_max): the identity near zero, never beyond +-s_max."""
    return bound * torch.tanh(raw / bound)


class AffineCoupling(nn.Module):
    """z = x * exp(s) + t on the moved dimensions, s and t computed from the kept ones and the condition."""

    mask: Tensor
    moved: Tensor

    def __init__(
        self,
        mask: Tensor,
        shape: ConditionerShape,
        condition_dim: int,
        *,
        log_scale_max: float = 2.0,
    ) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("moved", 1.0 - mask, persistent=False)
        self.log_scale_max = log_scale_max
        self.conditioner = build_conditioner(shape, mask, condition_dim)

    def parameters_of(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift, (B, D) each, zero on the kept dimensions; the same for x and for z."""
        raw, shift = self.conditioner(x * self.mask, condition).chunk(2, dim=-1)
        return bounded_log_scale(raw, self.log_scale_max) * self.moved, shift * self.moved

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D), condition (B, C) -> z (B, D), log|det dz/dx| (B,)."""
        log_scale, shift = self.parameters_of(x, condition)
        return torch.addcmul(shift, x, log_scale.exp()), sum_log_scale(log_scale)

    def inverse(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D), condition (B, C) -> x (B, D), log|det dx/dz| (B,)."""
        log_scale, shift = self.parameters_of(z, condition)
        return (z - shift) * torch.exp(-log_scale), -sum_log_scale(log_scale)


class ConditionalAffine(nn.Module):
    """z = (x - mean(s)) * exp(-log_std(s)), each dimension on its own.

    (ours) It gives the base a state-dependent mean and width, so that the couplings model only what is left.
    """

    LOG_STD_MAX = 6.0

    def __init__(self, size: int, condition_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(condition_dim, 2 * size)
        zero_(self.head)

    def parameters_of(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (B, D) each."""
        mean, raw = self.head(condition).chunk(2, dim=-1)
        return mean, bounded_log_scale(raw, self.LOG_STD_MAX)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D), condition (B, C) -> z (B, D), log|det dz/dx| (B,)."""
        mean, log_std = self.parameters_of(condition)
        return (x - mean) * torch.exp(-log_std), -sum_log_scale(log_std)

    def inverse(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D), condition (B, C) -> x (B, D), log|det dx/dz| (B,)."""
        mean, log_std = self.parameters_of(condition)
        return torch.addcmul(mean, z, log_std.exp()), sum_log_scale(log_std)
