"""Checkpoints: resuming is bit-equal, saving is atomic, a broken one gives way to the one before."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from softflow_learner import checkpoint
from softflow_learner.agent import Agent
from softflow_learner.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy


def train(agent: Agent, rounds: int) -> None:
    replay = toy.replay()
    for _ in range(rounds):
        batch = replay.sample(32, 1.0, agent.numpy_rng)
        agent.critic_update(batch)
        agent.actor_update(batch)


def same(a: Agent, b: Agent) -> bool:
    pairs = [(a.policy, b.policy), (a.target_critic, b.target_critic)]
    return all(torch.equal(v, y.state_dict()[k]) for x, y in pairs for k, v in x.state_dict().items())


@pytest.fixture
def trained() -> Agent:
    agent = toy.agent(seed=1)
    train(agent, 3)
    agent.skipped, agent.beta_scale = 2, 0.7
    return agent


def test_resuming_is_bit_equal(tmp_path: Path, trained: Agent) -> None:
    save_checkpoint(tmp_path, trained, {"stage": "offline", "acknowledged": 7})
    restored = load_latest(tmp_path)
    assert restored is not None and restored.extra == {"stage": "offline", "acknowledged": 7}
    again = restored.agent
    assert same(trained, again)
    assert (again.gradient_step, again.skipped, again.beta_scale) == (6, 2, 0.7)
    assert (again.spec, again.config) == (trained.spec, trained.config)
    train(trained, 3)
    train(again, 3)
    assert same(trained, again)
    assert np.array_equal(trained.numpy_rng.random(4), again.numpy_rng.random(4))


@pytest.mark.parametrize("name", ["gaussian", "flow_matching"])
def test_resuming_is_bit_equal_for_every_family(tmp_path: Path, name: str) -> None:
    agent = Agent(dataclasses.replace(toy.SPEC, policy=name), toy.config())
    train(agent, 2)
    again = load_checkpoint(save_checkpoint(tmp_path, agent)).agent
    train(agent, 2)
    train(again, 2)
    assert again.spec.policy == name and same(agent, again)


def test_resuming_with_a_slow_actor_and_a_subset_of_critics_is_bit_equal(tmp_path: Path) -> None:
    agent = toy.agent(actor_tau=0.1, aggregate_subset=1)
    train(agent, 2)
    again = load_checkpoint(save_checkpoint(tmp_path, agent)).agent
    train(agent, 2)
    train(again, 2)
    assert same(agent, again)
    slow = again.slow_actor.state_dict()
    assert all(torch.equal(v, slow[k]) for k, v in agent.slow_actor.state_dict().items())


def test_an_untrained_agent_can_be_saved(tmp_path: Path) -> None:
    agent = toy.agent()
    assert same(load_checkpoint(save_checkpoint(tmp_path, agent)).agent, agent)


def test_only_the_newest_are_kept(tmp_path: Path, trained: Agent) -> None:
    for step in (10, 20, 30, 40):
        trained.gradient_step = step
        save_checkpoint(tmp_path, trained, keep=2)
    assert [p.name[-2:] for p in list_checkpoints(tmp_path)] == ["40", "30"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in list_checkpoints(tmp_path)][::-1]


def test_saving_the_same_step_twice_keeps_the_later(tmp_path: Path, trained: Agent) -> None:
    save_checkpoint(tmp_path, trained, {"n": 1})
    save_checkpoint(tmp_path, trained, {"n": 2})
    restored = load_latest(tmp_path)
    assert restored is not None and restored.extra == {"n": 2} and len(list(tmp_path.iterdir())) == 1


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["truncate", "empty", "remove"])
def test_a_broken_one_gives_way_to_the_one_before(
    tmp_path: Path, trained: Agent, file: str, damage: str
) -> None:
    good = save_checkpoint(tmp_path, trained)
    trained.gradient_step += 1
    broken = save_checkpoint(tmp_path, trained) / file
    content = broken.read_bytes()
    broken.unlink() if damage == "remove" else broken.write_bytes(
        content[: len(content) // 2 * (damage != "empty")]
    )
    restored = load_latest(tmp_path)
    assert restored is not None and restored.path == good
    assert len(restored.refused) == 1 and broken.parent.name in restored.refused[0]


def test_all_broken_is_an_error_that_names_them(tmp_path: Path, trained: Agent) -> None:
    path = save_checkpoint(tmp_path, trained)
    (path / checkpoint.STATE).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"no usable checkpoint.*{path.name}.*format is None"):
        load_latest(tmp_path)


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """New tensors with a hash that fits."""
    save_file(tensors, path / checkpoint.TENSORS)
    state = json.loads((path / checkpoint.STATE).read_text())
    state["sha256"] = checkpoint.hashlib.sha256((path / checkpoint.TENSORS).read_bytes()).hexdigest()
    (path / checkpoint.STATE).write_text(json.dumps(state))


def test_nan_wrong_size_and_missing_tensors_are_named(tmp_path: Path, trained: Agent) -> None:
    path = save_checkpoint(tmp_path, trained)
    name = "policy/critic.head.bias"
    tensors = load_file(path / checkpoint.TENSORS)
    rewrite(path, {**tensors, name: torch.full_like(tensors[name], torch.nan)})
    with pytest.raises(CheckpointError, match=f"{name} has numbers that are not finite"):
        load_checkpoint(path)
    rewrite(path, {**tensors, name: torch.zeros(3)})
    with pytest.raises(CheckpointError, match=f"wrong size: {name}"):
        load_checkpoint(path)
    rewrite(path, {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


def test_a_crash_while_saving_leaves_the_last_one_in_force(
    tmp_path: Path, trained: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save_checkpoint(tmp_path, trained)
    trained.gradient_step += 1

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "_replace", crash)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, trained)
    assert list_checkpoints(tmp_path) == [good]
    monkeypatch.undo()
    assert save_checkpoint(tmp_path, trained) == list_checkpoints(tmp_path)[0]


def test_half_a_checkpoint_that_the_disk_did_not_take_goes_again(tmp_path: Path, trained: Agent) -> None:
    good = save_checkpoint(tmp_path, trained)
    trained.gradient_step += 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path, trained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [good]


def test_keep_must_be_positive(tmp_path: Path, trained: Agent) -> None:
    with pytest.raises(ValueError, match="keep is 0, must be at least 1"):
        save_checkpoint(tmp_path, trained, keep=0)
