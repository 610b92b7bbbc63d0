"""The policy families: one interface, properties of each, and why the flow is the default."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from softflow_node.parameters import ParameterError
from softflow_policy.actor import Actor
from softflow_policy.couplings import mean_and_log_std
from softflow_policy.families import FAMILIES, build_actor
from softflow_policy.flow_matching import FlowMatching
from softflow_policy.gaussian import ConditionalGaussian
from softflow_policy.policy import ChunkPolicy, chunk_noise
from softflow_policy.spec import PolicySpec
from softflow_policy.weights import WeightsInfo, decode_weights, encode_weights

SPEC = PolicySpec(state_dim=6, horizon=3, action_dim=2, couplings=4, width=16, critic_width=16)
family = pytest.mark.parametrize("name", FAMILIES)
with_likelihood = pytest.mark.parametrize("name", ["flow", "gaussian"])


def spec_of(name: str) -> PolicySpec:
    return dataclasses.replace(SPEC, policy=name)


def actor(name: str, scale: float = 0.15) -> Actor:
    """With weights away from the start."""
    torch.manual_seed(0)
    made = build_actor(spec_of(name))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(scale * torch.randn_like(p))
    return made


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(size, 3, 2), torch.randn(size, 6)


@family
def test_at_start_every_family_is_the_standard_normal(name: str) -> None:
    noise, state = batch()
    assert torch.equal(build_actor(spec_of(name)).sample(state, noise)[0], noise)


@family
def test_the_loss_and_the_samples_have_a_gradient_for_every_parameter(name: str) -> None:
    noise, state = batch()
    for path in ("loss", "sample"):
        made = actor(name)
        loss = made.imitation_loss(noise, state, torch.Generator()) if path == "loss" else None
        (made.sample(state, noise)[0].square().sum() if loss is None else loss.sum()).backward()
        missing = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert missing == []


@family
def test_the_gradient_of_a_sample_is_that_of_finite_differences(name: str) -> None:
    """Also through the Euler steps."""
    noise, state = (t.double() for t in batch(4))
    made = actor(name).double()
    weight = made.encoder.get_parameter("0.weight" if name != "gaussian" else "0.0.weight")

    def total() -> Tensor:
        return made.sample(state, noise)[0].square().sum()

    (gradient,) = torch.autograd.grad(total(), weight)
    with torch.no_grad():
        before = total()
        weight[0, 0] += 1e-6
        assert float((total() - before) / 1e-6) == pytest.approx(float(gradient[0, 0]), rel=1e-3, abs=1e-6)


@family
def test_one_state_serves_many_noises(name: str) -> None:
    noise, state = batch()
    made = actor(name)
    x, log_prob = made.sample(state[:1], noise)
    y, _ = made.sample(state[:1].expand(len(noise), -1), noise)
    assert torch.allclose(x, y, atol=1e-6) and log_prob.shape == (64,)


@with_likelihood
def test_sampling_and_scoring_agree(name: str) -> None:
    noise, state = batch()
    made = actor(name)
    x, log_prob = made.sample(state, noise)
    assert (made.log_prob(x, state) - log_prob).abs().max() < 1e-4


@with_likelihood
def test_the_imitation_loss_is_the_likelihood_per_dimension(name: str) -> None:
    x, state = batch()
    made = actor(name)
    assert torch.equal(made.imitation_loss(x, state, torch.Generator()), -made.log_prob(x, state) / 6)


def test_the_gaussian_has_the_density_of_torchs() -> None:
    x, state = batch()
    made = actor("gaussian")
    assert isinstance(made, ConditionalGaussian)
    mean, log_std = mean_and_log_std(*made.encode(state))
    wanted = torch.distributions.Normal(mean, log_std.exp()).log_prob(x.flatten(1)).sum(-1)
    assert torch.allclose(made.log_prob(x, state), wanted, atol=1e-5)


def test_flow_matching_has_no_likelihood() -> None:
    x, state = batch()
    made = actor("flow_matching")
    assert not made.HAS_LIKELIHOOD
    assert made.log_prob(x, state).isnan().all() and made.sample(state, x)[1].isnan().all()


def test_flow_matching_takes_the_spec_s_euler_steps() -> None:
    """With the velocity x * 1 the Euler steps give (1 + 1/n)^n."""
    made = FlowMatching(dataclasses.replace(SPEC, policy="flow_matching", euler_steps=10))
    made.drift = lambda x, time, condition: x  # type: ignore[method-assign]
    noise, state = batch()
    assert torch.allclose(made.sample(state, noise)[0], noise * 1.1**10, atol=1e-5)


@pytest.mark.parametrize("conditioner", ["mlp", "transformer"])
@family
def test_weights_travel_and_plan(name: str, conditioner: str) -> None:
    torch.manual_seed(0)
    policy = ChunkPolicy(dataclasses.replace(spec_of(name), conditioner=conditioner))
    with torch.no_grad():
        for p in policy.flow.parameters():
            p.add_(0.03 * torch.randn_like(p))
    again, _ = decode_weights(encode_weights(policy, WeightsInfo(best_of=4)))
    noise = 0.1 * chunk_noise(0, "e", 0, 4, 3, 2)
    planned = again.plan(np.zeros(6, np.float32), noise)
    assert again.spec == policy.spec
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in policy.state_dict().items())
    assert np.isfinite(planned.actions).all() and np.isfinite(planned.q)
    assert math.isnan(planned.log_prob) == (name == "flow_matching")


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ParameterError, match="'policy' is 'vae', allowed: flow, gaussian, flow_matching"):
        PolicySpec(policy="vae")
    assert set(FAMILIES) == {"flow", "gaussian", "flow_matching"}


SMALL = PolicySpec(state_dim=1, horizon=2, action_dim=2, couplings=4, width=32)


def two_modes(spec: PolicySpec, updates: int = 600) -> tuple[Tensor, int]:
    """Trained on chunks at +-0.5 with equal mass: means of 20000 samples, parameters."""
    torch.manual_seed(0)
    made, shape = build_actor(spec), (spec.horizon, spec.action_dim)
    state, generator = torch.zeros(256, 1), torch.Generator().manual_seed(0)
    sign = torch.cat([torch.ones(128, 1, 1), -torch.ones(128, 1, 1)])
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        loss = made.imitation_loss(0.5 * sign + 0.05 * torch.randn(256, *shape), state, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        mean = made.sample(torch.zeros(1, 1), torch.randn(20000, *shape))[0].mean((1, 2))
    return mean, sum(p.numel() for p in made.parameters())


def assert_both_modes(mean: Tensor) -> None:
    assert abs(float((mean > 0).float().mean()) - 0.5) < 0.05
    # An invertible map of one Gaussian cannot cut it in two: a thin bridge remains.
    assert float((mean.abs() < 0.15).float().mean()) < 0.1


def test_the_flow_keeps_both_of_two_modes_and_a_gaussian_of_the_same_size_averages_them() -> None:
    mean, parameters = two_modes(SMALL)
    assert_both_modes(mean)
    averaged, same = two_modes(dataclasses.replace(SMALL, policy="gaussian", width=70))
    assert abs(same / parameters - 1.0) < 0.1
    assert abs(float(averaged.mean())) < 0.05
    assert float((averaged.abs() < 0.15).float().mean()) > 0.2, "the mode of the Gaussian lies in the valley"


@pytest.mark.parametrize(
    "spec",
    [
        dataclasses.replace(SMALL, horizon=8, action_dim=8),
        dataclasses.replace(SMALL, conditioner="transformer", width=16, conditioner_layers=1),
    ],
    ids=["mlp-8x8", "transformer-2x2"],
)
def test_a_larger_chunk_and_a_transformer_keep_both_modes_too(spec: PolicySpec) -> None:
    mean, _ = two_modes(spec)
    assert_both_modes(mean)


def test_flow_matching_keeps_both_of_two_modes() -> None:
    mean, _ = two_modes(dataclasses.replace(SMALL, policy="flow_matching", width=128), updates=2000)
    assert_both_modes(mean)
