"""The weights codec: exact round trip, and nothing broken may act."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from softflow_policy.policy import ChunkPolicy, chunk_noise
from softflow_policy.spec import PolicySpec
from softflow_policy.weights import FORMAT, WeightsError, WeightsInfo, decode_weights, encode_weights, sha256

SPEC = PolicySpec(state_dim=6, horizon=3, action_dim=2, couplings=4, width=16, critic_width=16)
INFO = WeightsInfo(version=7, parent=6, gradient_step=4200, stage="online", best_of=4, layout_hash="abc")


@pytest.fixture
def policy() -> ChunkPolicy:
    torch.manual_seed(0)
    made = ChunkPolicy(SPEC)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    made.normalizer.fit(torch.randn(50, 6))
    return made


def test_round_trip_is_identical(policy: ChunkPolicy) -> None:
    data = encode_weights(policy, INFO)
    again, info = decode_weights(data, sha256(data))
    assert info == INFO and again.spec == SPEC
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in policy.state_dict().items())
    state, noise = np.ones(6, np.float32), chunk_noise(0, "e", 0, 4, 3, 2)
    assert np.array_equal(policy.plan(state, noise).actions, again.plan(state, noise).actions)
    assert encode_weights(again, info) == data


def test_loaded_weights_do_not_share_memory_with_the_file(policy: ChunkPolicy) -> None:
    data = encode_weights(policy, INFO)
    again, _ = decode_weights(data)
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    assert sha256(data) == sha256(encode_weights(policy, INFO))


def test_every_truncation_is_refused(policy: ChunkPolicy) -> None:
    data = encode_weights(policy, INFO)
    for length in [0, 1, 7, 8, 100, len(data) // 2, len(data) - 1]:
        with pytest.raises(WeightsError):
            decode_weights(data[:length])


def test_a_flipped_bit_is_refused_by_its_hash(policy: ChunkPolicy) -> None:
    data = bytearray(encode_weights(policy, INFO))
    digest = sha256(bytes(data))
    data[-5] ^= 1
    with pytest.raises(WeightsError, match="sha256 is .* must be " + digest):
        decode_weights(bytes(data), digest)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(policy: ChunkPolicy, value: float) -> None:
    with torch.no_grad():
        policy.critic.head.bias[0] = value
    with pytest.raises(WeightsError, match=r"critic.head.bias.* 1 numbers that are not finite"):
        decode_weights(encode_weights(policy, INFO))


def test_finite_weights_whose_plan_overflows_are_refused(policy: ChunkPolicy) -> None:
    with torch.no_grad():
        policy.flow.projection.bias[-policy.spec.chunk_dim * 2 :].fill_(3e38)
        policy.flow.couplings[0].conditioner.rest[-1].bias.fill_(-3e38)
    with pytest.raises(WeightsError, match="trial plan"):
        decode_weights(encode_weights(policy, INFO))


def test_a_trial_plan_far_outside_of_the_actions_is_refused_though_it_would_be_clipped(
    policy: ChunkPolicy,
) -> None:
    with torch.no_grad():
        policy.flow.couplings[-1].conditioner.rest[-1].bias.fill_(1e6)
    with pytest.raises(WeightsError, match=r"trial plan: magnitude of an action is .*, must be at most 1000"):
        decode_weights(encode_weights(policy, INFO))


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_normaliser_that_is_not_finite_is_refused(policy: ChunkPolicy, name: str) -> None:
    getattr(policy.normalizer, name)[1] = float("nan")
    with pytest.raises(WeightsError, match=f"normalizer.{name}' has 1 numbers that are not finite"):
        decode_weights(encode_weights(policy, INFO))


def test_a_standard_deviation_of_zero_is_refused(policy: ChunkPolicy) -> None:
    policy.normalizer.std[2] = 0.0
    with pytest.raises(WeightsError, match=r"normalizer.std.*must be > 0"):
        decode_weights(encode_weights(policy, INFO))


def forged(policy: ChunkPolicy, **changes: Any) -> bytes:
    about = {"format": FORMAT, "spec": policy.spec.__dict__, "info": INFO.__dict__, **changes}
    return save(policy.state_dict(), {"softflow": json.dumps(about)})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "pickle"}, "'format' is 'pickle'"),
        ({"spec": {"state_dim": 7}}, "missing: "),
        ({"spec": SPEC.__dict__ | {"state_dim": 7}}, r"is \(2, 12, 16\) .* must be \(2, 13, 16\)"),
        ({"spec": []}, r"'spec' is \[\]"),
        ({"spec": {"horizon": 10000}}, "'horizon' is 10000"),
        ({"info": {"best_of": 0}}, "'best_of' is 0"),
        ({"info": {"stage": "dream"}}, "'stage' is 'dream'"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    policy: ChunkPolicy, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(WeightsError, match=text):
        decode_weights(forged(policy, **changes))


def test_foreign_files_are_refused() -> None:
    for data in [b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), save({"a": torch.zeros(3)})]:
        with pytest.raises(WeightsError):
            decode_weights(data)


def test_missing_and_foreign_tensors_are_named(policy: ChunkPolicy) -> None:
    tensors = dict(policy.state_dict())
    tensors["intruder"] = tensors.pop("normalizer.mean")
    about = json.dumps({"format": FORMAT, "spec": SPEC.__dict__, "info": INFO.__dict__})
    with pytest.raises(WeightsError, match=r"missing: normalizer.mean \(1\); foreign: intruder \(1\)"):
        decode_weights(save(tensors, {"softflow": about}))
