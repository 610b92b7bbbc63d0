"""The unimodal baseline (METHOD.md, Baselines): a Gaussian whose mean and scale depend on the state."""

from __future__ import annotations

from torch import Tensor, nn

from softflow_policy.actor import Actor
from softflow_policy.conditioners import Grid, mlp
from softflow_policy.couplings import ConditionalAffine
from softflow_policy.flow import standard_normal_log_prob
from softflow_policy.spec import PolicySpec


class ConditionalGaussian(Actor):
    """pi(x|s) = N(x; mean(s), diag(std(s)^2)), an MLP of the spec's width and conditioner layers.

    No tanh squash, as for the flow (METHOD.md, Policy): the clip at execution bounds the actions.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.grid = Grid(spec.horizon, spec.action_dim)
        trunk = mlp(spec.state_dim, spec.width, spec.width, spec.conditioner_layers)
        self.encoder = nn.Sequential(trunk, nn.SiLU())
        self.affine = ConditionalAffine(self.grid.size, spec.width)

    def log_prob(self, x: Tensor, state: Tensor) -> Tensor:
        """Log density [nats] of chunks x (B, h, A) given states (B, S) -> (B,)."""
        z, log_det = self.affine(x.flatten(1), self.encoder(state))
        return standard_normal_log_prob(z) + log_det

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Actor.sample`: mean + std * noise."""
        z = noise.flatten(1)
        x, log_det = self.affine.inverse(z, self.encoder(state).expand(z.shape[0], -1))
        return x.unflatten(1, tuple(self.grid)), standard_normal_log_prob(z) - log_det
