"""The flow's density: exact at start, normalised, the same from the sampling and the scoring path."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from softflow_policy.flow import ConditionalFlow, standard_normal_log_prob
from softflow_policy.spec import PolicySpec

SPEC = PolicySpec(state_dim=7, horizon=4, action_dim=3, couplings=4, width=32)
BOTH = [SPEC, dataclasses.replace(SPEC, conditioner="transformer")]
LARGE = [
    dataclasses.replace(spec, horizon=h, action_dim=a)
    for spec in BOTH
    for h, a in [(1, 24), (16, 16), (32, 24)]
]
both = pytest.mark.parametrize("spec", BOTH, ids=lambda spec: spec.conditioner)
every = pytest.mark.parametrize(
    "spec", BOTH + LARGE, ids=lambda spec: f"{spec.conditioner}-{spec.horizon}x{spec.action_dim}"
)


def flow(spec: PolicySpec = SPEC, scale: float = 0.5) -> ConditionalFlow:
    """With weights away from the start, by as much in a large network as in a small one.

    A unit that sums more inputs gets less noise on each weight; otherwise the map of a large chunk is so badly
    conditioned that float32, not the code, decides the outcome.
    """
    torch.manual_seed(0)
    made = ConditionalFlow(spec)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(scale * torch.randn_like(p) / (p.shape[-1] ** 0.5 if p.ndim > 1 else 3.0))
    return made


def batch(spec: PolicySpec = SPEC, size: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(size, spec.horizon, spec.action_dim), torch.randn(size, spec.state_dim)


@every
def test_at_start_the_density_is_the_standard_normal(spec: PolicySpec) -> None:
    x, state = batch(spec)
    made = ConditionalFlow(spec)
    assert torch.equal(made.log_prob(x, state), standard_normal_log_prob(x.flatten(1)))
    assert torch.equal(made.sample(state, x)[0], x)


@every
def test_round_trip_in_float32(spec: PolicySpec) -> None:
    x, state = batch(spec)
    made = flow(spec)
    code = made.encode(state)
    z, forward = made.to_latent(x.flatten(1), code)
    back, inverse = made.from_latent(z, code)
    assert (z - x.flatten(1)).abs().max() > 0.1
    assert (back - x.flatten(1)).abs().max() < 1e-5
    assert (forward + inverse).abs().max() < 1e-4


@every
def test_round_trip_in_float64_with_weights_far_from_the_start(spec: PolicySpec) -> None:
    x, state = (t.double() for t in batch(spec))
    made = flow(spec, 1.0).double()
    code = made.encode(state)
    z, forward = made.to_latent(x.flatten(1), code)
    back, inverse = made.from_latent(z, code)
    assert (back - x.flatten(1)).abs().max() < 1e-9
    assert (forward + inverse).abs().max() < 1e-9


@every
def test_log_det_is_that_of_the_jacobian(spec: PolicySpec) -> None:
    made = flow(spec).double()
    x, state = (t.double() for t in batch(spec, size=2))
    for row in range(2):
        code = tuple(part.detach() for part in made.encode(state[row : row + 1]))
        flat = x[row].flatten()
        jacobian = torch.autograd.functional.jacobian(
            lambda v, code=code: made.to_latent(v[None], code)[0][0], flat, vectorize=True
        )
        _, log_det = made.to_latent(flat[None], code)
        assert abs(log_det[0]) > 0.1
        assert abs(torch.linalg.slogdet(jacobian).logabsdet - log_det[0]) < 1e-10


@pytest.mark.parametrize("conditioner", ["mlp", "transformer"])
@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_a_two_dimensional_density_integrates_to_one(shape: tuple[int, int], conditioner: str) -> None:
    spec = PolicySpec(3, *shape, couplings=4, width=16, conditioner=conditioner)
    made, axis = flow(spec, 0.7).double(), torch.linspace(-20, 20, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis).reshape(-1, *shape)
    with torch.no_grad():
        code = made.encode(torch.randn(1, 3, dtype=torch.float64))
        parts = [made.log_prob_given(some, code).exp().sum() for some in points.split(2048)]
    assert abs(sum(parts) * (axis[1] - axis[0]) ** 2 - 1.0) < 1e-3


@every
def test_sampling_and_scoring_agree(spec: PolicySpec) -> None:
    noise, state = batch(spec)
    made = flow(spec)
    x, log_prob = made.sample(state, noise)
    # float32 resolves the 1100 nats of 32 x 24 numbers no finer than 1.2e-4.
    bound = max(1e-4, 2 * torch.finfo(torch.float32).eps * float(log_prob.detach().abs().max()))
    assert (made.log_prob(x, state) - log_prob).abs().max() < bound


@every
def test_sampling_and_scoring_agree_in_float64(spec: PolicySpec) -> None:
    noise, state = (t.double() for t in batch(spec))
    made = flow(spec, 1.0).double()
    x, log_prob = made.sample(state, noise)
    assert (made.log_prob(x, state) - log_prob).abs().max() < 1e-4


@both
def test_one_state_serves_many_noises(spec: PolicySpec) -> None:
    noise, state = (t.double() for t in batch())  # In float32 processors differ in how they round.
    made = flow(spec).double()
    x, log_prob = made.sample(state[:1], noise)
    y, same = made.sample(state[:1].expand(len(noise), -1), noise)
    assert (x - y).abs().max() < 1e-12 and (log_prob - same).abs().max() < 1e-12


@both
@pytest.mark.parametrize("path", ["log_prob", "sample"])
def test_a_gradient_reaches_every_parameter(path: str, spec: PolicySpec) -> None:
    x, state = batch()
    made = flow(spec)
    out = made.log_prob(x, state) if path == "log_prob" else made.sample(state, x)[0].square()
    out.sum().backward()
    missing = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


@every
def test_train_and_eval_give_the_same_density(spec: PolicySpec) -> None:
    x, state = batch(spec)
    made = flow(spec)
    assert torch.equal(made.train().log_prob(x, state), made.eval().log_prob(x, state))
    assert torch.equal(made.train().sample(state, x)[0], made.eval().sample(state, x)[0])
