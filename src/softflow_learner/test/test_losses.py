"""The losses as formulas, and the critic's recursion against a tabular MDP's exact values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softflow_learner import losses
from softflow_learner.replay import Replay

GAMMA = 0.9


def test_straight_through_clip_clips_and_passes_the_gradient() -> None:
    x = torch.tensor([-3.0, -0.5, 0.2, 1.0, 7.0], requires_grad=True)
    out = losses.clip_straight_through(x)
    assert torch.equal(out, torch.tensor([-1.0, -0.5, 0.2, 1.0, 1.0]))
    out.backward(torch.arange(1.0, 6.0))
    assert torch.equal(x.grad, torch.arange(1.0, 6.0))


def test_noise_is_not_clamped() -> None:
    x = torch.ones(1000, 2, 2)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noisy = losses.perturb(x, 0.1, noise)
    assert noisy.max() > 1.1 and abs(float(noisy.mean()) - 1.0) < 0.01
    assert torch.equal(losses.perturb(x, 0.0, noise), x)


def test_policy_loss_is_its_formula() -> None:
    values, nll = torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor(1.5)
    excess = losses.out_of_box(torch.tensor([[[2.0, -3.0]], [[0.0, 0.5]]]))
    assert float(excess) == pytest.approx((1.0 + 4.0) / 2)
    loss = losses.policy_loss(values, nll, excess, beta=0.4, kappa=2.0)
    assert float(loss.detach()) == pytest.approx(-3.0 / 3.0 + 0.4 * 1.5 + 2.0 * 2.5)
    loss.backward()
    assert torch.allclose(values.grad, torch.full((2,), -0.5 / 3.0)), "the scale has no gradient"


def test_a_critic_near_zero_does_not_blow_the_policy_loss_up() -> None:
    loss = losses.policy_loss(
        torch.full((4,), 1e-9), torch.tensor(0.0), torch.tensor(0.0), beta=1.0, kappa=1.0
    )
    assert abs(float(loss)) < 1e-7


def test_aggregates() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
    assert losses.aggregate(values, "min").tolist() == [1.0, 2.0]
    assert losses.aggregate(values, "mean").tolist() == [2.0, 3.5]


def chain(length: int, terminal: bool, h: int) -> tuple[Replay, np.ndarray]:
    """A corridor walked to its end: reward k + 1 for the k-th step; returns the replay and the exact values.

    Terminal: the end is worth nothing more. Otherwise the walk is cut off there by a time-out, although the
    state is as good as the first one again (a ring), which only a bootstrap can know.
    """
    replay = Replay(1, 2, h, GAMMA)
    states = np.arange(length + 1, dtype=np.float32)[:, None]
    if not terminal:
        states[-1] = 0.0
    rewards = np.arange(1, length + 1, dtype=np.float32)
    replay.add_episode_segment(
        states,
        np.zeros((length, 2)),
        rewards,
        terminated=terminal,
        truncated=not terminal,
        source="teacher",
        episode_id="walk",
    )
    lap = sum(GAMMA**i * r for i, r in enumerate(rewards))
    start = lap if terminal else lap / (1 - GAMMA**length)
    exact = [start]
    for reward in rewards[:-1]:
        exact.append((exact[-1] - reward) / GAMMA)
    return replay, np.array(exact)


@pytest.mark.parametrize("h", [1, 3, 5, 50])
@pytest.mark.parametrize("terminal", [True, False], ids=["termination", "time-out"])
def test_the_chunked_recursion_gives_the_exact_values(h: int, terminal: bool) -> None:
    """Windows that end early count, terminations stop the sum, time-outs bootstrap."""
    replay, exact = chain(7, terminal, h)
    batch = replay.windows(np.arange(7))
    table = torch.zeros(8, dtype=torch.float64)
    for _ in range(2000):
        following = table[batch.next_states[:, 0].long()]
        table[batch.states[:, 0].long()] = losses.td_target(
            batch.returns.double(), batch.discounts.double(), following
        )
    assert np.abs(table[:7].numpy() - exact).max() < 1e-3


def test_td_loss_is_the_mean_over_members_and_batch() -> None:
    values, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 0.0])
    assert float(losses.td_loss(values, target)) == pytest.approx((0 + 4 + 4 + 16) / 4)
