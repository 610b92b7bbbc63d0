"""The agent: act and learn, in the order of METHOD.md's four stages. Each update returns its scalars."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from softflow_learner import losses
from softflow_learner.config import NEEDS_LIKELIHOOD, Config, check_fit
from softflow_learner.packing import mapped
from softflow_learner.parallel import Alone
from softflow_learner.replay import Batch
from softflow_policy.actor import Actor, Code
from softflow_policy.eyes import random_shift
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec

Scalars = dict[str, float]
Rates = dict[torch.optim.Optimizer, float]
"""Optimizer -> share of the learning rate."""
T = TypeVar("T")

VALUED = 256
"""Rows that `Agent.values` works on at a time: pictures of a whole partition would take much memory."""
PULLS = ("nll", "kl")
"""Terms of the actor's loss that pull to the data or to pi0."""


class TrainingDivergedError(RuntimeError):
    """Too many updates in a row had a loss or gradient that is not finite. The last checkpoint is good."""


class Agent:
    """Networks, optimizers and counters. Reproducible: chance comes only from `torch_rng` and `numpy_rng`."""

    def __init__(self, spec: PolicySpec, config: Config) -> None:
        self.spec = spec
        self.world = Alone()
        """The processes that share the updates, and their devices."""
        self.configure(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = ChunkPolicy(spec)
            self.teller = make_teller(spec)
            """Tells hidden entries of the state by the pictures' code while imitation teaches the eyes; no robot's."""
        self.target_critic = copy.deepcopy(self.policy.critic).requires_grad_(False)
        self.reference: Actor | None = None
        """pi0, frozen at the first actor update after imitation, for the regularisers that compare with it."""
        self.slow_actor: Actor | None = None
        """Exponential moving average of the actor, if `actor_tau` asks for one."""
        self.actor_optimizer = self._adam(self.policy.flow)
        self.critic_optimizer = self._adam(self.policy.critic)
        self.eyes_optimizer = self._adam(self.policy.eyes) if self.policy.eyes is not None else None
        self.teller_optimizer = self._adam(self.teller) if self.teller is not None else None
        # On the CPU whatever the device: the same noise everywhere, so a checkpoint goes on on another device.
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
        self._compiled: dict[str, Callable[..., Any]] = {}

    @property
    def device(self) -> torch.device:
        """Where the updates are worked out."""
        return self.world.device

    def join(self, world: Alone) -> None:
        """From now on share the updates with these processes, on this one's device."""
        self.world = world
        for module in (self.policy, self.teller, self.target_critic, self.reference, self.slow_actor):
            if module is not None:
                module.to(world.device)
        optimizers = self.actor_optimizer, self.critic_optimizer, self.eyes_optimizer, self.teller_optimizer
        for optimizer in optimizers:
            if optimizer is not None:
                optimizer.load_state_dict(optimizer.state_dict())  # Its moments follow the parameters.

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
        learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.Adam(learned, lr=self.config.learning_rate, fused=True)

    def fit_normalizer(self, states: np.ndarray) -> None:
        """Once, before imitation, from the demonstrations' states (N, S)."""
        self.policy.normalizer.fit(torch.from_numpy(states))
        self.world.changed()

    # -- Stage 1

    def imitation_update(self, batch: Batch) -> Scalars:
        """L = -E[log pi(x + sigma * eps | s)] / D, and of a policy with eyes `hidden_weight` of `_untold`."""
        batch = self._begin("imitation_update", batch)
        states = self._known(batch.states, batch.images, self.policy.eyes is not None)
        data = self._perturbed(batch)
        loss = self._run(self._imitation_loss, states, data, *self._data_inputs(batch, data))
        scalars, rates = {"nll": loss}, self._rates(self.eyes_optimizer, 1.0)
        if self.teller is not None and self.config.hidden_weight > 0.0:
            scalars["untold"] = self._untold(self.teller, batch, states)
            loss = loss + self.config.hidden_weight * scalars["untold"]
            rates |= self._rates(self.teller_optimizer, 1.0)
        means = self.world.means([value.detach() for value in scalars.values()])
        norm = self._actor_step(loss, torch.stack(means).sum(), rates)
        self.reference = None  # Whatever stage 3 compares with is imitated first.
        return {k: v.item() for k, v in zip(scalars, means, strict=True)} | {"actor_gradient": norm}

    def _untold(self, teller: nn.Module, batch: Batch, known: Tensor) -> Tensor:
        """(): what pictures do not tell of the hidden entries: mean square, of those entries' variance.

        Vision layers taught where things are while they learn to act, as arXiv 1504.00702 does before.
        """
        hidden = self.policy.normalizer(batch.states)[:, list(self.spec.hidden)]
        return (teller(known[:, self.spec.state_dim :]) - hidden).square().mean()

    def _imitation_loss(
        self, states: Tensor, chunks: Tensor, weights: Tensor, total: Tensor, *noise: Tensor
    ) -> Tensor:
        return self._data_loss(self.policy.flow.encode(states), chunks, weights, total, *noise)

    # -- Stage 2

    def critic_update(self, batch: Batch) -> Scalars:
        """Q_j towards y = R + gamma^m (1 - terminated) * agg_j Qbar_j(s_{t+m}, x'), x' ~ pi."""
        batch = self._begin("critic_update", batch)
        rate = self.config.encoder_rate if self.policy.eyes is not None else 0.0
        with torch.no_grad():
            next_values = self.next_values(self._known(batch.next_states, batch.next_images))
            target = losses.td_target(batch.returns, batch.discounts, next_values)
        states = self._known(batch.states, batch.images, rate > 0.0)
        loss = self._run(self._critic_loss, states, batch.actions, target)
        td_loss, mean = self.world.means([loss.detach(), target.mean()])
        norm = self._step(self.critic_optimizer, loss, td_loss, self._rates(self.eyes_optimizer, rate))
        if np.isfinite(norm):
            follow(self.target_critic, self.policy.critic, self.config.target_tau)
        return {"td_loss": td_loss.item(), "target": mean.item(), "critic_gradient": norm}

    def _critic_loss(self, states: Tensor, chunks: Tensor, target: Tensor) -> Tensor:
        return losses.td_loss(self.policy.critic(states, chunks), target)

    def next_values(self, states: Tensor) -> Tensor:
        """agg_j Qbar_j(s, x') with x' ~ pi, clipped; normalised states (B, S) -> (B,). (C): less a penalty.

        With `target_best_of` the largest of as many samples.
        """
        best_of = self.config.target_best_of
        noise = self._noise(best_of * len(states))
        chunks, log_prob, values = self._run(self._target_sample, states, noise)
        values = losses.aggregate(self._subset(values), self.config.aggregate)
        values = values.view(-1, best_of).amax(1) if best_of > 1 else values
        if self.config.regulariser != "target" or self.reference is None:
            return values  # In the warm-up pi is pi0: no penalty.
        kl = losses.kl_per_dim(log_prob, self.reference.log_prob(chunks, states), self.spec.chunk_dim)
        return losses.penalised(values, kl, self.config.target_penalty)

    def _target_sample(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x' (N, h, A), its log density (N,), Qbar_j of it clipped (E, N): N / B samples of each state (B, S)."""
        samples = len(noise) // len(states)
        # A state is encoded once, however many samples it has.
        code = tuple(each.repeat_interleave(samples, dim=0) for each in self.actor.encode(states))
        chunks, log_prob = self.actor.sample_given(code, noise)
        states = states.repeat_interleave(samples, dim=0)
        return chunks, log_prob, self.target_critic(states, chunks.clamp(-1.0, 1.0))

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
        batch = self._begin("actor_update", batch)
        states = self._known(batch.states, batch.images)
        if self.config.regulariser in NEEDS_LIKELIHOOD and self.reference is None:
            self.reference = frozen_copy(self.policy.flow)
        imitates = self.config.regulariser == "data_nll"
        data = self._perturbed(batch) if imitates else batch.actions
        noise = self._noise(len(states))
        inputs = self._data_inputs(batch, data) if imitates else ()
        # Its gradients are not asked for, and compiled code would work them out all the same.
        with constant(self.policy.critic):
            terms, values = self._run(self._actor_terms, states, noise, data, *inputs)
        (size,) = self.world.means([values.detach().abs().mean()])
        pull = sum((terms[name] for name in PULLS if name in terms), torch.zeros(()))
        beta = self.config.beta * self.beta_scale
        loss = losses.policy_loss(
            values, pull, terms["out_of_box"], size=size, beta=beta, kappa=self.config.kappa
        )
        scalars = {"actor_loss": loss, "q": values.mean(), **terms}
        means = self.world.means([value.detach() for value in scalars.values()])
        norm = self._actor_step(loss, means[0])
        return {k: v.item() for k, v in zip(scalars, means, strict=True)} | {"actor_gradient": norm}

    def _actor_terms(
        self, states: Tensor, noise: Tensor, data: Tensor, *inputs: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The loss's terms by name, and mean_j Q_j of the policy's own chunks, (B,)."""
        flow = self.policy.flow
        code = flow.encode(states)
        pull = {"nll": self._data_loss(code, data, *inputs)} if inputs else {}
        chunks, log_prob = flow.sample_given(code, noise)
        # (ours) The mean over members, not the minimum: a smoother slope to climb.
        values = self.policy.critic(states, losses.clip_straight_through(chunks)).mean(0)
        excess = losses.out_of_box(chunks)
        if self.reference is not None and self.config.regulariser in NEEDS_LIKELIHOOD:
            pull["kl"] = self._reference_pull(self.reference, states, chunks)
        entropy = -log_prob.mean() / self.spec.chunk_dim
        return {"entropy": entropy, "out_of_box": excess, **pull}, values

    def _reference_pull(self, reference: Actor, states: Tensor, chunks: Tensor) -> Tensor:
        """(B): E_x[log pi - log pi0] / D of the policy's own chunks."""
        with constant(self.policy.flow):
            log_prob = self.policy.flow.log_prob(chunks, states)
        return losses.kl_per_dim(log_prob, reference.log_prob(chunks, states), self.spec.chunk_dim).mean()

    @torch.no_grad()
    def values(self, batch: Batch) -> np.ndarray:
        """agg_j Q_j of a batch's states and chunks -> (B,); pictures as they are, not shifted."""
        found = [np.empty(0, np.float32)]
        for start in range(0, len(batch), VALUED):
            part = mapped(batch[start : start + VALUED], lambda tensor: tensor.to(self.device))
            values = self.policy.critic(self.policy.known(part.states, part.images), part.actions)
            found.append(losses.aggregate(values, self.config.aggregate).cpu().numpy())
        return np.concatenate(found)

    # -- Shared

    def _known(self, states: Tensor, images: dict[str, Tensor] | None, learn: bool = False) -> Tensor:
        """What the networks are given of states (B, S), pictures randomly shifted; `learn`: gradients for the eyes."""
        if images is None:
            return self.policy.known(states)
        limit = round(self.config.image_shift * self.spec.image_size)

        def draw(rows: int) -> Tensor:
            return torch.randint(-limit, limit + 1, (rows, 2), generator=self.torch_rng)

        moved = {name: random_shift(each, self._drawn(len(each), draw)) for name, each in images.items()}
        with torch.set_grad_enabled(learn):
            return self.policy.known(states, moved)

    def _begin(self, update: str, batch: Batch) -> Batch:
        """This process's rows, on its device."""
        batch = self.world.begin(self, update, batch)
        return batch if self.device.type == "cpu" else mapped(batch, lambda tensor: tensor.to(self.device))

    def _run(self, function: Callable[..., T], *inputs: Tensor) -> T:
        """A part of an update, with its networks in the asked precision, compiled if that was asked for."""
        if self.config.compiled:
            name = function.__name__
            function = self._compiled.setdefault(name, torch.compile(function, dynamic=False))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return function(*inputs)

    def _perturbed(self, batch: Batch) -> Tensor:
        like = batch.actions
        noise = self._drawn(
            len(like),
            lambda rows: torch.randn(rows, *like.shape[1:], generator=self.torch_rng, dtype=like.dtype),
        )
        return losses.perturb(like, self.config.imitation_sigma, noise)

    def _data_inputs(self, batch: Batch, chunks: Tensor) -> tuple[Tensor, ...]:
        """What `_data_loss` takes beside the chunks: their weights, the sum of all weights, and noise."""
        weights = batch.imitable.to(chunks.dtype)
        # Where other processes have fewer of the imitable windows, own ones weigh no more for it.
        total = self.world.total(weights.sum()).clamp(min=1.0) * self.world.share
        draws = self.policy.flow.imitation_noise(self.torch_rng, chunks.dtype)
        return weights, total, *(self._drawn(len(chunks), draw) for draw in draws)

    def _data_loss(
        self, code: Code, chunks: Tensor, weights: Tensor, total: Tensor, *noise: Tensor
    ) -> Tensor:
        """NLL per dimension of the data's chunks; of a family without likelihood its regression loss."""
        loss = self.policy.flow.imitation_loss_given(chunks, code, *noise)
        return losses.weighted_mean(loss, weights, total)

    def _noise(self, batch: int) -> Tensor:
        shape = self.spec.horizon, self.spec.action_dim
        return self._drawn(batch, lambda rows: torch.randn(rows, *shape, generator=self.torch_rng))

    def _drawn(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        return self.world.noise(rows, draw).to(self.device)

    @staticmethod
    def _rates(optimizer: torch.optim.Optimizer | None, rate: float) -> Rates:
        return {optimizer: rate} if optimizer is not None and rate > 0.0 else {}

    def _actor_step(self, loss: Tensor, whole: Tensor, others: Rates | None = None) -> float:
        """`_step` of the actor; the slow one follows."""
        rates = {self.actor_optimizer: self.config.actor_rate, **(others or {})}
        norm = self._step(self.actor_optimizer, loss, whole, rates)
        if self.config.actor_tau == 0.0:
            self.slow_actor = None
        elif self.slow_actor is None:
            self.slow_actor = frozen_copy(self.policy.flow)
        elif np.isfinite(norm):
            follow(self.slow_actor, self.policy.flow, self.config.actor_tau)
        return norm

    def _step(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, whole: Tensor, others: Rates | None = None
    ) -> float:
        """One guarded step on the optimizer's parameters only. Returns the gradient's norm, NaN if skipped.

        `loss` is of own rows, `whole` of all: every process steps, or none does. `others` step along, at so much
        of the learning rate.

        Raises:
            TrainingDivergedError: more than `max_consecutive_skips` in a row.
        """
        rates = {optimizer: 1.0, **(others or {})}
        groups = [(group, rate) for each, rate in rates.items() for group in each.param_groups]
        norm = float("nan")
        if torch.isfinite(whole):
            norm = self._gradients([p for group, _ in groups for p in group["params"]], loss)
        if not np.isfinite(norm):
            self._count_skip(whole)
            return float("nan")
        for group, rate in groups:
            group["lr"] = rate * self.config.learning_rate
        for each in rates:
            each.step()
        self.consecutive_skips = 0
        self.gradient_step += 1
        return norm

    def _gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Write the clipped gradients into `.grad`; returns their norm before the clip."""
        parameters = list(parameters)
        # Not backward(): that would also compute the gradients of the critic in an actor update.
        gradients = self.world.means(torch.autograd.grad(loss, parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # A convolution's may come in another order of memory, which the fused optimizer would not see.
            parameter.grad = gradient.contiguous()
        return float(nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip))

    def _count_skip(self, loss: Tensor) -> None:
        self.skipped += 1
        self.consecutive_skips += 1
        if self.consecutive_skips > self.config.max_consecutive_skips:
            raise TrainingDivergedError(
                f"{self.consecutive_skips} updates in a row were not finite (last loss {loss.item()}), "
                f"max_consecutive_skips is {self.config.max_consecutive_skips}"
            )


def make_teller(spec: PolicySpec) -> nn.Linear | None:
    """Pictures' code -> hidden entries, normalised; None for a policy that has not both."""
    codes = spec.input_dim - spec.state_dim
    return nn.Linear(codes, len(spec.hidden)) if codes and spec.hidden else None


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
