"""The agent's updates: each moves only what it may, guards against bad numbers, and repeats with its seed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from softflow_learner.agent import Agent, TrainingDivergedError
from softflow_learner.config import Config
from softflow_learner.replay import Batch, Replay
from softflow_node.parameters import ParameterError, from_mapping

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(v, before[k]) for k, v in module.state_dict().items())


def batch(seed: int = 0) -> Batch:
    return toy.replay().sample(32, 1.0, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("update", "moves"),
    [
        ("imitation_update", {"flow"}),
        ("critic_update", {"critic", "target"}),
        ("actor_update", {"flow"}),
    ],
)
def test_an_update_moves_only_its_own_networks(update: str, moves: set[str]) -> None:
    agent = toy.agent()
    modules = {"flow": agent.policy.flow, "critic": agent.policy.critic, "target": agent.target_critic}
    before = {name: snapshot(m) for name, m in modules.items()}
    scalars = getattr(agent, update)(batch())
    assert {name for name, m in modules.items() if changed(m, before[name])} == moves
    assert all(np.isfinite(v) for v in scalars.values())
    assert agent.gradient_step == 1 and agent.skipped == 0


@pytest.mark.parametrize(
    "networks", [{"conditioner": "transformer"}, {"policy": "gaussian"}, {"policy": "flow_matching"}], ids=str
)
def test_every_kind_of_policy_learns_by_the_same_updates(networks: dict[str, str]) -> None:
    spec = dataclasses.replace(toy.SPEC, **networks)
    agent, replay = Agent(spec, toy.config(learning_rate=3e-3)), toy.replay()
    agent.fit_normalizer(replay.states())
    losses = [agent.imitation_update(replay.sample(64, 1.0, agent.numpy_rng))["nll"] for _ in range(150)]
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.1
    for _ in range(3):
        scalars = agent.critic_update(batch()) | agent.actor_update(batch())
    assert math.isnan(scalars.pop("entropy")) == (spec.policy == "flow_matching")
    assert all(np.isfinite(v) for v in scalars.values()) and agent.skipped == 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in agent.policy.flow.parameters())


def test_a_per_step_critic_learns_by_the_same_updates() -> None:
    spec, settings = dataclasses.replace(toy.SPEC, horizon=1), toy.config(critic="per_step", return_steps=3)
    made, experience = Agent(spec, settings), Replay(2, 2, settings.window_steps(spec), 0.9, actions=1)
    single = toy.replay(into=experience).sample(32, 1.0, np.random.default_rng(0))
    assert single.actions.shape == (32, 1, 2)
    assert float(single.discounts[single.discounts > 0].min()) == pytest.approx(0.9**3)
    scalars = made.imitation_update(single) | made.critic_update(single) | made.actor_update(single)
    assert all(np.isfinite(v) for v in scalars.values())


def test_a_target_can_take_the_best_of_several_samples() -> None:
    agent = toy.agent(target_best_of=4)
    states = agent.policy.normalizer(batch().states)
    with torch.no_grad():
        agent.torch_rng.manual_seed(0)
        best = agent.next_values(states)
        agent.torch_rng.manual_seed(0)
        noise = agent._noise(4 * len(states))
        for k in range(len(states)):
            chunks, _ = agent.actor.sample(states[k : k + 1], noise[4 * k : 4 * k + 4])
            values = agent.target_critic(states[k : k + 1].expand(4, -1), chunks.clamp(-1.0, 1.0)).amin(0)
            assert float(best[k]) == pytest.approx(float(values.max()), abs=1e-5)
    with pytest.raises(ParameterError, match="'target_best_of' is 4, must be 1 with regulariser 'target'"):
        toy.agent(target_best_of=4, regulariser="target")


def test_the_target_follows_by_tau() -> None:
    agent = toy.agent(target_tau=0.25)
    before = snapshot(agent.target_critic)
    agent.critic_update(batch())
    for name, value in agent.target_critic.state_dict().items():
        online = agent.policy.critic.state_dict()[name]
        assert torch.allclose(value, 0.75 * before[name] + 0.25 * online, atol=1e-7)


def test_an_actor_update_reaches_every_parameter_of_the_flow() -> None:
    agent = toy.agent()
    for _ in range(3):
        agent.actor_update(batch())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in agent.policy.flow.parameters())


def test_imitation_lowers_the_likelihood_loss() -> None:
    agent, replay = toy.agent(imitation_sigma=0.1), toy.replay()
    losses = [agent.imitation_update(replay.sample(64, 1.0, agent.numpy_rng))["nll"] for _ in range(150)]
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.3


def test_updates_repeat_with_the_seed() -> None:
    runs = []
    for _ in range(2):
        agent = toy.agent(seed=3)
        for k in range(3):
            agent.critic_update(batch(k))
            agent.actor_update(batch(k))
        runs.append(snapshot(agent.policy))
    assert all(torch.equal(v, runs[1][k]) for k, v in runs[0].items())


def test_building_an_agent_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Agent(toy.SPEC, toy.config())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("update", "field"),
    [
        ("imitation_update", "actions"),
        ("critic_update", "returns"),
        ("critic_update", "states"),
        ("actor_update", "states"),
    ],
)
def test_a_nan_batch_is_skipped_and_counted(update: str, field: str) -> None:
    agent, good = toy.agent(), batch()
    poisoned = getattr(good, field).clone()
    poisoned.view(-1)[0] = torch.nan
    before, target = snapshot(agent.policy), snapshot(agent.target_critic)
    scalars = getattr(agent, update)(dataclasses.replace(good, **{field: poisoned}))
    assert not changed(agent.policy, before) and not changed(agent.target_critic, target)
    assert agent.skipped == agent.consecutive_skips == 1 and agent.gradient_step == 0
    assert any(np.isnan(v) for v in scalars.values())
    getattr(agent, update)(good)
    assert agent.skipped == 1 and agent.consecutive_skips == 0 and agent.gradient_step == 1
    assert all(torch.isfinite(v).all() for v in agent.policy.state_dict().values())


def test_too_many_skips_in_a_row_stop_the_run() -> None:
    agent, good = toy.agent(max_consecutive_skips=2), batch()
    bad = dataclasses.replace(good, returns=torch.full_like(good.returns, torch.inf))
    agent.critic_update(bad)
    agent.critic_update(bad)
    with pytest.raises(TrainingDivergedError, match="max_consecutive_skips is 2"):
        agent.critic_update(bad)


def test_the_slow_actor_follows_by_tau_acts_and_draws_the_targets() -> None:
    agent = toy.agent(actor_tau=0.25)
    assert agent.acting_policy() is agent.policy
    agent.imitation_update(batch())
    before = snapshot(agent.slow_actor)
    agent.actor_update(batch())
    fast = agent.policy.flow.state_dict()
    for name, value in agent.slow_actor.state_dict().items():
        assert torch.allclose(value, 0.75 * before[name] + 0.25 * fast[name], atol=1e-7)
    acting = agent.acting_policy()
    assert not changed(acting.flow, snapshot(agent.slow_actor)) and changed(acting.flow, fast)
    assert not changed(acting.critic, snapshot(agent.policy.critic))
    state = torch.zeros(4, 2)
    agent.torch_rng.manual_seed(0)
    values = agent.next_values(state)
    agent.slow_actor, slow = None, agent.slow_actor
    agent.torch_rng.manual_seed(0)
    assert not torch.equal(values, agent.next_values(state))
    agent.policy.flow.load_state_dict(slow.state_dict())
    agent.torch_rng.manual_seed(0)
    assert torch.equal(values, agent.next_values(state))


@pytest.mark.parametrize("update", ["imitation_update", "actor_update"])
def test_the_actor_learns_at_its_share_of_the_learning_rate_the_critic_at_all_of_it(update: str) -> None:
    agents = [toy.agent(actor_rate=rate) for rate in (1.0, 3.0)]
    steps = []
    for agent in agents:
        agent.critic_update(batch())
        before = snapshot(agent.policy.flow)
        getattr(agent, update)(batch())
        after = agent.policy.flow.state_dict()
        steps.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    # Adam's first step is the rate, with the gradient's sign.
    assert steps[0].abs().max() > 0.0 and torch.allclose(3.0 * steps[0], steps[1], rtol=1e-3, atol=1e-6)
    assert not changed(agents[1].policy.critic, snapshot(agents[0].policy.critic))


def test_the_slow_actor_goes_when_it_is_switched_off() -> None:
    agent = toy.agent(actor_tau=0.25)
    agent.imitation_update(batch())
    agent.configure(dataclasses.replace(agent.config, actor_tau=0.0))
    agent.imitation_update(batch())
    assert agent.slow_actor is None and agent.acting_policy() is agent.policy


@pytest.mark.parametrize("aggregate", ["min", "mean"])
def test_targets_aggregate_a_random_subset_of_the_critics(aggregate: str) -> None:
    spec = dataclasses.replace(toy.SPEC, critic_members=5)
    agent = Agent(spec, toy.config(aggregate=aggregate, aggregate_subset=2))
    values = torch.arange(5.0)[:, None].expand(5, 3)
    pairs = {tuple(sorted(agent._subset(values)[:, 0].tolist())) for _ in range(200)}
    assert pairs == set(itertools.combinations(range(5), 2))
    assert torch.isfinite(agent.next_values(torch.zeros(4, 2))).all()
    with pytest.raises(ParameterError, match="'aggregate_subset' is 6, must be at most critic_members = 5"):
        agent.configure(dataclasses.replace(agent.config, aggregate_subset=6))


def test_a_huge_gradient_is_clipped() -> None:
    agent, good = toy.agent(gradient_clip=0.5), batch()
    huge = dataclasses.replace(good, returns=torch.full_like(good.returns, 1e6))
    assert agent.critic_update(huge)["critic_gradient"] > 0.5
    norm = torch.stack([p.grad.norm() for p in agent.policy.critic.parameters()]).norm()
    assert float(norm) <= 0.5 + 1e-4


def test_values_use_the_configured_aggregate() -> None:
    agent = toy.agent(aggregate="mean")
    pessimist = copy.deepcopy(agent)
    pessimist.config = dataclasses.replace(agent.config, aggregate="min")
    one = batch()
    mean, least = (a.values(one) for a in (agent, pessimist))
    assert (least <= mean).all() and (least < mean).any()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"gamma": 1.5}, r"'gamma' is 1.5, must be in \[0.0, 1.0\]"),
        ({"batch_size": 0}, "'batch_size' is 0"),
        ({"aggregate": "max"}, "'aggregate' is 'max', allowed: min, mean"),
        ({"beta": float("nan")}, "'beta' is nan, must be finite"),
        ({"warmup_min_updates": 9, "warmup_max_updates": 5}, "'warmup_min_updates' is 9.*= 5"),
        ({"learning_rat": 1e-3}, "'learning_rat'.*did you mean 'learning_rate'"),
    ],
)
def test_a_bad_config_is_refused_by_name(values: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        from_mapping(Config, values, "learner")
    with pytest.raises((ParameterError, TypeError)):
        Config(**values)  # type: ignore[arg-type]


def test_compiled_updates_have_the_losses_of_those_that_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing compiled before counts, and nothing is left.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    spec = dataclasses.replace(toy.SPEC, couplings=1, critic_layers=1)  # Compiling takes long.
    losses: dict[bool, list[float]] = {}
    for compiled in (False, True):
        agent = Agent(spec, toy.config(compiled=compiled))
        losses[compiled] = []
        for k in range(3):
            losses[compiled].append(agent.critic_update(batch(k))["td_loss"])
            losses[compiled].append(agent.actor_update(batch(k))["actor_loss"])
    assert any(tmp_path.iterdir()), "nothing was compiled"
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert losses[True][-1] != losses[True][1], "the weights have moved"
