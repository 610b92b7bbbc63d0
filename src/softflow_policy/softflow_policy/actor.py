"""What the learner and the robot need of a policy, whatever its family: flow, Gaussian or flow matching."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn

from softflow_policy.conditioners import Grid


class Actor(nn.Module, abc.ABC):
    """pi(x|s) over chunks (B, h, A), states (B, S) normalised. At start it is the standard normal."""

    HAS_LIKELIHOOD: ClassVar[bool] = True
    """False: every log density is NaN."""

    grid: Grid

    @abc.abstractmethod
    def log_prob(self, x: Tensor, state: Tensor) -> Tensor:
        """Log density [nats] of chunks x (B, h, A) given states (B, S) -> (B,), in float32 or better."""

    @abc.abstractmethod
    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S), standard normal noise (B, h, A) -> chunks (B, h, A), not clipped, log density (B,).

        One state (1, S) serves any number of noises. Differentiable with respect to the parameters
        (reparameterised).
        """

    def imitation_loss(self, x: Tensor, state: Tensor, generator: torch.Generator) -> Tensor:
        """-E[log pi(x|s)] / D [nats per dimension], scalar (METHOD.md, stage 1)."""
        del generator  # For families that draw something to compare with.
        return -self.log_prob(x, state).mean() / self.grid.size
