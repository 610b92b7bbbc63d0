"""Held-out likelihood against zuko's flows of the same size, on the same data in the same order."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import pytest
import torch
import zuko
from torch import Tensor, nn

from softflow_policy.flow import ConditionalFlow, standard_normal_log_prob
from softflow_policy.spec import PolicySpec

SPEC = PolicySpec(state_dim=3, horizon=3, action_dim=2, couplings=4, width=32)
OURS = {
    "mlp": SPEC,
    "transformer": dataclasses.replace(
        SPEC, conditioner="transformer", width=12, conditioner_layers=1, conditioner_heads=2
    ),
}
THEIRS = {"NICE": zuko.flows.NICE, "MAF": zuko.flows.MAF}
LogProb = Callable[[Tensor, Tensor], Tensor]
"""chunks (B, h, A), states (B, S) -> (B,)"""


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Chunks (N, h, A) that bend with the state (N, S), at a wide or a narrow spread, each step after the last."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(count, SPEC.state_dim, generator=generator)
    step = (
        torch.randn(count, SPEC.horizon, SPEC.action_dim, generator=generator)
        * 0.3
        * torch.exp(state[:, :1, None] / 2)
    )
    walk = step.cumsum(1) + torch.sin(2.0 * state[:, 1:, None].transpose(1, 2))
    return walk + 0.3 * walk.roll(1, -1).square(), state


def held_out_nll(module: nn.Module, log_prob: LogProb, updates: int = 400) -> float:
    """[nats/dim] after a short training."""
    chunks, states = data(4096, seed=0)
    order = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        rows = torch.randint(len(chunks), (256,), generator=order)
        loss = -log_prob(chunks[rows], states[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return -float(log_prob(*data(4096, seed=2)).mean()) / SPEC.chunk_dim


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build_theirs(name: str, size: int) -> nn.Module:
    """The flow with as many hidden units as give it at least `size` parameters."""
    for width in itertools.count(4):
        torch.manual_seed(0)
        made: nn.Module = THEIRS[name](
            features=SPEC.chunk_dim,
            context=SPEC.state_dim,
            transforms=SPEC.couplings,
            hidden_features=[width] * SPEC.conditioner_layers,
            activation=nn.SiLU,
        )
        if parameters(made) >= size:
            return made
    raise AssertionError


@functools.cache
def ours(conditioner: str) -> tuple[float, int]:
    """Held-out NLL [nats/dim], parameters."""
    torch.manual_seed(0)
    flow = ConditionalFlow(OURS[conditioner])
    return held_out_nll(flow, flow.log_prob), parameters(flow)


@pytest.mark.parametrize(("conditioner", "name"), [("mlp", "NICE"), ("mlp", "MAF"), ("transformer", "NICE")])
def test_the_held_out_likelihood_is_no_worse_than_that_of_zuko(conditioner: str, name: str) -> None:
    nll, size = ours(conditioner)
    flow = build_theirs(name, size)
    assert parameters(flow) / size < 1.05
    theirs = held_out_nll(flow, lambda chunks, states: flow(states).log_prob(chunks.flatten(1)))
    start = -float(standard_normal_log_prob(data(4096, seed=2)[0].flatten(1)).mean()) / SPEC.chunk_dim
    assert theirs < start - 0.3, "the reference has learned something"
    assert nll < theirs + 0.02
