"""Windows that may not be imitated train the critic all the same, and nothing but the likelihood leaves them out."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_learner.agent import Agent
from softflow_learner.replay import Batch

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy


def batch(imitable: torch.Tensor | None = None) -> Batch:
    made = toy.replay().sample(32, 1.0, np.random.default_rng(0))
    return made if imitable is None else dataclasses.replace(made, imitable=imitable)


def part(whole: Batch, rows: torch.Tensor) -> Batch:
    return whole[rows]


def after(update: str, some: Batch, **values: object) -> tuple[dict[str, float], Agent]:
    """Scalars of one update of a fresh agent without noise on the data."""
    made = toy.agent(imitation_sigma=0.0, **values)
    return getattr(made, update)(some), made


def same(one: Agent, two: Agent) -> bool:
    states = one.policy.state_dict(), two.policy.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


HALF = torch.arange(32) % 3 != 0


def test_the_likelihood_is_the_mean_over_the_imitable_windows() -> None:
    masked, one = after("imitation_update", batch(HALF))
    alone, two = after("imitation_update", part(batch(), HALF))
    assert masked["nll"] == pytest.approx(alone["nll"], rel=1e-5)
    assert masked["actor_gradient"] == pytest.approx(alone["actor_gradient"], rel=1e-4)
    whole, _ = after("imitation_update", batch())
    assert abs(masked["nll"] - whole["nll"]) > 1e-3
    for p, q in zip(one.policy.flow.parameters(), two.policy.flow.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-6)


def test_what_is_not_imitable_has_no_influence_whatever_its_actions() -> None:
    changed = batch(HALF)
    changed.actions[~HALF] = -changed.actions[~HALF]
    assert not torch.equal(changed.actions, batch().actions)
    assert same(after("imitation_update", batch(HALF))[1], after("imitation_update", changed)[1])
    assert same(after("actor_update", batch(HALF))[1], after("actor_update", changed)[1])


def test_a_batch_without_imitable_windows_pulls_nowhere() -> None:
    none = batch(torch.zeros(32, dtype=torch.bool))
    scalars, made = after("imitation_update", none)
    assert scalars["nll"] == 0.0 and scalars["actor_gradient"] == 0.0 and made.skipped == 0
    scalars, made = after("actor_update", none)
    assert scalars["nll"] == 0.0 and scalars["actor_gradient"] > 0.0


@pytest.mark.parametrize(
    ("update", "regulariser"),
    [("critic_update", "data_nll"), ("actor_update", "reverse_kl"), ("actor_update", "none")],
)
def test_critic_and_the_policy_s_own_chunks_do_not_ask(update: str, regulariser: str) -> None:
    masked, whole = (after(update, b, regulariser=regulariser) for b in (batch(HALF), batch()))
    assert masked[0] == whole[0] and same(masked[1], whole[1])
