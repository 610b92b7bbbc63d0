"""The agent: act and learn, in the order of METHOD.md's four stages. Each update returns its scalars."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from softflow_learner import losses
from softflow_learner.config import NEEDS_LIKELIHOOD, Config, check_fit
from softflow_learner.replay import Batch
from softflow_policy.actor import Actor
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec

Scalars = dict[str, float]


class TrainingDivergedError(RuntimeError):
    """Too many updates in a row had a loss or gradient that is not finite. The last checkpoint is good."""


class Agent:
    """Networks, optimizers and counters. Reproducible: chance comes only from `torch_rng` and `numpy_rng`."""

    def __init__(self, spec: PolicySpec, config: Config) -> None:
        self.spec = spec
        self.configure(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = ChunkPolicy(spec)
        self.target_critic = copy.deepcopy(self.policy.critic).requires_grad_(False)
        self.reference: Actor | None = None
        """pi0, frozen at the first actor update after imitation, for the regularisers that compare with it."""
        self.slow_actor: Actor | None = None
        """Exponential moving average of the actor, if `actor_tau` asks for one."""
        self.actor_optimizer = self._adam(self.policy.flow)
        self.critic_optimizer = self._adam(self.policy.critic)
        self.torch_rng = torch.Generator().manual_seed(config.seed)
        self.numpy_rng = np.random.default_rng(config.seed)
        self.gradient_step = 0
        self.skipped = 0
        self.consecutive_skips = 0
        self.beta_scale = 1.0

    def configure(self, config: Config) -> None:
        """Take these settings from now on. Raises ParameterError if they do not fit the policy."""
        check_fit(config, self.spec)
        self.config = config

    @property
    def actor(self) -> Actor:
        """The one that acts, and from which targets draw: the slow one where there is one."""
        return self.slow_actor if self.slow_actor is not None else self.policy.flow

    def acting_policy(self) -> ChunkPolicy:
        """What robots get."""
        if self.slow_actor is None:
            return self.policy
        policy = copy.deepcopy(self.policy)
        policy.flow.load_state_dict(self.slow_actor.state_dict())
        return policy

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=self.config.learning_rate, fused=True)

    def fit_normalizer(self, states: np.ndarray) -> None:
        """Once, before imitation, from the demonstrations' states (N, S)."""
        self.policy.normalizer.fit(torch.from_numpy(states))

    # -- Stage 1

    def imitation_update(self, batch: Batch) -> Scalars:
        """L = -E[log pi(x + sigma * eps | s)] / D."""
        nll = self._data_loss(self.policy.normalizer(batch.states), batch.actions)
        norm = self._actor_step(nll)
        self.reference = None  # Whatever stage 3 compares with is imitated first.
        return {"nll": nll.item(), "actor_gradient": norm}

    # -- Stage 2

    def critic_update(self, batch: Batch) -> Scalars:
        """Q_j towards y = R + gamma^m (1 - terminated) * agg_j Qbar_j(s_{t+m}, x'), x' ~ pi."""
        normalise = self.policy.normalizer
        with torch.no_grad():
            next_values = self.next_values(normalise(batch.next_states))
            target = losses.td_target(batch.returns, batch.discounts, next_values)
        loss = losses.td_loss(self.policy.critic(normalise(batch.states), batch.actions), target)
        norm = self._step(self.critic_optimizer, loss)
        if np.isfinite(norm):
            follow(self.target_critic, self.policy.critic, self.config.target_tau)
        return {"td_loss": loss.item(), "target": target.mean().item(), "critic_gradient": norm}

    def next_values(self, states: Tensor) -> Tensor:
        """agg_j Qbar_j(s, x') with x' ~ pi, clipped; normalised states (B, S) -> (B,). (C): less a penalty."""
        chunks, log_prob = self.actor.sample(states, self._noise(len(states)))
        members = self._subset(self.target_critic(states, chunks.clamp(-1.0, 1.0)))
        values = losses.aggregate(members, self.config.aggregate)
        if self.config.regulariser != "target" or self.reference is None:
            return values  # In the warm-up pi is pi0: no penalty.
        kl = losses.kl_per_dim(log_prob, self.reference.log_prob(chunks, states), self.spec.chunk_dim)
        return losses.penalised(values, kl, self.config.target_penalty)

    def _subset(self, values: Tensor) -> Tensor:
        """Values (E, B) -> those of a random subset of the critics (M, B)."""
        count = self.config.aggregate_subset
        if count in (0, len(values)):
            return values
        return values[torch.randperm(len(values), generator=self.torch_rng)[:count]]

    # -- Stages 3 and 4

    def actor_update(self, batch: Batch) -> Scalars:
        """-lambda * E[Q] + beta * pull + kappa * E[relu(|x| - 1)^2], through the flow.

        The pull is the NLL per dimension of data chunks (A), the KL to pi0 (B, and C as BRAC has it), or none.
        """
        states = self.policy.normalizer(batch.states)
        pull = self._data_pull(states, batch.actions)
        chunks, log_prob = self.policy.flow.sample(states, self._noise(len(states)))
        # (ours) The mean over members, not the minimum: a smoother slope to climb.
        values = self.policy.critic(states, losses.clip_straight_through(chunks)).mean(0)
        excess = losses.out_of_box(chunks)
        pull |= self._reference_pull(states, chunks)
        beta = self.config.beta * self.beta_scale
        loss = losses.policy_loss(
            values, sum(pull.values(), torch.zeros(())), excess, beta=beta, kappa=self.config.kappa
        )
        norm = self._actor_step(loss)
        return {
            "actor_loss": loss.item(),
            "q": values.mean().item(),
            **{name: value.item() for name, value in pull.items()},
            "entropy": -log_prob.mean().item() / self.spec.chunk_dim,
            "out_of_box": excess.item(),
            "actor_gradient": norm,
        }

    def _data_pull(self, states: Tensor, chunks: Tensor) -> dict[str, Tensor]:
        """(A), where it is the regulariser."""
        if self.config.regulariser != "data_nll":
            return {}
        return {"nll": self._data_loss(states, chunks)}

    def _reference_pull(self, states: Tensor, chunks: Tensor) -> dict[str, Tensor]:
        """(B): E_x[log pi - log pi0] / D of the policy's own chunks, where it is the regulariser."""
        if self.config.regulariser not in NEEDS_LIKELIHOOD:
            return {}
        if self.reference is None:
            self.reference = frozen_copy(self.policy.flow)
        with constant(self.policy.flow):
            log_prob = self.policy.flow.log_prob(chunks, states)
        return {
            "kl": losses.kl_per_dim(
                log_prob, self.reference.log_prob(chunks, states), self.spec.chunk_dim
            ).mean()
        }

    @torch.no_grad()
    def values(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """agg_j Q_j of states (B, S) and chunks (B, h, A) -> (B,)."""
        normalised = self.policy.normalizer(torch.from_numpy(states))
        values = self.policy.critic(normalised, torch.from_numpy(actions))
        return losses.aggregate(values, self.config.aggregate).numpy()

    # -- Shared

    def _data_loss(self, states: Tensor, chunks: Tensor) -> Tensor:
        """NLL per dimension of data chunks with noise; of a family without likelihood its regression loss."""
        noisy = losses.perturb(chunks, self.config.imitation_sigma, self.torch_rng)
        return self.policy.flow.imitation_loss(noisy, states, self.torch_rng)

    def _noise(self, batch: int) -> Tensor:
        return torch.randn(batch, self.spec.horizon, self.spec.action_dim, generator=self.torch_rng)

    def _actor_step(self, loss: Tensor) -> float:
        """`_step` of the actor; the slow one follows."""
        norm = self._step(self.actor_optimizer, loss)
        if self.config.actor_tau == 0.0:
            self.slow_actor = None
        elif self.slow_actor is None:
            self.slow_actor = frozen_copy(self.policy.flow)
        elif np.isfinite(norm):
            follow(self.slow_actor, self.policy.flow, self.config.actor_tau)
        return norm

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        """One guarded step on the optimizer's parameters only. Returns the gradient's norm, NaN if skipped.

        Raises:
            TrainingDivergedError: more than `max_consecutive_skips` in a row.
        """
        norm = float("nan")
        if torch.isfinite(loss):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = self._gradients(parameters, loss)
        if not np.isfinite(norm):
            self._count_skip(loss)
            return float("nan")
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate
        optimizer.step()
        self.consecutive_skips = 0
        self.gradient_step += 1
        return norm

    def _gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Write the clipped gradients into `.grad`; returns their norm before the clip."""
        parameters = list(parameters)
        # Not backward(): that would also compute the gradients of the critic in an actor update.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        return float(nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip))

    def _count_skip(self, loss: Tensor) -> None:
        self.skipped += 1
        self.consecutive_skips += 1
        if self.consecutive_skips > self.config.max_consecutive_skips:
            raise TrainingDivergedError(
                f"{self.consecutive_skips} updates in a row were not finite (last loss {loss.item()}), "
                f"max_consecutive_skips is {self.config.max_consecutive_skips}"
            )


def frozen_copy(actor: Actor) -> Actor:
    """The actor as it is now, without gradients of its own."""
    return copy.deepcopy(actor).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, tau: float) -> None:
    """slow += tau * (fast - slow), every parameter."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), tau)


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """What is computed inside depends on the module's inputs only, not on its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
