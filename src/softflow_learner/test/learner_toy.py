"""A toy problem: one-dimensional tracking with chunks; small networks, so that the tests are quick."""

from __future__ import annotations

import numpy as np

from softflow_learner.agent import Agent
from softflow_learner.config import Config
from softflow_learner.replay import Replay
from softflow_policy.spec import PolicySpec

SPEC = PolicySpec(
    state_dim=2, horizon=3, action_dim=2, couplings=2, width=16, critic_width=32, critic_layers=2, best_of=4
)


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
        )
    return made


def agent(**values: object) -> Agent:
    """A fresh one with its normaliser fitted."""
    made = Agent(SPEC, config(**values))
    made.fit_normalizer(replay().states())
    return made
