"""The stages as loops: they count, report, stop, and freeze what they must."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_learner.agent import Agent, Scalars
from softflow_learner.replay import Batch, Replay
from softflow_learner.stages import (
    OnlineLearning,
    WarmupGate,
    annealed,
    run_imitation,
    run_offline,
    run_warmup,
    spearman,
    unexplained,
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


FAR = 10.0


def with_failures() -> Replay:
    """The toy's demonstrations, and failed ones in another place."""
    made, rng = toy.replay(), np.random.default_rng(1)
    for index in range(6):
        made.add_episode_segment(
            FAR + rng.normal(size=(26, 2)),
            rng.uniform(-1, 1, (25, 2)),
            np.zeros(25),
            terminated=False,
            truncated=True,
            source="teacher",
            episode_id=f"failed{index}",
            failed=True,
        )
    return made


def shares_of_failures(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Fills while the agent learns: kind of update -> share of each batch that is from failed demonstrations."""
    shares: dict[str, list[float]] = {}
    for kind in ("imitation_update", "critic_update", "actor_update"):
        seen: list[float] = shares.setdefault(kind, [])

        def update(batch: Batch, seen: list[float] = seen, real: object = getattr(agent, kind)) -> Scalars:
            seen.append(float((batch.states[:, 0] > FAR / 2).float().mean()))
            return real(batch)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(agent, kind, update)
    return shares


def test_failed_demonstrations_train_the_critic_only(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, replay = toy.agent(), with_failures()
    shares = shares_of_failures(agent, monkeypatch)
    run_imitation(agent, replay, Recorder())
    run_warmup(agent, replay, Recorder())
    run_offline(agent, replay, Recorder())
    offline = len(shares["critic_update"])
    toy.replay(seed=1, source="policy", into=replay)
    learning = OnlineLearning(agent, replay)
    while learning.due() > 0:
        learning.update()
    assert len(shares["imitation_update"]) == 20 and len(shares["actor_update"]) > 20
    assert not any(shares["imitation_update"]) and not any(shares["actor_update"])
    critic = shares["critic_update"]
    assert offline > 10 and np.mean(critic[:offline]) == pytest.approx(5 / 14, abs=0.07)
    assert np.mean(critic[offline:]) == pytest.approx(0.25 * 5 / 14, abs=0.04), "a quarter is offline"


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


def looks(shares: list[float], **values: object) -> list[bool]:
    """Whether the gate sees a plateau at looks with these unexplained shares of the targets' variance."""
    agent, replay = toy.agent(warmup_check_every=1, **values), toy.replay()
    gate, batch = WarmupGate(agent, replay), replay.sample(32, 1.0, np.random.default_rng(0))
    variance = float(np.var(agent.values(batch)))
    plateaus = []
    for share in shares:
        scalars = gate.observe(share / (1.0 - share) * variance, batch)
        assert scalars["unexplained"] == pytest.approx(share, nan_ok=True)
        plateaus.append(gate.plateau)
    return plateaus


@pytest.mark.parametrize(
    ("shares", "wanted"),
    [
        ([0.9, 0.5, 0.2, 0.1, 0.09, 0.085], [False] * 5 + [True]),
        # Little is left to explain: what a loss does that small is no matter, up or down.
        ([0.008, 0.012, 0.009], [False, False, True]),
        # Noise that nobody can explain is a plateau as well.
        ([0.70, 0.705, 0.695, 0.70], [False, False, True, True]),
        ([0.5, 0.4, 0.5, 0.4], [False] * 4),
        ([0.1, 0.1, float("nan"), 0.1, 0.1, 0.1], [False] * 5 + [True]),
    ],
)
def test_the_plateau_is_judged_against_the_variance_of_the_targets(
    shares: list[float], wanted: list[bool]
) -> None:
    assert looks(shares) == wanted


def test_the_unexplained_share_does_not_depend_on_the_reward_s_scale() -> None:
    values = np.random.default_rng(0).normal(size=100)
    share = unexplained(0.3, values)
    assert share == pytest.approx(0.3 / (0.3 + np.var(values)))
    assert unexplained(0.3e6, 1e3 * values) == pytest.approx(share)
    assert unexplained(0.0, np.ones(5)) == 0.0


def test_the_gate_stays_closed_where_the_held_out_episodes_say_nothing() -> None:
    """No return of theirs is known well enough; without held-out episodes by choice the plateau alone decides."""
    closed = toy.replay(into=Replay(2, 2, 3, gamma=0.9999, holdout_every=2), episodes=2)
    assert closed.size("held_out") > 0 and not len(closed.held_out()[1])
    opened = toy.replay(into=Replay(2, 2, 3, gamma=0.9999, holdout_every=0), episodes=2)
    for replay, passed in ((closed, False), (opened, True)):
        gate = WarmupGate(toy.agent(warmup_check_every=1, warmup_rank_correlation=-1.0), replay)
        for _ in range(3):
            gate.observe(0.1, replay.sample(32, 1.0, np.random.default_rng(0)))
        assert gate.plateau and gate.passed == passed and np.isnan(gate.rank)


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


def test_offline_rl_has_the_whole_beta() -> None:
    agent = toy.agent()
    agent.beta_scale = 0.25
    run_offline(agent, toy.replay(), Recorder())
    assert agent.beta_scale == 1.0


def test_spearman() -> None:
    a = np.array([1.0, 5.0, 2.0, 9.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert spearman(a, np.ones(4)) == 0.0
    # Of ties each has their mean rank, in whatever order they come: here 1.5, 1.5, 3.5, 3.5 against 1 to 4.
    for ties in ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 7.0, 7.0]):
        assert spearman(np.array(ties), np.arange(4.0)) == pytest.approx(2.0 / np.sqrt(5.0))
    order = np.array([3, 1, 0, 2])
    assert spearman(np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 4.0, 2.0, 3.0])) == pytest.approx(
        spearman(np.array([0.0, 1.0, 0.0, 1.0])[order], np.array([1.0, 4.0, 2.0, 3.0])[order])
    )


def test_offline_rl_makes_as_many_updates_as_it_is_told() -> None:
    agent, seen = toy.agent(offline_updates=0), Recorder()
    assert run_offline(agent, toy.replay(), seen, updates=3) == 3
    assert run_offline(agent, toy.replay(), seen) == 0
