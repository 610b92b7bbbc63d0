"""Episodes of a policy in a Gymnasium environment: open-loop chunks, as behind the driver."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from softflow_learner.agent import Agent
from softflow_learner.replay import Replay
from softflow_node.files import write_atomically
from softflow_policy.policy import ChunkPolicy, chunk_noise
from softflow_policy.weights import WeightsInfo, decode_weights, encode_weights
from softflow_sim.demonstrations import Demonstration as Episode

ARRAYS = ("states", "actions", "rewards")


@dataclass(frozen=True)
class ActingPolicy:
    """A policy as a robot gets it, through the weights file; what is learned later does not change it."""

    policy: ChunkPolicy
    best_of: int
    temperature: float = 1.0

    def plan(self, state: NDArray[Any], noise_seed: int, episode: int, step: int) -> NDArray[np.float32]:
        """Chunk (h, A) for a state (S,), the best of N; chance is a function of the arguments."""
        spec = self.policy.spec
        key = str(episode)
        noise = chunk_noise(
            noise_seed, key, step, self.best_of, spec.horizon, spec.action_dim, self.temperature
        )
        return self.policy.plan(state, noise).actions


def acting(agent: Agent, best_of: int | None = None, temperature: float = 1.0) -> ActingPolicy:
    """A snapshot of what the agent has learned; `best_of` defaults to the spec's."""
    count = agent.spec.best_of if best_of is None else best_of
    data = encode_weights(agent.acting_policy(), WeightsInfo(best_of=count))
    return ActingPolicy(decode_weights(data)[0], count, temperature)


def roll_out(env: gym.Env[Any, Any], policy: ActingPolicy, *, seed: int, noise_seed: int) -> Episode:
    """One episode from the start state of `seed`; each chunk is played to its end or the episode's."""
    state, _ = env.reset(seed=seed)
    states: list[NDArray[np.float32]] = [state]
    actions: list[NDArray[np.float32]] = []
    rewards: list[float] = []
    terminated = truncated = False
    info: dict[str, Any] = {}
    while not (terminated or truncated):
        for action in policy.plan(state, noise_seed, seed, len(actions)):
            state, reward, terminated, truncated, info = env.step(action)
            states.append(state)
            actions.append(action)
            rewards.append(reward)
            if terminated or truncated:
                break
    return Episode(
        seed,
        np.array(states, np.float32),
        np.array(actions, np.float32),
        np.array(rewards, np.float32),
        bool(terminated),
        bool(truncated),
        {name: float(value) for name, value in info.items() if np.ndim(value) == 0},
    )


def add_episode(
    replay: Replay, episode: Episode, *, source: str, episode_id: str, failed: bool = False
) -> None:
    """Into the replay; `source` "policy" is online experience, `failed` a demonstration not to be imitated."""
    replay.add_episode_segment(
        episode.states,
        episode.actions,
        episode.rewards,
        terminated=episode.terminated,
        truncated=episode.truncated,
        source=source,
        episode_id=episode_id,
        final=True,
        failed=failed,
    )


def save_episode(path: Path, episode: Episode) -> None:
    """Atomically, as .npz of plain arrays."""
    flags = np.array([episode.seed, episode.terminated, episode.truncated], np.int64)
    names, values = list(episode.info), np.array(list(episode.info.values()), np.float64)
    arrays = {name: getattr(episode, name) for name in ARRAYS}
    buffer = io.BytesIO()
    np.savez(buffer, flags=flags, names=np.array(names, dtype=np.str_), values=values, **arrays)
    write_atomically(path, buffer.getvalue())


def load_episode(path: Path) -> Episode:
    """What `save_episode` wrote. Raises OSError or ValueError."""
    with np.load(path, allow_pickle=False) as data:
        seed, terminated, truncated = (int(v) for v in data["flags"])
        info = dict(zip(data["names"].tolist(), data["values"].tolist(), strict=True))
        states, actions, rewards = (data[name] for name in ARRAYS)
    return Episode(seed, states, actions, rewards, bool(terminated), bool(truncated), info)
