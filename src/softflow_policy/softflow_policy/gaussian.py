"""The unimodal baseline (METHOD.md, Baselines): a Gaussian whose mean and scale depend on the state."""

from __future__ import annotations

from torch import Tensor, nn

from softflow_policy.actor import Actor, Code
from softflow_policy.conditioners import Grid, mlp, zero_
from softflow_policy.couplings import conditional_affine, conditional_affine_inverse
from softflow_policy.flow import standard_normal_log_prob
from softflow_policy.spec import PolicySpec


class ConditionalGaussian(Actor):
    """pi(x|s) = N(x; mean(s), diag(std(s)^2)), an MLP of the spec's width and conditioner layers.

    No tanh squash, as for the flow (METHOD.md, Policy): the clip at execution bounds the actions.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.grid = Grid(spec.horizon, spec.action_dim)
        trunk = mlp(spec.input_dim, spec.width, spec.width, spec.conditioner_layers)
        self.encoder = nn.Sequential(trunk, nn.SiLU(), nn.Linear(spec.width, 2 * self.grid.size))
        zero_(self.encoder[-1])

    def encode(self, state: Tensor) -> Code:
        """Mean and raw log standard deviation, side by side, (B, 2*D)."""
        return (self.encoder(state),)

    def log_prob_given(self, x: Tensor, code: Code) -> Tensor:
        """See `Actor.log_prob_given`."""
        z, log_det = conditional_affine(x.flatten(1), *code)
        return standard_normal_log_prob(z) + log_det

    def sample_given(self, code: Code, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Actor.sample_given`: mean + std * noise."""
        z = noise.flatten(1)
        x, log_det = conditional_affine_inverse(z, *code)
        return x.unflatten(1, tuple(self.grid)), standard_normal_log_prob(z) - log_det
