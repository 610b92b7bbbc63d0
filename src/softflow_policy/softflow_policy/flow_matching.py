"""The diffusion-like baseline (METHOD.md, Baselines): flow matching, a few Euler steps, no likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from softflow_policy.actor import Actor, Code, Draw
from softflow_policy.conditioners import Grid, mlp, zero_
from softflow_policy.spec import PolicySpec


class FlowMatching(Actor):
    """dx/dt = v(x, t, E(s)) carries noise at t = 0 to chunks at t = 1 (arXiv 2210.02747, straight paths).

    Integrated in `spec.euler_steps` Euler steps. The density would need the divergence of v along the path;
    it is not computed: every log density is NaN.
    """

    HAS_LIKELIHOOD = False

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.grid, self.steps = Grid(spec.horizon, spec.action_dim), spec.euler_steps
        size = self.grid.size
        self.encoder = mlp(spec.input_dim, spec.width, spec.width, layers=1)
        self.velocity = mlp(size + 1 + spec.width, size, spec.width, spec.conditioner_layers)
        zero_(self.velocity[-1])

    def drift(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """v of points x (B, D) at times (B, 1) in [0, 1], condition E(s) (B, C) -> (B, D)."""
        out: Tensor = self.velocity(torch.cat([x, time, condition], dim=-1))
        return out

    def encode(self, state: Tensor) -> Code:
        """E(s), (B, C)."""
        return (self.encoder(state),)

    def log_prob_given(self, x: Tensor, code: Code) -> Tensor:
        """NaN (B,)."""
        del code
        return torch.full((len(x),), torch.nan)

    def sample_given(self, code: Code, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Actor.sample_given`; differentiable through all steps. The log density is NaN."""
        x = noise.flatten(1)
        condition = code[0].expand(len(x), -1)
        for k in range(self.steps):
            time = x.new_full((len(x), 1), k / self.steps)
            x = x + self.drift(x, time, condition) / self.steps
        chunks = x.unflatten(1, tuple(self.grid))
        return chunks, self.log_prob_given(chunks, code)

    def imitation_noise(self, generator: torch.Generator, dtype: torch.dtype) -> tuple[Draw, ...]:
        """z and t of `imitation_loss_given`."""
        return (
            lambda rows: torch.randn(rows, self.grid.size, generator=generator, dtype=dtype),
            lambda rows: torch.rand(rows, 1, generator=generator, dtype=dtype),
        )

    def imitation_loss_given(self, x: Tensor, code: Code, *noise: Tensor) -> Tensor:
        """|v((1 - t) z + t x, t, E(s)) - (x - z)|^2 / D with z ~ N(0, I), t ~ U(0, 1): (B,).

        It stands where the other families have their likelihood: in imitation, and as the regulariser of
        stages 3 and 4. Its unit is not nats, so a beta of its own has to be found.
        """
        x = x.flatten(1)
        z, time = noise
        error = self.drift(torch.lerp(z, x, time), time, code[0].expand(len(x), -1)) - (x - z)
        return error.square().mean(-1)
