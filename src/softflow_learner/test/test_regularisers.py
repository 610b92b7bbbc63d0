"""The regularisers of stage 3: each pulls the right way, and `none` does not look at the data."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_learner import losses
from softflow_learner.agent import Agent, constant, frozen_copy
from softflow_learner.checkpoint import load_checkpoint, save_checkpoint
from softflow_learner.replay import Batch
from softflow_node.parameters import ParameterError
from softflow_policy.couplings import mean_and_log_std
from softflow_policy.gaussian import ConditionalGaussian

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy

families = pytest.mark.parametrize("family", ["flow", "gaussian"])


def agent(family: str = "gaussian", **values: object) -> Agent:
    """After some imitation, so that pi0 is no standard normal."""
    made = Agent(dataclasses.replace(toy.SPEC, policy=family), toy.config(learning_rate=3e-3, **values))
    made.fit_normalizer(toy.replay().states())
    for k in range(30):
        made.imitation_update(batch(k))
    return made


def batch(seed: int = 0) -> Batch:
    return toy.replay().sample(32, 1.0, np.random.default_rng(seed))


def bias(made: Agent) -> torch.Tensor:
    """Of the Gaussian's mean, (h*A,): moving it moves every chunk."""
    assert isinstance(made.policy.flow, ConditionalGaussian)
    return made.policy.flow.encoder[-1].bias[: toy.SPEC.chunk_dim]


def move(made: Agent, by: float) -> None:
    with torch.no_grad():
        bias(made).add_(by)


def gradient(made: Agent, loss: torch.Tensor) -> torch.Tensor:
    """With respect to the mean's bias, (h*A,)."""
    assert isinstance(made.policy.flow, ConditionalGaussian)
    (whole,) = torch.autograd.grad(loss, made.policy.flow.encoder[-1].bias)
    return whole[: toy.SPEC.chunk_dim]


def kl(made: Agent) -> torch.Tensor:
    states = made.policy.normalizer(batch().states)
    chunks, _ = made.policy.flow.sample(states, made._noise(len(states)))
    made.reference = made.reference or frozen_copy(made.policy.flow)
    return made._reference_pull(made.reference, states, chunks)


@families
def test_reverse_kl_is_zero_without_gradient_at_pi0(family: str) -> None:
    made = agent(family, regulariser="reverse_kl")
    value = kl(made)
    assert abs(float(value.detach())) < 1e-6
    gradients = torch.autograd.grad(value, list(made.policy.flow.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-5


@pytest.mark.parametrize("by", [0.1, -0.1])
def test_reverse_kl_pulls_back_to_pi0(by: float) -> None:
    made = agent(regulariser="reverse_kl")
    kl(made)
    move(made, by)
    value = kl(made)
    assert float(value.detach()) > 0
    assert (gradient(made, value).sign() == np.sign(by)).all(), "descent goes back"


def test_reverse_kl_is_that_of_two_gaussians() -> None:
    made = agent(regulariser="reverse_kl")
    kl(made)
    move(made, 0.1)
    states = made.policy.normalizer(batch().states)
    with torch.no_grad():
        pairs = [mean_and_log_std(*a.encode(states)) for a in (made.policy.flow, made.reference)]
        normals = [torch.distributions.Normal(mean, log_std.exp()) for mean, log_std in pairs]
        exact = torch.distributions.kl_divergence(*normals).mean()
        estimates = torch.stack([kl(made) for _ in range(400)])
    assert float(estimates.mean()) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize("by", [0.5, -0.5])
def test_data_nll_pulls_to_the_data(by: float) -> None:
    made = agent(regulariser="data_nll")
    states, mean = made.policy.normalizer(batch().states), batch().actions.mean(0).flatten()
    with torch.no_grad():
        drawn = made.policy.flow.sample(states, torch.zeros(32, 3, 2))[0].mean(0).flatten()
        bias(made).add_(mean + by - drawn)
    pull = made._imitation_loss(states, batch().actions, *made._data_inputs(batch(), batch().actions))
    assert (gradient(made, pull).sign() == np.sign(by)).all()


def test_none_has_no_data_term() -> None:
    """Other data chunks, the same update; under data_nll they make a difference."""
    for regulariser, same in [("none", True), ("reverse_kl", True), ("data_nll", False)]:
        results = []
        for actions in (batch().actions, -batch().actions):
            made = agent(regulariser=regulariser)
            scalars = made.actor_update(dataclasses.replace(batch(), actions=actions))
            assert ("nll" in scalars) == (regulariser == "data_nll")
            results.append(bias(made).detach().clone())
        assert torch.equal(*results) == same


def test_target_penalises_chunks_that_pi0_finds_unlikely() -> None:
    made = agent(regulariser="target", target_penalty=2.0)
    kl(made)
    reference = made.reference

    def penalty() -> float:
        """Mean difference of the next values, without and with pi0 to compare with."""
        values = []
        for made.reference in (None, reference):
            made.torch_rng.manual_seed(0)
            with torch.no_grad():
                values.append(made.next_values(made.policy.normalizer(batch().states)))
        return float((values[0] - values[1]).mean())

    assert penalty() == pytest.approx(0.0, abs=1e-5), "pi is pi0"
    move(made, 0.1)
    little = penalty()
    move(made, 0.1)
    assert 0.0 < little < penalty()


def test_penalty_is_its_formula() -> None:
    values, kl_ = torch.tensor([1.0, 2.0]), losses.kl_per_dim(torch.tensor([4.0, 0.0]), torch.zeros(2), 2)
    assert losses.penalised(values, kl_, 0.5).tolist() == [0.0, 2.0]


def test_strong_reverse_kl_holds_the_policy_at_pi0() -> None:
    """The critic pushes; the larger beta, the less the policy moves."""
    moved = []
    for beta in (0.0, 100.0):
        made = agent("flow", regulariser="reverse_kl", beta=beta)
        for k in range(40):
            scalars = made.actor_update(batch(k))
        moved.append(scalars["kl"])
    assert moved[1] < 0.2 * moved[0]


@pytest.mark.parametrize("regulariser", ["reverse_kl", "target"])
def test_the_reference_travels_with_the_checkpoint(tmp_path: Path, regulariser: str) -> None:
    made = agent("flow", regulariser=regulariser)
    for k in range(3):
        made.critic_update(batch(k))
        made.actor_update(batch(k))
    again = load_checkpoint(save_checkpoint(tmp_path, made)).agent
    for one in (made, again):
        one.critic_update(batch(5))
        one.actor_update(batch(5))
    for name in ("policy", "reference", "target_critic"):
        state = getattr(again, name).state_dict()
        assert all(torch.equal(v, state[k]) for k, v in getattr(made, name).state_dict().items())


def test_imitation_forgets_the_reference() -> None:
    made = agent(regulariser="reverse_kl")
    made.actor_update(batch())
    assert made.reference is not None and not any(p.requires_grad for p in made.reference.parameters())
    made.imitation_update(batch())
    assert made.reference is None


def test_constant_leaves_the_parameters_as_they_were() -> None:
    made = agent()
    with constant(made.policy.flow):
        assert not any(p.requires_grad for p in made.policy.flow.parameters())
    assert all(p.requires_grad for p in made.policy.flow.parameters())


@pytest.mark.parametrize("regulariser", ["reverse_kl", "target"])
def test_a_regulariser_without_its_likelihood_is_refused(regulariser: str) -> None:
    with pytest.raises(ParameterError, match=f"'regulariser' is '{regulariser}'.*no likelihood"):
        agent("flow_matching", regulariser=regulariser)
