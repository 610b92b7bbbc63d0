"""Losses as pure functions of tensors (METHOD.md, The four stages)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def clip_straight_through(x: Tensor) -> Tensor:
    """Clip to [-1, 1] with the gradient of the identity: a plain clip has none outside the box."""
    return x + (x.clamp(-1.0, 1.0) - x).detach()


def perturb(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """x + sigma * eps. Never clamped after: that would pile up density on the faces of the box."""
    return x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def aggregate(values: Tensor, how: str) -> Tensor:
    """agg_j: values (E, B) -> (B,)."""
    return values.amin(0) if how == "min" else values.mean(0)


def td_target(returns: Tensor, discounts: Tensor, next_values: Tensor) -> Tensor:
    """y = sum_{i<m} gamma^i r_{t+i} + gamma^m (1 - terminated) * agg_j Qbar_j(s_{t+m}, x'), (B,). Stage 2.

    `discounts` holds gamma^m (1 - terminated). A time-out bootstraps, a termination does not.
    """
    return returns + discounts * next_values


def td_loss(values: Tensor, target: Tensor) -> Tensor:
    """Mean over members and batch of (Q - y)^2; values (E, B), target (B,)."""
    return F.mse_loss(values, target.expand_as(values))


def out_of_box(x: Tensor) -> Tensor:
    """E[sum relu(|x| - 1)^2] over chunks (B, h, A): scalar. Stage 3, third term."""
    return F.relu(x.abs() - 1.0).square().flatten(1).sum(-1).mean()


def policy_loss(values: Tensor, nll: Tensor, excess: Tensor, *, beta: float, kappa: float) -> Tensor:
    """-lambda * E[Q] + beta * NLL / D + kappa * E[relu(|x| - 1)^2], lambda = 1 / sg(mean |Q|). Stage 3, (A).

    Args:
        values: agg_j Q_j(s, clip_ST(x)), (B,).
        nll: `Actor.imitation_loss` of data chunks.
        excess: `out_of_box` of the policy's own chunks.

    (ours) |Q| is floored at 0.1, so that a critic near zero cannot blow the first term up.
    """
    scale = values.detach().abs().mean().clamp(min=0.1)
    return -values.mean() / scale + beta * nll + kappa * excess
