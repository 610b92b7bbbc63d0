"""What the learner and the robot need of a policy, whatever its family: flow, Gaussian or flow matching."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from softflow_policy.conditioners import Grid

Code = tuple[Tensor, ...]
"""What a family makes of the states alone: worked out once, used by every pass over chunks of these states."""

Draw = Callable[[int], Tensor]
"""Number of rows -> so many rows of noise."""


class Actor(nn.Module, abc.ABC):
    """pi(x|s) over chunks (B, h, A), states (B, S) normalised. At start it is the standard normal."""

    HAS_LIKELIHOOD: ClassVar[bool] = True
    """False: every log density is NaN."""

    grid: Grid

    @abc.abstractmethod
    def encode(self, state: Tensor) -> Code:
        """States (B, S) -> code, each tensor with B rows. One state (1, S) serves any number of chunks."""

    @abc.abstractmethod
    def log_prob_given(self, x: Tensor, code: Code) -> Tensor:
        """Log density [nats] of chunks x (B, h, A) -> (B,), in float32 or better."""

    @abc.abstractmethod
    def sample_given(self, code: Code, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise (B, h, A) -> chunks (B, h, A), not clipped, log density (B,).

        Differentiable with respect to the parameters (reparameterised).
        """

    def imitation_noise(self, generator: torch.Generator, dtype: torch.dtype) -> tuple[Draw, ...]:
        """What `imitation_loss_given` draws to compare with, in this order: nothing where there is a likelihood."""
        del generator, dtype
        return ()

    def imitation_loss_given(self, x: Tensor, code: Code, *noise: Tensor) -> Tensor:
        """-log pi(x|s) / D [nats per dimension] of chunks x (B, h, A) -> (B,) (METHOD.md, stage 1)."""
        del noise
        return -self.log_prob_given(x, code) / self.grid.size

    # -- The same, from states

    def log_prob(self, x: Tensor, state: Tensor) -> Tensor:
        """`log_prob_given` states (B, S)."""
        return self.log_prob_given(x, self.encode(state))

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`sample_given` states (B, S) or (1, S)."""
        return self.sample_given(self.encode(state), noise)

    def imitation_loss(self, x: Tensor, state: Tensor, generator: torch.Generator) -> Tensor:
        """`imitation_loss_given` states (B, S)."""
        noise = (draw(len(x)) for draw in self.imitation_noise(generator, x.dtype))
        return self.imitation_loss_given(x, self.encode(state), *noise)
