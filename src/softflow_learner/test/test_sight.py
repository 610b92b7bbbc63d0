"""Learning from pictures: what imitation sees, when the encoder learns, checkpoints, thumbnails in the replay."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy

from softflow_learner.agent import Agent
from softflow_learner.checkpoint import load_latest, save_checkpoint
from softflow_learner.replay import Replay
from softflow_learner.session import new_agent, new_replay, resolved
from softflow_learner.stages import OnlineLearning, run_imitation, run_offline, run_warmup
from softflow_node.parameters import ParameterError
from softflow_node.pictures import decode, encode_jpeg, thumbnail
from softflow_tasks import make_task


def replay(episodes: int = 12) -> Replay:
    return toy.replay(episodes=episodes, into=Replay(2, 2, 3, 0.9, holdout_every=4, cameras=["front"]))


def agent(experience: Replay, sees: bool = True, **values: object) -> Agent:
    spec = toy.SEES if sees else dataclasses.replace(toy.SEES, cameras="")
    made = Agent(spec, toy.config(**values))
    made.fit_normalizer(experience.states())
    return made


def quiet(*_: object) -> None:
    """Nobody watches."""


def eyes(learner: Agent) -> dict[str, torch.Tensor]:
    assert learner.policy.eyes is not None
    return {name: value.clone() for name, value in learner.policy.eyes.state_dict().items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_imitation_learns_from_pictures_what_the_hidden_state_would_say() -> None:
    experience = replay(episodes=36)
    found = {}
    for sees in (True, False):
        learner = agent(experience, sees, imitation_updates=400, learning_rate=1e-3, image_shift=0.0)
        run_imitation(learner, experience, quiet)
        states = np.random.default_rng(1).uniform(-0.6, 0.6, (60, 2))
        noise = np.zeros((1, 3, 2), np.float32)
        planned = [
            learner.policy.plan(np.zeros(2), noise, {"front": toy.picture(state)} if sees else None).actions[
                0
            ]
            for state in states
        ]
        found[sees] = float(np.mean((np.array(planned) - np.clip(-2.0 * states, -1.0, 1.0)) ** 2))
    # The teacher's action at a state that is not known has a variance of 0.4.
    assert found[True] < 0.15 and found[False] > 0.35, found


def test_imitation_also_teaches_the_eyes_what_is_hidden_where_that_is_asked_for(tmp_path: Path) -> None:
    experience = replay(episodes=36)
    learner = agent(experience, learning_rate=1e-3, image_shift=0.0, hidden_weight=1.0)
    told = [learner.imitation_update(experience.sample(32, 0.0, learner.numpy_rng)) for _ in range(300)]
    # What is not told at all is the entries' variance, 1.
    assert told[0]["untold"] > 0.7 and np.mean([t["untold"] for t in told[-20:]]) < 0.2
    assert "untold" not in agent(experience).imitation_update(experience.sample(32, 0.0, learner.numpy_rng))
    save_checkpoint(tmp_path, learner)
    restored = load_latest(tmp_path)
    assert restored is not None
    for each in (learner, restored.agent):
        for _ in range(3):
            each.imitation_update(experience.sample(32, 0.0, each.numpy_rng))
    assert equal(learner.policy.state_dict(), restored.agent.policy.state_dict())
    assert learner.teller is not None and restored.agent.teller is not None
    assert equal(learner.teller.state_dict(), restored.agent.teller.state_dict())


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_after_imitation_the_encoder_stays_or_learns_slowly_with_the_critic(rate: float) -> None:
    experience = replay()
    learner = agent(experience, encoder_rate=rate)
    fresh = eyes(learner)
    run_imitation(learner, experience, quiet)
    imitated = eyes(learner)
    assert not equal(fresh, imitated)
    run_warmup(learner, experience, quiet)
    warm = eyes(learner)
    assert equal(warm, imitated) == (rate == 0.0)
    batch = experience.sample(32, 1.0, learner.numpy_rng)
    learner.actor_update(batch)
    assert equal(eyes(learner), warm)


def test_a_learner_with_eyes_goes_on_from_a_checkpoint_bit_by_bit(tmp_path: Path) -> None:
    experience = replay()
    whole = agent(experience, encoder_rate=0.1)
    run_imitation(whole, experience, quiet)
    run_offline(whole, experience, quiet)
    save_checkpoint(tmp_path, whole)
    restored = load_latest(tmp_path)
    assert restored is not None
    for learner in (whole, restored.agent):
        online = OnlineLearning(learner, experience)
        for _ in range(5):
            online.update()
    one, two = whole.policy.state_dict(), restored.agent.policy.state_dict()
    assert equal(one, two) and any(name.startswith("eyes.") for name in one)


def test_the_replay_keeps_thumbnails_and_loses_nothing_more() -> None:
    task = make_task("ToolCut-v0")
    learner = new_agent(task, {"cameras": "front", "image_size": 32, "hidden": "tool_position+tool_tilt"})
    assert learner.spec.hidden == tuple(range(18, 24)) and learner.spec.input_dim == 31 + 64
    experience = new_replay(learner)
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 255, (3, 96, 128, 3)).astype(np.uint8)
    files = [encode_jpeg(image, 90) for image in shown]
    experience.add_episode_segment(
        np.zeros((3, 31)),
        np.zeros((2, 7)),
        np.zeros(2),
        terminated=True,
        truncated=False,
        source="policy",
        episode_id="one",
        images={"front": files},
    )
    batch = experience.windows(np.array([0, 1]))
    assert batch.images is not None and batch.next_images is not None
    for found, file in ((batch.images["front"][1], files[1]), (batch.next_images["front"][0], files[2])):
        assert np.array_equal(found.numpy(), thumbnail(decode(file), 32))


def test_a_block_that_the_task_has_not_cannot_be_hidden() -> None:
    with pytest.raises(ParameterError, match="'hidden' names 'cube'; blocks of ToolCut-v0: gantry_position"):
        resolved(make_task("ToolCut-v0"), {"hidden": "tool_position+cube"})
