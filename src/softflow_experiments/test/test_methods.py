"""The comparison is fair: networks of one size, and as many updates for every method."""

from __future__ import annotations

import pytest

from softflow_experiments.methods import METHODS
from softflow_experiments.tasks import TASKS
from softflow_experiments.trial import Cell
from softflow_learner.agent import Agent
from softflow_learner.session import new_agent, new_replay
from softflow_learner.stages import OnlineLearning
from softflow_tasks import make_task


def agent(task: str, method: str) -> Agent:
    return new_agent(make_task(TASKS[task].id), Cell(task, method, 0).all_settings())


def size(made: Agent) -> int:
    return sum(p.numel() for p in made.policy.flow.parameters())


@pytest.mark.parametrize("method", ["gaussian", "flow_matching"])
@pytest.mark.parametrize("task", list(TASKS))
def test_baselines_have_networks_of_the_flows_size(task: str, method: str) -> None:
    assert size(agent(task, method)) == pytest.approx(size(agent(task, "softflow")), rel=0.15)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("task", list(TASKS))
def test_no_method_gets_more_updates_than_the_full_one(task: str, method: str) -> None:
    full, other = agent(task, "softflow"), agent(task, method)
    for name in ("imitation_updates", "batch_size", "actor_every", "learning_rate", "holdout_every"):
        assert getattr(other.config, name) == getattr(full.config, name), name
    for name in ("warmup_max_updates", "offline_updates"):
        assert getattr(other.config, name) in (0, getattr(full.config, name)), name
    assert _rounds(other) == _rounds(full)


def _rounds(made: Agent) -> int:
    """Online, after 10,000 control steps."""
    replay = new_replay(made)
    replay.online_steps = 10_000
    return OnlineLearning(made, replay).due()


@pytest.mark.parametrize("settings", [(), (("horizon", 8),)])
def test_single_actions_sum_as_many_rewards_as_chunks_have_steps(
    settings: tuple[tuple[str, int], ...],
) -> None:
    made = {
        name: new_agent(make_task(TASKS["cube"].id), Cell("cube", name, 0, settings=settings).all_settings())
        for name in ("softflow", "per_step")
    }
    single = made["per_step"]
    assert single.spec.horizon == 1
    assert (
        single.config.window_steps(single.spec)
        == made["softflow"].spec.horizon
        == dict(settings).get("horizon", 5)
    )


def test_the_best_of_as_many_candidates_acts_in_the_ablations() -> None:
    assert {agent("cube", m).spec.best_of for m in METHODS if m not in ("bc", "best_of_1")} == {
        agent("cube", "softflow").spec.best_of
    }
