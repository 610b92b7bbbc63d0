"""The policy that acts: state in, one chunk out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softflow_node.pictures import RGBImage
from softflow_policy import native
from softflow_policy.critic import EnsembleCritic
from softflow_policy.eyes import Eyes, Images
from softflow_policy.families import build_actor
from softflow_policy.native import FloatArray, NativeFlow
from softflow_policy.normalizer import Normalizer
from softflow_policy.spec import PolicySpec

DEPLOYED_TEMPERATURE = 0.5
"""Of a policy that is to do well, not to explore: chosen on the cube's seed 10 (docs/benchmarks.md)."""


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
    """Normaliser, eyes, actor and critic. Deterministic: all chance comes in through the noise."""

    visible: Tensor
    """1 for each entry of the state that may be seen, (S,)."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalizer = Normalizer(spec.state_dim)
        visible = torch.ones(spec.state_dim)
        visible[list(spec.hidden)] = 0.0
        self.register_buffer("visible", visible, persistent=False)
        self.flow = build_actor(spec)
        self.critic = EnsembleCritic(spec)
        self.eyes = Eyes(spec) if spec.cameras else None
        self._native: NativeFlow | None = None

    def settle(self) -> None:
        """The weights stay as they are from now on, so what samples them may be made for them."""
        self.requires_grad_(False)
        if native.available(self.flow):
            self._native = NativeFlow(self.flow)

    def known(self, states: Tensor, images: Images | None = None) -> Tensor:
        """States (B, S) not normalised, pictures of a policy with eyes -> what actor and critic are given, (B, I)."""
        known: Tensor = self.normalizer(states)
        if self.spec.hidden:
            known = known * self.visible
        if self.eyes is None:
            return known
        assert images is not None, "a policy with eyes needs pictures"
        return torch.cat([known, self.eyes(images)], dim=-1)

    @torch.inference_mode()
    def candidates(
        self, state: Tensor, noise: Tensor, images: Images | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """State (1, S), noise (N, h, A) -> chunks (N, h, A) not clipped, log density (N,), values (N,).

        Values are NaN for N = 1: nothing is to be ranked, so the critic is not asked.
        """
        known = self.known(state, images)
        if self._native is None:
            chunks, log_prob = self.flow.sample(known, noise)
        else:
            found = self._native.sample(known.numpy(), noise.numpy())
            chunks, log_prob = torch.from_numpy(found[0]), torch.from_numpy(found[1])
        if noise.shape[0] == 1:
            return chunks, log_prob, torch.full_like(log_prob, torch.nan)
        values = self.critic(known.expand(noise.shape[0], -1), chunks.clamp(-1.0, 1.0)).mean(0)
        return chunks, log_prob, values

    def plan(
        self, state: NDArray[Any], noise: NDArray[Any], images: Mapping[str, RGBImage] | None = None
    ) -> PlannedChunk:
        """Best of N chunks by the critics' mean; N = 1 is a plain sample.

        Args:
            state: (S,), not normalised.
            noise: (N, h, A), see `chunk_noise`.
            images: camera -> `thumbnail`, of a policy with eyes.

        Raises:
            PlanError: wrong shape, a number that is not finite, a camera without a picture.
        """
        self._check("state", state, (self.spec.state_dim,))
        count = max(1, np.shape(noise)[0]) if np.ndim(noise) else 1
        self._check("noise", noise, (count, self.spec.horizon, self.spec.action_dim))
        chunks, log_prob, values = self.candidates(
            torch.from_numpy(np.array(state, np.float32)[None]),
            torch.from_numpy(np.array(noise, np.float32)),
            self._pictures(images or {}),
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

    def _pictures(self, images: Mapping[str, RGBImage]) -> dict[str, Tensor]:
        shape = (self.spec.image_size, self.spec.image_size, 3)
        for name in self.spec.camera_names:
            if name not in images:
                raise PlanError(f"images has no camera {name!r}, must have {self.spec.cameras}")
            if images[name].shape != shape or images[name].dtype != np.uint8:
                found = f"{images[name].shape} {images[name].dtype}"
                raise PlanError(f"images[{name!r}] is {found}, must be {shape} uint8")
        return {name: torch.from_numpy(images[name][None]) for name in self.spec.camera_names}

    def blank(self) -> dict[str, RGBImage]:
        """A grey picture of each camera."""
        shape = (self.spec.image_size, self.spec.image_size, 3)
        return {name: np.full(shape, 127, np.uint8) for name in self.spec.camera_names}

    @staticmethod
    def _check(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        if np.shape(array) != shape:
            raise PlanError(f"{name} has shape {np.shape(array)}, must be {shape}")
        if not np.isfinite(array).all():
            index = int(np.flatnonzero(~np.isfinite(array))[0])
            raise PlanError(f"{name}[{index}] is {array.flat[index]}, must be finite")


def chunk_noise(
    seed: int, episode_id: str, step: int, n: int, horizon: int, action_dim: int, temperature: float = 1.0
) -> FloatArray:
    """Normal noise (n, h, A) of standard deviation `temperature`, a pure function of its arguments.

    So a lock-step run is reproducible however the messages were timed. The first rows do not depend on `n`.
    A temperature of 1 draws from the policy as it was learned; below, rare chunks get rarer (Glow, arXiv 1807.03039),
    and at 0 all candidates are the one chunk in the middle.
    """
    key = hashlib.sha256(f"{seed}/{episode_id}/{step}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little")))
    noise = generator.standard_normal((n, horizon, action_dim), dtype=np.float32)
    return noise * np.float32(temperature)
