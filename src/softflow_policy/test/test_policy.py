"""The acting policy: clipped plans, honest log-probabilities, noise as a pure function."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from softflow_node.parameters import ParameterError
from softflow_policy.policy import ChunkPolicy, PlanError, chunk_noise
from softflow_policy.spec import PolicySpec

SPEC = PolicySpec(state_dim=6, horizon=3, action_dim=2, couplings=4, width=16, critic_width=16)
STATE = np.linspace(-1, 1, 6, dtype=np.float32)


@pytest.fixture
def policy() -> ChunkPolicy:
    torch.manual_seed(0)
    made = ChunkPolicy(SPEC)
    with torch.no_grad():
        for p in made.flow.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def noise(n: int, step: int = 0) -> np.ndarray:
    return chunk_noise(0, "episode", step, n, SPEC.horizon, SPEC.action_dim)


def test_actions_stay_in_the_box(policy: ChunkPolicy) -> None:
    planned = policy.plan(STATE, 5.0 * noise(4))
    assert planned.actions.shape == (3, 2) and planned.actions.dtype == np.float32
    assert np.abs(planned.actions).max() <= 1.0


def test_log_prob_is_the_density_of_an_unclipped_chunk(policy: ChunkPolicy) -> None:
    planned = policy.plan(STATE, 0.1 * noise(1))
    chunk = torch.from_numpy(planned.actions)[None]
    with torch.no_grad():
        wanted = policy.flow.log_prob(chunk, policy.normalizer(torch.from_numpy(STATE)[None]))
    assert planned.log_prob == pytest.approx(float(wanted), abs=1e-4)
    assert math.isnan(planned.q)


def test_log_prob_is_nan_when_the_clip_changed_the_chunk(policy: ChunkPolicy) -> None:
    assert math.isnan(policy.plan(STATE, np.full((1, 3, 2), 9.0)).log_prob)


def test_best_of_n_takes_what_the_critic_values_most(policy: ChunkPolicy) -> None:
    drawn = noise(8)
    planned = policy.plan(STATE, drawn)
    state = policy.normalizer(torch.from_numpy(STATE)[None])
    alone = [policy.plan(STATE, drawn[i : i + 1]).actions for i in range(8)]
    with torch.no_grad():
        values = [float(policy.critic(state, torch.from_numpy(a)[None]).mean()) for a in alone]
    assert planned.q == pytest.approx(max(values), abs=1e-5)
    assert np.allclose(planned.actions, alone[int(np.argmax(values))], atol=1e-6)


def test_a_plan_is_repeatable(policy: ChunkPolicy) -> None:
    assert np.array_equal(policy.plan(STATE, noise(4)).actions, policy.plan(STATE, noise(4)).actions)


@pytest.mark.parametrize(
    ("state", "drawn", "text"),
    [
        (STATE[:5], noise(1), r"state has shape \(5,\), must be \(6,\)"),
        (STATE, noise(1)[:, :2], r"noise has shape \(1, 2, 2\), must be \(1, 3, 2\)"),
        (STATE, noise(1)[:0], "noise has shape"),
        (STATE, np.float32(1.0), "noise has shape"),
        (np.where(np.arange(6) == 2, np.nan, STATE), noise(1), r"state\[2\] is nan, must be finite"),
    ],
)
def test_bad_input_is_named(policy: ChunkPolicy, state: np.ndarray, drawn: np.ndarray, text: str) -> None:
    with pytest.raises(PlanError, match=text):
        policy.plan(state, drawn)


def test_noise_is_a_pure_function_of_its_arguments() -> None:
    assert np.array_equal(noise(4), noise(4))
    assert np.array_equal(noise(4), noise(9)[:4])
    others = [
        noise(4, step=1),
        chunk_noise(1, "episode", 0, 4, 3, 2),
        chunk_noise(0, "another", 0, 4, 3, 2),
    ]
    assert all(not np.array_equal(noise(4), other) for other in others)


def test_noise_is_standard_normal() -> None:
    drawn = np.concatenate([noise(500, step=t).ravel() for t in range(30)])
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 1.0) < 0.02


def test_a_temperature_draws_nearer_to_the_middle_and_at_0_there_is_no_chance(policy: ChunkPolicy) -> None:
    assert np.array_equal(noise(4), chunk_noise(0, "episode", 0, 4, 3, 2, 1.0))
    assert np.array_equal(chunk_noise(0, "episode", 0, 4, 3, 2, 0.5), 0.5 * noise(4))
    calm = [policy.plan(STATE, chunk_noise(seed, "e", seed, 4, 3, 2, 0.0)).actions for seed in (0, 1)]
    assert np.array_equal(calm[0], calm[1])
    assert not np.array_equal(policy.plan(STATE, noise(4)).actions, policy.plan(STATE, noise(4, 1)).actions)


def test_normaliser_has_a_floor_and_a_clip(policy: ChunkPolicy) -> None:
    states = torch.randn(1000, 6) * torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 1.0]) + 3.0
    policy.normalizer.fit(states)
    out = policy.normalizer(states)
    assert out.mean(0).abs().max() < 1e-3 and out[:, 2].abs().max() < 1e-3
    assert policy.normalizer(torch.full((1, 6), 1e9)).max() == policy.normalizer.CLIP
    with pytest.raises(ValueError, match="finite"):
        policy.normalizer.fit(torch.full((4, 6), torch.nan))


def test_critic_members_are_independent_functions() -> None:
    """Value j depends on member j only, and equals what a loop over members computes."""
    torch.manual_seed(0)
    critic = ChunkPolicy(SPEC).critic
    state, chunk = torch.randn(5, 6), torch.randn(5, 3, 2)
    values = critic(state, chunk)
    assert values.shape == (2, 5)
    for j in range(2):
        x = torch.cat([state, chunk.flatten(1)], -1)
        for layer in critic.hidden:
            x = torch.nn.functional.linear(x, layer.weight[j].T, layer.bias[j, 0])
            x = torch.nn.functional.silu(torch.nn.functional.layer_norm(x, x.shape[-1:]))
        single = x @ critic.head.weight[j] + critic.head.bias[j]
        assert torch.allclose(values[j], single.squeeze(-1), atol=1e-5)
    gradient = torch.autograd.grad(values[0].sum(), critic.head.weight)[0]
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


def test_spec_hash_depends_on_every_field_and_on_nothing_else() -> None:
    assert SPEC.spec_hash() == PolicySpec.from_dict({**SPEC.__dict__}).spec_hash()
    changed = [PolicySpec(state_dim=7), PolicySpec(couplings=4), PolicySpec(best_of=8), PolicySpec()]
    assert len({s.spec_hash() for s in changed}) == len(changed)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"horizon": 0}, r"'horizon' is 0, must be in \[1, 64\]"),
        ({"width": 2.5}, "'width' is 2.5"),
        ({"conditioner": "cnn"}, "'conditioner' is 'cnn', allowed: mlp, transformer"),
        (
            {"conditioner": "transformer", "width": 30},
            "width is 30, must be a multiple of conditioner_heads = 4",
        ),
        ({"horizon": 1, "action_dim": 1}, "horizon \\* action_dim is 1"),
        ({"widht": 3}, "'widht'.*did you mean 'width'"),
    ],
)
def test_a_bad_spec_is_refused_by_name(values: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        PolicySpec.from_dict(values)
