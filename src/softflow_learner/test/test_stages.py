"""The stages as loops: they count, report, stop, and freeze what they must."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_learner.agent import Scalars
from softflow_learner.stages import (
    OnlineLearning,
    annealed,
    run_imitation,
    run_offline,
    run_warmup,
    spearman,
)

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy


class Recorder:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, Scalars]] = []

    def __call__(self, step: int, total: int, scalars: Scalars) -> None:
        self.calls.append((step, total, scalars))


@pytest.mark.parametrize(("stage", "total"), [(run_imitation, 20), (run_offline, 10)])
def test_a_stage_reports_every_update_and_stops_when_asked(stage: object, total: int) -> None:
    agent, replay, progress = toy.agent(), toy.replay(), Recorder()
    assert stage(agent, replay, progress) == total  # type: ignore[operator]
    assert [c[:2] for c in progress.calls] == [(k + 1, total) for k in range(total)]
    half = Recorder()
    assert stage(agent, replay, half, lambda: len(half.calls) >= 4) == 4  # type: ignore[operator]


def test_the_warm_up_freezes_the_policy_and_reports_the_gate() -> None:
    agent, replay = toy.agent(warmup_rank_correlation=1.0), toy.replay()
    before = {k: v.clone() for k, v in agent.policy.flow.state_dict().items()}
    report = run_warmup(agent, replay, Recorder())
    assert all(torch.equal(v, before[k]) for k, v in agent.policy.flow.state_dict().items())
    assert report.updates == 20 and not report.passed
    assert -1.0 <= report.rank_correlation <= 1.0 and np.isfinite(report.td_loss)


def test_the_warm_up_ends_when_the_gate_opens() -> None:
    agent = toy.agent(
        warmup_rank_correlation=-1.0, warmup_plateau=1.0, warmup_min_updates=10, warmup_max_updates=500
    )
    report = run_warmup(agent, toy.replay(), Recorder())
    assert report.passed and report.plateau and 10 <= report.updates < 500


def test_the_warmed_up_critic_ranks_held_out_states() -> None:
    agent = toy.agent(gamma=0.9, warmup_max_updates=300, warmup_rank_correlation=1.0, learning_rate=1e-3)
    replay = toy.replay(episodes=40)
    run_imitation(agent, replay, Recorder())
    assert run_warmup(agent, replay, Recorder()).rank_correlation > 0.5


def test_online_updates_keep_pace_with_the_experience() -> None:
    agent, replay = toy.agent(update_to_data=2.0, actor_every=2), toy.replay()
    online = OnlineLearning(agent, replay)
    assert online.due() == 0
    toy.replay(seed=1, episodes=1, source="policy", into=replay)
    assert online.due() == int(2.0 * 25 / 3)
    assert all("actor_loss" not in online.update() for _ in range(3)), "critic only at first"
    toy.replay(seed=2, episodes=1, source="policy", into=replay)
    assert online.due() == int(2.0 * 50 / 3) - 3
    assert sum("actor_loss" in online.update() for _ in range(6)) == 3


def test_beta_is_annealed_over_the_online_steps() -> None:
    assert [annealed(0.2, p) for p in (0.0, 0.5, 1.0, 9.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    agent, replay = toy.agent(beta_final=0.5, beta_anneal_steps=50), toy.replay()
    toy.replay(seed=1, episodes=1, source="policy", into=replay)
    OnlineLearning(agent, replay).update()
    assert agent.beta_scale == pytest.approx(0.75)


def test_spearman() -> None:
    a = np.array([1.0, 5.0, 2.0, 9.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert spearman(a, np.ones(4)) == 0.0
