"""Losses as pure functions of tensors (METHOD.md, The four stages)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def clip_straight_through(x: Tensor) -> Tensor:
    """Clip to [-1, 1] with the gradient of the identity: a plain clip has none outside the box."""
    return x + (x.clamp(-1.0, 1.0) - x).detach()


def perturb(x: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """x + sigma * eps. Never clamped after: that would pile up density on the faces of the box."""
    return x + sigma * noise


def weighted_mean(values: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """Mean of values (B,) with weights (B,) in [0, 1] whose sum, or more where that is below 1, is `total`."""
    return (weights * values).sum() / total


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


def kl_per_dim(log_prob: Tensor, reference: Tensor, dimensions: int) -> Tensor:
    """(log pi - log pi0) / D of the policy's own chunks, (B,): its mean estimates KL(pi || pi0) / D. Stage 3, (B).

    The gradient is that of "Sticking the Landing" (arXiv 1703.09194) if `log_prob` depends on the parameters
    through the chunks only: unbiased, and zero for each sample, not only in the mean, where pi = pi0.
    """
    return (log_prob - reference) / dimensions


def penalised(values: Tensor, kl: Tensor, weight: float) -> Tensor:
    """agg_j Qbar_j(s', x') - weight * KL, (B,): a likelihood penalty inside y. Stage 3, (C).

    (ours) The form is the value penalty of BRAC (arXiv 1911.11361, section 3.2), the estimate of the KL is exact
    for each sample because the density is.
    """
    return values - weight * kl


def policy_loss(
    values: Tensor, pull: Tensor, excess: Tensor, *, beta: float, kappa: float, size: Tensor | None = None
) -> Tensor:
    """-lambda * E[Q] + beta * pull + kappa * E[relu(|x| - 1)^2], lambda = 1 / sg(mean |Q|). Stage 3.

    Args:
        values: agg_j Q_j(s, clip_ST(x)), (B,).
        pull: the regulariser per dimension: `Actor.imitation_loss` of data chunks (A), mean `kl_per_dim`
            (B, C), or zero.
        excess: `out_of_box` of the policy's own chunks.
        size: mean |Q| of the whole batch where `values` are a part of it; default: theirs.

    (ours) |Q| is floored at 0.1, so that a critic near zero cannot blow the first term up.
    """
    scale = (values.abs().mean() if size is None else size).detach().clamp(min=0.1)
    return -values.mean() / scale + beta * pull + kappa * excess
