"""A toy problem: one-dimensional tracking with chunks; small networks, so that the tests are quick."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from softflow_learner.agent import Agent
from softflow_learner.config import Config
from softflow_learner.replay import Replay
from softflow_node.pictures import RGBImage, encode_png
from softflow_policy.spec import PolicySpec

SPEC = PolicySpec(
    state_dim=2, horizon=3, action_dim=2, couplings=2, width=16, critic_width=32, critic_layers=2, best_of=4
)


SEES = dataclasses.replace(
    SPEC, cameras="front", image_size=16, image_width=16, image_features=8, hidden=(0, 1)
)
"""The state is hidden: only the pictures tell it."""


def picture(state: NDArray[np.float64]) -> RGBImage:
    """16 x 16, with a spot of light where the state is."""
    rows, columns = np.mgrid[:16, :16]
    x, y = 7.5 + 5.0 * np.clip(state, -1.5, 1.5)
    light = 200.0 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4.0)
    return np.repeat(light.astype(np.uint8)[:, :, None], 3, axis=2)


def pictures(states: Iterable[NDArray[np.float64]]) -> list[bytes]:
    return [encode_png(picture(state)) for state in states]


def config(**values: object) -> Config:
    """Short stages."""
    short = {
        "batch_size": 32,
        "imitation_updates": 20,
        "warmup_min_updates": 0,
        "warmup_max_updates": 20,
        "warmup_check_every": 5,
        "offline_updates": 10,
        "online_min_steps": 20,
        "online_critic_only_steps": 30,
        "image_shift": 0.1,
        "holdout_every": 4,
    }
    return Config(**{**short, **values})  # type: ignore[arg-type]


def replay(seed: int = 0, episodes: int = 12, source: str = "teacher", into: Replay | None = None) -> Replay:
    """State x (2,) moves by 0.1 * action; the reward is -|x|^2; the teacher steers home with noise."""
    made = into or Replay(2, 2, SPEC.horizon, 0.9, holdout_every=4)
    rng = np.random.default_rng(seed)
    for index in range(episodes):
        states, actions, rewards = [rng.uniform(-1, 1, 2)], [], []
        for _ in range(25):
            action = np.clip(-2.0 * states[-1] + 0.3 * rng.normal(size=2), -1, 1)
            actions.append(action)
            states.append(states[-1] + 0.1 * action)
            rewards.append(-float(np.sum(states[-1] ** 2)))
        made.add_episode_segment(
            np.array(states),
            np.array(actions),
            np.array(rewards),
            terminated=index % 3 == 0,
            truncated=index % 3 != 0,
            source=source,
            episode_id=f"{source}{seed}-{index}",
            images={camera: pictures(states) for camera in made.cameras},
        )
    return made


def agent(**values: object) -> Agent:
    """A fresh one with its normaliser fitted."""
    made = Agent(SPEC, config(**values))
    made.fit_normalizer(replay().states())
    return made
