"""The policy that acts: state in, one chunk out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softflow_policy.critic import EnsembleCritic
from softflow_policy.families import build_actor
from softflow_policy.normalizer import Normalizer
from softflow_policy.spec import PolicySpec

FloatArray = NDArray[np.float32]


class PlanError(ValueError):
    """The input of a plan is unusable. The text names field, value and bound."""


@dataclass(frozen=True)
class PlannedChunk:
    """What to play next."""

    actions: FloatArray
    """(h, A) in [-1, 1]."""
    log_prob: float
    """[nats] log density of the chunk; NaN if the clip to [-1, 1] changed it, or without a likelihood."""
    q: float
    """[reward] mean of the critics; NaN if there was only one candidate."""


class ChunkPolicy(nn.Module):
    """Normaliser, actor and critic. Deterministic: all chance comes in through the noise."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalizer = Normalizer(spec.state_dim)
        self.flow = build_actor(spec)
        self.critic = EnsembleCritic(spec)

    @torch.inference_mode()
    def candidates(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State (1, S), noise (N, h, A) -> chunks (N, h, A) not clipped, log density (N,), values (N,).

        Values are NaN for N = 1: nothing is to be ranked, so the critic is not asked.
        """
        normalised = self.normalizer(state)
        chunks, log_prob = self.flow.sample(normalised, noise)
        if noise.shape[0] == 1:
            return chunks, log_prob, torch.full_like(log_prob, torch.nan)
        values = self.critic(normalised.expand(noise.shape[0], -1), chunks.clamp(-1.0, 1.0)).mean(0)
        return chunks, log_prob, values

    def plan(self, state: NDArray[Any], noise: NDArray[Any]) -> PlannedChunk:
        """Best of N chunks by the critics' mean; N = 1 is a plain sample.

        Args:
            state: (S,), not normalised.
            noise: (N, h, A), standard normal, see `chunk_noise`.

        Raises:
            PlanError: wrong shape, or a number that is not finite.
        """
        self._check("state", state, (self.spec.state_dim,))
        count = max(1, np.shape(noise)[0]) if np.ndim(noise) else 1
        self._check("noise", noise, (count, self.spec.horizon, self.spec.action_dim))
        chunks, log_prob, values = self.candidates(
            torch.from_numpy(np.array(state, np.float32)[None]), torch.from_numpy(np.array(noise, np.float32))
        )
        best = int(values.argmax()) if count > 1 else 0
        raw = chunks[best].numpy()
        if not np.isfinite(raw).all():
            raise PlanError("planned actions are not finite")
        actions = np.clip(raw, -1.0, 1.0)
        unchanged = np.array_equal(actions, raw)
        return PlannedChunk(
            actions, float(log_prob[best]) if unchanged else float("nan"), float(values[best])
        )

    @staticmethod
    def _check(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        if np.shape(array) != shape:
            raise PlanError(f"{name} has shape {np.shape(array)}, must be {shape}")
        if not np.isfinite(array).all():
            index = int(np.flatnonzero(~np.isfinite(array))[0])
            raise PlanError(f"{name}[{index}] is {array.flat[index]}, must be finite")


def chunk_noise(seed: int, episode_id: str, step: int, n: int, horizon: int, action_dim: int) -> FloatArray:
    """Standard normal noise (n, h, A), a pure function of its arguments.

    So a lock-step run is reproducible however the messages were timed. The first rows do not depend on `n`.
    """
    key = hashlib.sha256(f"{seed}/{episode_id}/{step}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little")))
    return generator.standard_normal((n, horizon, action_dim), dtype=np.float32)
