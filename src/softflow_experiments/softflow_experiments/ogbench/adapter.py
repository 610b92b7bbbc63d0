"""From play data to a replay: rewards of one task, and a trajectory cut where that task was solved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from softflow_experiments.ogbench.data import Play
from softflow_experiments.ogbench.environment import family
from softflow_experiments.rollout import ActingPolicy, roll_out
from softflow_learner.replay import Replay

EVALUATION_SEED = 900_000_000
"""Start states of evaluations; training's are below."""


@dataclass(frozen=True)
class Labels:
    """What one task says about each transition; reward and success belong to the state before it."""

    rewards: NDArray[np.float32]
    """(E, T)."""
    success: NDArray[np.bool_]
    """(E, T)."""


def relabel(play: Play, name: str, env: gym.Env[Any, Any]) -> Labels:
    """By the wheel's own function, with the goal of `env`; sparse where `Family.sparse` says so."""
    from ogbench.relabel_utils import relabel_dataset

    count = play.actions.shape[:2]
    flat = {key: getattr(play, key)[:, :-1] for key in ("qpos", "button_states")}
    dataset: dict[str, NDArray[Any]] = {key: np.concatenate(rows) for key, rows in flat.items()}
    relabel_dataset(name, env, dataset)
    rewards = dataset["rewards"].reshape(count)
    if family(name).sparse:
        rewards = np.where(rewards < 0.0, -1.0, 0.0).astype(np.float32)
    return Labels(rewards, dataset["masks"].reshape(count) == 0.0)


def pieces(success: NDArray[np.bool_]) -> Iterator[tuple[slice, bool]]:
    """A trajectory (T,) in pieces, each with whether it ends in success: the step from a solved state is the last."""
    start = 0
    for end in np.flatnonzero(success) + 1:
        yield slice(start, int(end)), True
        start = int(end)
    if start < len(success):
        yield slice(start, len(success)), False


def fill(replay: Replay, play: Play, labels: Labels, first: int) -> None:
    """Add the trajectories, numbered from `first`, as demonstrations.

    What follows a solved state is a new episode, so that nothing bootstraps across it: success ends the task, and the
    play goes on. The end of a trajectory is a time-out.
    """
    for index in range(len(play.actions)):
        for piece, solved in pieces(labels.success[index]):
            replay.add_episode_segment(
                play.observations[index, piece.start : piece.stop + 1],
                play.actions[index, piece],
                labels.rewards[index, piece],
                terminated=solved,
                truncated=not solved,
                source="oracle",
                episode_id=f"play{first + index}/{piece.start}",
            )


def evaluate(env: gym.Env[Any, Any], policy: ActingPolicy, episodes: int, noise_seed: int) -> Iterator[float]:
    """Success, 0 or 1, of one episode after the other; the same start states every time."""
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + episodes):
        yield roll_out(env, policy, seed=seed, noise_seed=noise_seed).info["success"]
