"""The compiled sampling draws what the flow draws, for every shape, and only stands for flows that it knows."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow_policy import native
from softflow_policy.flow import ConditionalFlow
from softflow_policy.loaded import load_policy
from softflow_policy.native import FloatArray, NativeFlow, available
from softflow_policy.policy import ChunkPolicy, PlanError, chunk_noise
from softflow_policy.spec import PolicySpec
from softflow_policy.weights import WeightsInfo, encode_weights
from softflow_tasks import make_task


def trained(spec: PolicySpec, seed: int = 0) -> ChunkPolicy:
    """A policy whose every weight says something, small enough that a flow of a dozen couplings does not amplify."""
    policy, generator = ChunkPolicy(spec), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.7 * noise / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.3 * noise)
    return policy


def zeros(*shape: int) -> FloatArray:
    return np.zeros(shape, np.float32)


def compare(spec: PolicySpec, seed: int, rows: int) -> None:
    flow = trained(spec, seed).flow
    assert isinstance(flow, ConditionalFlow)
    generator = torch.Generator().manual_seed(seed + 1)
    state = torch.randn(1, spec.input_dim, generator=generator)
    noise = torch.randn(rows, spec.horizon, spec.action_dim, generator=generator)
    chunks, log_prob = NativeFlow(flow).sample(state.numpy(), noise.numpy())
    expected, density = flow.double().sample(state.double(), noise.double())
    np.testing.assert_allclose(chunks, expected.detach().numpy(), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(log_prob, density.detach().numpy(), rtol=1e-5, atol=1e-4)


def test_it_was_compiled() -> None:
    """Everywhere these tests run there is a compiler."""
    assert available(ChunkPolicy(PolicySpec()).flow)


@settings(max_examples=60, deadline=None)
@given(
    state_dim=st.integers(1, 70),
    horizon=st.integers(1, 9),
    action_dim=st.integers(1, 9),
    width=st.integers(4, 150),
    layers=st.integers(1, 4),
    couplings=st.integers(1, 7),
    seed=st.integers(0, 1000),
    rows=st.integers(1, 4),
)
def test_chunks_and_densities_are_the_flows(
    state_dim: int,
    horizon: int,
    action_dim: int,
    width: int,
    layers: int,
    couplings: int,
    seed: int,
    rows: int,
) -> None:
    if horizon * action_dim < 2:
        horizon = 2
    spec = PolicySpec(
        state_dim=state_dim,
        horizon=horizon,
        action_dim=action_dim,
        width=width,
        conditioner_layers=layers,
        couplings=couplings,
    )
    compare(spec, seed, rows)


def test_the_largest_chunks() -> None:
    compare(PolicySpec(horizon=32, action_dim=24, width=256, couplings=12), 0, 2)


@pytest.mark.parametrize(
    ("state", "noise", "said"),
    [
        (zeros(1, 33), zeros(2, 5, 8), r"^state has shape \(1, 33\), float32, must have \(1, 34\), float32"),
        (zeros(2, 34), zeros(2, 5, 8), r"^state has shape \(2, 34\)"),
        (zeros(34), zeros(2, 5, 8), r"^state has shape \(34,\)"),
        (zeros(1, 34), zeros(5, 8), r"^noise has shape \(5, 8\), float32, must have \('N', 5, 8\)"),
        (zeros(1, 34), zeros(2, 8, 5), r"^noise has shape \(2, 8, 5\)"),
        (zeros(1, 34).astype(np.float64), zeros(2, 5, 8), r"^state has shape \(1, 34\), float64, must"),
        (zeros(1, 34), zeros(2, 5, 8).astype(np.int32), r"^noise has shape \(2, 5, 8\), int32, must"),
        (zeros(1, 68)[:, ::2], zeros(2, 5, 8), r"^state has shape \(1, 34\), .* without gaps$"),
    ],
)
def test_what_does_not_fit_is_refused(state: FloatArray, noise: FloatArray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NativeFlow(ChunkPolicy(PolicySpec()).flow).sample(state, noise)  # type: ignore[arg-type]


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        NativeFlow(ChunkPolicy(PolicySpec()).flow)._flow.sample([0.0], 1, 2, 3)  # type: ignore[arg-type]


def test_sizes_that_contradict_the_weights_are_refused() -> None:
    """What C reads and writes lies within what it was given."""
    compiled = native._compiled()
    assert compiled is not None
    # Two inputs, four dimensions, width 16, one coupling that keeps 0 and 1: encoder, codes and base, coupling.
    sizes = np.array([2, 4, 16, 1, 0, 2, 0, 1, 2, 3], np.int32)
    weights = np.zeros(16 * (3 + 3 * 17 + 2 + 2 * 17), np.float32)
    compiled.Flow(sizes, weights, 2.0, 2.0, 2, 2)
    wrong: list[tuple[object, ...]] = [
        (sizes, weights[:-1], 2.0, 2.0, 2, 2),
        (sizes, weights, 2.0, 2.0, 2, 3),
    ]
    for place, value in [(0, 3), (0, -1), (1, 5), (2, 17), (3, 2), (4, 1), (4, -1), (5, 5), (6, 4), (9, -1)]:
        other = sizes.copy()
        other[place] = value
        wrong.append((other, weights, 2.0, 2.0, 2, 2))
    for arguments in wrong:
        with pytest.raises(ValueError, match="not of one flow"):
            compiled.Flow(*arguments)
    with pytest.raises(ValueError, match="not of one flow"):
        compiled.Flow(sizes[:3], weights, 2.0, 2.0, 2, 2)
    with pytest.raises(TypeError):
        compiled.Flow(sizes, weights)


def test_nothing_is_kept_of_what_it_was_given() -> None:
    """A node samples for days."""
    acting = NativeFlow(trained(PolicySpec(width=16)).flow)  # type: ignore[arg-type]
    state, noise = zeros(1, 34), zeros(2, 5, 8)
    chunks, log_prob = acting.sample(state, noise)
    before = [sys.getrefcount(array) for array in (state, noise, chunks, log_prob)]
    for _ in range(100):
        acting._flow.sample(state, noise, chunks, log_prob)
        with pytest.raises(ValueError, match="has shape"):
            acting._flow.sample(state, noise, chunks, chunks)
    assert [sys.getrefcount(array) for array in (state, noise, chunks, log_prob)] == before


def test_threads_do_not_meet() -> None:
    spec = PolicySpec(width=64)
    acting = NativeFlow(trained(spec).flow)  # type: ignore[arg-type]
    states = np.random.default_rng(0).standard_normal((200, 1, spec.state_dim), np.float32)
    noise = chunk_noise(0, "", 0, 1, spec.horizon, spec.action_dim)
    expected = [acting.sample(state, noise)[0] for state in states]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda state: acting.sample(state, noise)[0], states))
    np.testing.assert_array_equal(found, expected)


def test_a_loaded_policy_acts_by_it_and_plans_the_same() -> None:
    task = make_task("CubeRotation-v0")
    spec = PolicySpec(state_dim=task.layout.size, action_dim=task.action_dim, hidden=(3,))
    policy = trained(spec)
    policy.normalizer.fit(torch.randn(50, spec.state_dim) * 2 + 1)
    info = WeightsInfo(version=1, stage="offline", layout_hash=task.layout.hash)
    loaded = load_policy(encode_weights(policy, info), task).policy
    assert loaded._native is not None and policy._native is None
    state = np.linspace(-2, 2, spec.state_dim, dtype=np.float32)
    for count in (1, 4):
        noise = chunk_noise(0, "an episode", 7, count, spec.horizon, spec.action_dim)
        found, expected = loaded.plan(state, noise), policy.plan(state, noise)
        np.testing.assert_allclose(found.actions, expected.actions, atol=1e-4)
        np.testing.assert_allclose(
            [found.log_prob, found.q], [expected.log_prob, expected.q], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    "values",
    [
        {"conditioner": "transformer"},
        {"policy": "gaussian"},
        {"policy": "flow_matching"},
    ],
)
def test_what_it_does_not_know_is_left_to_pytorch(values: dict[str, str]) -> None:
    policy = ChunkPolicy(PolicySpec(**values))  # type: ignore[arg-type]
    policy.settle()
    assert policy._native is None
    with pytest.raises(ValueError, match="no native counterpart"):
        NativeFlow(policy.flow)  # type: ignore[arg-type]


def test_without_a_compiler_pytorch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_compiled", lambda: None)
    policy = trained(PolicySpec())
    policy.settle()
    assert policy._native is None


def test_numbers_beyond_float32_are_refused_as_before() -> None:
    policy = trained(PolicySpec())
    with torch.no_grad():
        for parameter in policy.flow.parameters():
            parameter.mul_(1e20)
    state, noise = np.ones(34, np.float32), chunk_noise(0, "", 0, 1, 5, 8)
    for settled in (False, True):
        if settled:
            policy.settle()
        with pytest.raises(PlanError, match="not finite"):
            policy.plan(state, noise)
