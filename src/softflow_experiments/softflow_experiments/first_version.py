"""The learner step as first written, to measure today's against: the same losses by more work.

Masks instead of selected dimensions, the state's part of every coupling worked out in each pass, the conditioners'
unused outputs, a matrix product for the critics' single output.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softflow_learner import losses
from softflow_learner.agent import Agent
from softflow_learner.replay import Batch
from softflow_policy.conditioners import MlpConditioner
from softflow_policy.couplings import (
    AffineCoupling,
    bounded_log_scale,
    conditional_affine,
    conditional_affine_inverse,
)
from softflow_policy.critic import EnsembleCritic, EnsembleLinear
from softflow_policy.flow import ConditionalFlow, standard_normal_log_prob


class FirstCoupling:
    """Masked: reads h*A + C numbers, writes 2*h*A."""

    def __init__(self, flow: ConditionalFlow, index: int) -> None:
        coupling, start = cast(AffineCoupling, flow.couplings[index]), sum(flow.code_sizes[:index])
        conditioner = cast(MlpConditioner, coupling.conditioner)
        rows = slice(start, start + flow.code_sizes[index])
        size, kept, moved = flow.grid.size, coupling.kept, coupling.moved
        *body, head = (layer for layer in conditioner.rest if isinstance(layer, nn.Linear))
        width, condition = flow.projection.weight[rows].shape
        first = torch.zeros(width, size + condition)
        first[:, kept] = conditioner.first.weight.detach()
        first[:, size:] = flow.projection.weight.detach()[rows]
        last, offset = torch.zeros(2 * size, width), torch.zeros(2 * size)
        last[torch.cat([moved, size + moved])] = head.weight.detach()
        offset[torch.cat([moved, size + moved])] = head.bias.detach()
        self.layers = [
            (first, flow.projection.bias.detach()[rows].clone()),
            *((layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in body),
            (last, offset),
        ]
        self.mask = torch.zeros(size).index_fill(0, kept, 1.0)
        self.bound = coupling.log_scale_max

    def parameters_of(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.cat([x * self.mask, condition], dim=-1)
        for weight, bias in self.layers[:-1]:
            out = F.silu(F.linear(out, weight, bias))
        raw, shift = F.linear(out, *self.layers[-1]).chunk(2, dim=-1)
        return bounded_log_scale(raw, self.bound) * (1.0 - self.mask), shift * (1.0 - self.mask)


class FirstVersion:
    """Starts from an agent's weights; `critic_update` and `actor_update` return their losses.

    Only for the flow with MLP conditioners, the likelihood of the data as the regulariser, and full chunks.
    """

    def __init__(self, agent: Agent) -> None:
        flow = agent.policy.flow
        assert isinstance(flow, ConditionalFlow)
        self.agent = agent
        self.encoder = [p.detach().clone() for p in flow.encoder.parameters()]
        self.couplings = [FirstCoupling(flow, k) for k in range(len(flow.couplings))]
        size = flow.code_sizes[-1]
        self.head = [
            flow.projection.weight.detach()[-size:].clone(),
            flow.projection.bias.detach()[-size:].clone(),
        ]
        self.critic = _critic_weights(agent.policy.critic)
        self.target = [w.detach().clone() for w in self.critic]
        actor = [*self.encoder, *self.head, *(w for c in self.couplings for layer in c.layers for w in layer)]
        for weight in [*actor, *self.critic]:
            weight.requires_grad_(True)
        rate = agent.config.learning_rate
        self.actor_optimizer = torch.optim.Adam(actor, rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic, rate, fused=True)

    def critic_update(self, batch: Batch) -> float:
        """See `Agent.critic_update`."""
        config, normalise = self.agent.config, self.agent.policy.normalizer
        with torch.no_grad():
            states = normalise(batch.next_states).repeat_interleave(config.target_best_of, dim=0)
            chunks, _ = self._sample(states, self.agent._noise(len(states)))
            values = losses.aggregate(_values(self.target, states, chunks.clamp(-1.0, 1.0)), config.aggregate)
            best = values.view(len(batch), -1).amax(1)
            target = losses.td_target(batch.returns, batch.discounts, best)
        loss = losses.td_loss(_values(self.critic, normalise(batch.states), batch.actions), target)
        self._step(self.critic_optimizer, loss)
        with torch.no_grad():
            torch._foreach_lerp_(self.target, self.critic, config.target_tau)
        return loss.item()

    def actor_update(self, batch: Batch) -> float:
        """See `Agent.actor_update`."""
        config, states = self.agent.config, self.agent.policy.normalizer(batch.states)
        noise = torch.randn(batch.actions.shape, generator=self.agent.torch_rng)
        data = losses.perturb(batch.actions, config.imitation_sigma, noise)
        nll = -self._log_prob(data, states).mean() / self.agent.spec.chunk_dim
        chunks, _ = self._sample(states, self.agent._noise(len(batch)))
        values = _values(self.critic, states, losses.clip_straight_through(chunks)).mean(0)
        loss = losses.policy_loss(
            values,
            nll,
            losses.out_of_box(chunks),
            beta=config.beta * self.agent.beta_scale,
            kappa=config.kappa,
        )
        self._step(self.actor_optimizer, loss)
        return loss.item()

    def _step(self, optimizer: torch.optim.Adam, loss: Tensor) -> None:
        weights = optimizer.param_groups[0]["params"]
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(weights, self.agent.config.gradient_clip)
        optimizer.step()

    def _condition(self, states: Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(states, *self.encoder[:2])), *self.encoder[2:])

    def _log_prob(self, x: Tensor, states: Tensor) -> Tensor:
        x, condition = x.flatten(1), self._condition(states)
        total = torch.zeros(len(x))
        for coupling in self.couplings:
            log_scale, shift = coupling.parameters_of(x, condition)
            x, total = torch.addcmul(shift, x, log_scale.exp()), total + log_scale.sum(-1)
        z, log_det = conditional_affine(x, F.linear(condition, *self.head))
        return standard_normal_log_prob(z) + total + log_det

    def _sample(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z, condition = noise.flatten(1), self._condition(states)
        x, total = conditional_affine_inverse(z, F.linear(condition, *self.head))
        for coupling in reversed(self.couplings):
            log_scale, shift = coupling.parameters_of(x, condition)
            x, total = (x - shift) * torch.exp(-log_scale), total - log_scale.sum(-1)
        return x.reshape(noise.shape), standard_normal_log_prob(z) - total


def _critic_weights(critic: EnsembleCritic) -> list[Tensor]:
    layers = [cast(EnsembleLinear, layer) for layer in critic.hidden]
    hidden = [w.detach().clone() for layer in layers for w in (layer.weight, layer.bias)]
    return [
        *hidden,
        critic.head.weight.detach().clone()[..., None],
        critic.head.bias.detach().clone()[:, None, None],
    ]


def _values(weights: list[Tensor], states: Tensor, chunks: Tensor) -> Tensor:
    x = torch.cat([states, chunks.flatten(1)], dim=-1).expand(len(weights[0]), -1, -1)
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = torch.baddbmm(bias, x, weight)
        x = F.silu(F.layer_norm(x, x.shape[-1:]))
    return torch.baddbmm(weights[-1], x, weights[-2]).squeeze(-1)
