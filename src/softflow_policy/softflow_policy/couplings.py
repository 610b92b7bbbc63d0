"""Invertible transforms of a flattened chunk (B, h*A), with their log-determinants.

METHOD.md, Policy. Forward goes from data to latent (x -> z), inverse back; both return the log-determinant of
their own Jacobian, (B,), in float32 or better. What depends on the state alone comes in as a code (B, .), or
(1, .) for all rows, see `Actor.encode`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softflow_policy.conditioners import ConditionerShape, Grid, build_conditioner


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


def exact(x: Tensor) -> Tensor:
    """In float32 or better, whatever the networks compute in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def bounded_log_scale(raw: Tensor, bound: float) -> Tensor:
    """s_max * tanh(u / s_max): the identity near zero, never beyond +-s_max."""
    return bound * torch.tanh(raw / bound)


class AffineCoupling(nn.Module):
    """z = x * exp(s) + t on the moved dimensions, s and t computed from the kept ones and the state."""

    kept: Tensor
    moved: Tensor
    order: Tensor

    def __init__(self, mask: Tensor, shape: ConditionerShape, *, log_scale_max: float = 2.0) -> None:
        """mask (h*A,): 1 = kept."""
        super().__init__()
        kept, moved = mask.nonzero().flatten(), (1.0 - mask).nonzero().flatten()
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("moved", moved, persistent=False)
        # Of kept and moved side by side back to the chunk's own order.
        self.register_buffer("order", torch.cat([kept, moved]).argsort(), persistent=False)
        self.log_scale_max = log_scale_max
        self.conditioner = build_conditioner(shape, mask)

    def parameters_of(self, kept: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift of the moved dimensions; the same for x and for z."""
        raw, shift = exact(self.conditioner(kept, code)).chunk(2, dim=-1)
        return bounded_log_scale(raw, self.log_scale_max), shift

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) -> z (B, D), log|det dz/dx| (B,)."""
        kept, moved = x.index_select(1, self.kept), x.index_select(1, self.moved)
        log_scale, shift = self.parameters_of(kept, code)
        moved = torch.addcmul(shift, moved, log_scale.exp())
        return torch.cat([kept, moved], dim=1).index_select(1, self.order), log_scale.sum(-1)

    def inverse(self, z: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) -> x (B, D), log|det dx/dz| (B,)."""
        kept, moved = z.index_select(1, self.kept), z.index_select(1, self.moved)
        log_scale, shift = self.parameters_of(kept, code)
        moved = (moved - shift) * torch.exp(-log_scale)
        return torch.cat([kept, moved], dim=1).index_select(1, self.order), -log_scale.sum(-1)


LOG_STD_MAX = 6.0
"""Bound on the log standard deviation of the affine transform."""


def mean_and_log_std(code: Tensor) -> tuple[Tensor, Tensor]:
    """Code (B, 2*D) -> mean and bounded log standard deviation, (B, D) each."""
    mean, raw = exact(code).chunk(2, dim=-1)
    return mean, bounded_log_scale(raw, LOG_STD_MAX)


def conditional_affine(x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """z = (x - mean(s)) * exp(-log_std(s)), each dimension on its own; x (B, D), code (B, 2*D).

    (ours) It gives the base a state-dependent mean and width, so that the couplings model only what is left.
    """
    mean, log_std = mean_and_log_std(code)
    return (x - mean) * torch.exp(-log_std), -log_std.sum(-1)


def conditional_affine_inverse(z: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """The way back: z (B, D) -> x (B, D), log|det dx/dz| (B,)."""
    mean, log_std = mean_and_log_std(code)
    return torch.addcmul(mean, z, log_std.exp()), log_std.sum(-1)
