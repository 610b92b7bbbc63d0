"""Today's learner step and the first one: from equal weights, equal losses over many updates."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from softflow_experiments.first_version import FirstVersion
from softflow_experiments.learner_speed import example
from softflow_learner.config import Config


@pytest.mark.parametrize("best_of", [1, 3])
def test_the_losses_are_those_of_the_first_version(best_of: int) -> None:
    agent, replay = example(Config(target_best_of=best_of))
    for _ in range(20):  # Away from the start, where half of the gradients are zero.
        agent.imitation_update(replay.sample(64, 1.0, agent.numpy_rng))
    first = FirstVersion(copy.deepcopy(agent))
    fresh = copy.deepcopy(agent)
    fresh.actor_optimizer, fresh.critic_optimizer = (
        fresh._adam(fresh.policy.flow),
        fresh._adam(fresh.policy.critic),
    )
    today, then = [], []
    for k in range(30):
        batch = replay.sample(64, 0.5, np.random.default_rng(k))
        today += [fresh.critic_update(batch)["td_loss"], fresh.actor_update(batch)["actor_loss"]]
        then += [first.critic_update(batch), first.actor_update(batch)]
    assert today == pytest.approx(then, rel=1e-3)
    assert abs(today[-1] - today[1]) > 0.05, "the weights have moved"
