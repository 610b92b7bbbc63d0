"""Online learning that was interrupted and resumed from checkpoint and journal equals one that was not, bit by bit."""

from __future__ import annotations

import dataclasses
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_learner.checkpoint import list_checkpoints
from softflow_learner.journal import Journal, Pushed
from softflow_learner.messages import add_payload
from softflow_learner.session import Session
from softflow_learner.stages import OnlineLearning
from softflow_recorder.bag import read_episode
from softflow_recorder.messages import to_payloads

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from recorder_toy import TASK, Toy

EPISODES = 6
SETTINGS = {
    "couplings": 2,
    "width": 16,
    "critic_width": 16,
    "critic_layers": 1,
    "batch_size": 16,
    "online_min_steps": 10,
    "online_critic_only_steps": 20,
    "offline_fraction": 0.25,
    "update_to_data": 2.0,
    "actor_tau": 0.1,
    "holdout_every": 0,
}


class Learner:
    """What the learner node does with a run directory, without the node."""

    def __init__(self, run: Path, demos: Path, resume: Path | None = None, **settings: object) -> None:
        self.session = Session(run, TASK, 3, SETTINGS | settings, resume)
        assert self.session.load_demonstrations(demos) == []
        self.session.stage = "online"
        self.journal = Journal(run / "experience")
        for item in self.journal.stored():
            self._add(item.payload)
        self.online = OnlineLearning(self.session.agent, self.session.replay)
        self.online.resume(self.session.extra)

    def _add(self, payload: bytes) -> None:
        add_payload(self.session.replay, payload, TASK.layout.hash)

    def push(self, seq: int, payload: bytes) -> None:
        """An item comes in."""
        if self.journal.add([Pushed("/hand0", "boot", seq, zlib.crc32(payload), payload)]).new:
            self._add(payload)

    def learn(self, rounds: int = 10**6) -> int:
        """Updates that are due, at most so many."""
        done = 0
        while done < rounds and self.online.due() > 0:
            self.online.update()
            done += 1
        return done

    def save(self) -> None:
        """As the node does."""
        self.session.extra |= self.online.counts()
        self.session.save()


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    for index in range(3):
        Toy.make(100 + index, steps=20, episode_id=f"demo{index}").write(tmp_path / "demos" / f"bag{index}")
    return tmp_path / "demos"


@pytest.fixture
def payloads(tmp_path: Path) -> list[bytes]:
    paths = []
    for index in range(EPISODES):
        toy = Toy.make(index, steps=15 + index, episode_id=f"episode{index}", mode="train")
        paths.append(toy.write(tmp_path / "bags" / f"bag{index}"))
    # The toy's chunks are a teacher's, which the replay takes for demonstrations.
    episodes = [dataclasses.replace(read_episode(path), source="policy") for path in paths]
    return [payload for episode in episodes for payload in to_payloads("/hand0", episode)]


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """Everything that a further update depends on."""
    agent = learner.session.agent
    found: dict[str, torch.Tensor] = {}
    for name in ("policy", "target_critic", "slow_actor"):
        module = getattr(agent, name)
        found |= {f"{name}.{k}": v for k, v in (module.state_dict() if module else {}).items()}
    for name in ("actor_optimizer", "critic_optimizer"):
        for index, moments in getattr(agent, name).state_dict()["state"].items():
            found |= {f"{name}.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    return found | {"torch_rng": agent.torch_rng.get_state()}


def run_through(run: Path, demos: Path, payloads: list[bytes], interrupt: tuple[int, ...]) -> Learner:
    """All experience in turn; before the items in `interrupt` the learner ends and another one takes over."""
    learner = Learner(run, demos)
    learner.save()
    for seq, payload in enumerate(payloads, start=1):
        learner.push(seq, payload)
        if seq in interrupt:
            # In the middle of what this item allows.
            assert learner.learn(2) == 2 and learner.online.due() > 0
            learner.save()
            del learner
            learner = Learner(run, demos)
            assert learner.session.resumed
            learner.push(seq, payload)  # the acknowledgement was lost: it comes again
        learner.learn()
    return learner


@pytest.mark.parametrize("interrupt", [(2,), (3, 4, 6)])
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, demos: Path, payloads: list[bytes], interrupt: tuple[int, ...]
) -> None:
    torch.set_num_threads(1)
    whole = run_through(tmp_path / "whole", demos, payloads, ())
    pieces = run_through(tmp_path / "pieces", demos, payloads, interrupt)
    assert whole.online.rounds == pieces.online.rounds > 20
    assert whole.session.agent.gradient_step == pieces.session.agent.gradient_step
    assert whole.session.replay.size("online") == pieces.session.replay.size("online")
    wanted, found = tensors(whole), tensors(pieces)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    states = [learner.session.agent.numpy_rng.bit_generator.state for learner in (whole, pieces)]
    assert states[0] == states[1]


def test_a_run_that_resumes_another_one_learns_from_its_first_steps(
    tmp_path: Path, demos: Path, payloads: list[bytes]
) -> None:
    """The other run's experience stays there, and so do the updates that were done for it."""
    first = run_through(tmp_path / "a", demos, payloads, ())
    first.save()
    second = Learner(tmp_path / "b", demos, tmp_path / "a")
    assert second.session.agent.gradient_step == first.session.agent.gradient_step
    second.push(1, payloads[0])
    assert second.learn() == int(2.0 * 15 / 5)
    second.save()
    # From here on it has a checkpoint of its own.
    again = Learner(tmp_path / "b", demos, tmp_path / "a")
    assert again.online.rounds == second.online.rounds and again.online.due() == 0


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_another_update_to_data_holds_for_the_steps_to_come(
    tmp_path: Path, demos: Path, payloads: list[bytes], ratio: float
) -> None:
    run = tmp_path / "run"
    first = Learner(run, demos)
    for seq, payload in enumerate(payloads[:3], start=1):
        first.push(seq, payload)
    due = first.online.due() - first.learn(4)
    assert due > 4
    first.save()
    second = Learner(run, demos, update_to_data=ratio)
    assert second.online.due() == due
    steps = second.session.replay.online_steps
    second.push(4, payloads[3])
    assert second.online.due() == due + int(ratio * (steps + 18) / 5) - int(ratio * steps / 5)
    # Saved with the new rate, it goes on with that.
    second.save()
    again = Learner(run, demos, update_to_data=ratio)
    assert again.online.rounds == second.online.rounds


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, demos: Path, payloads: list[bytes]
) -> None:
    run = tmp_path / "run"
    first = Learner(run, demos)
    first.push(1, payloads[0])
    first.learn()
    first.save()
    kept = {name: tensor.clone() for name, tensor in tensors(first).items()}
    rounds = first.online.rounds
    first.push(2, payloads[1])
    first.learn()
    first.save()
    newest, before = list_checkpoints(run / "checkpoints")[:2]
    file = newest / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    again = Learner(run, demos)
    assert len(again.session.refused) == 1
    assert newest.name in again.session.refused[0] and "sha256" in again.session.refused[0]
    assert again.online.rounds == rounds
    assert before.name.endswith(f"{again.session.agent.gradient_step:012d}")
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors(again).items())
    # The experience is not the checkpoint's: it is all there, and learned from.
    assert again.session.replay.size("online") == 15 + 16
    assert again.learn() > 0
    assert np.isfinite(float(sum(t.detach().double().sum() for t in again.session.agent.policy.parameters())))
