"""The shifted simulation in the place of a real hand: episodes and rewards only, each one robot time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from softflow_experiments.privileged import TASK
from softflow_experiments.rollout import ActingPolicy, Episode, acting, add_episode, roll_out
from softflow_learner import stages
from softflow_learner.replay import Replay
from softflow_learner.session import Session
from softflow_sim.dynamics import SHIFTED
from softflow_sim.dynamics_env import DynamicCubeEnv

Check = Callable[[], None]
"""Called now and then; raises to stop."""
Point = tuple[float, float, float]
"""(robot minutes so far, the task's metric, dropped) of an episode."""


class ShiftedHand:
    """Plays episodes from one start state after the other, and counts."""

    def __init__(self, first_seed: int, noise_seed: int) -> None:
        self._env = DynamicCubeEnv(SHIFTED)
        self._seed, self._noise_seed = first_seed, noise_seed
        self._steps = 0

    @property
    def minutes(self) -> float:
        """[min] of robot time so far."""
        return self._steps / (60.0 * TASK.control_hz)

    def play(self, policy: ActingPolicy) -> Episode:
        """The next episode."""
        episode = roll_out(self._env, policy, seed=self._seed, noise_seed=self._noise_seed)
        self._seed += 1
        self._steps += len(episode.rewards)
        return episode


def collect(hand: ShiftedHand, policy: ActingPolicy, replay: Replay, episodes: int, check: Check) -> None:
    """Episodes into the replay's offline part, as demonstrations are: warm-up and offline RL learn from them."""
    for index in range(episodes):
        check()
        add_episode(replay, hand.play(policy), source="student", episode_id=f"student{index}")


def learn_online(
    hand: ShiftedHand, session: Session, minutes: float, log: Callable[[str], None], check: Check
) -> list[Point]:
    """Alternates an episode and the updates that are due, as `trial.Trial` does, up to `minutes` [min] in all."""
    learning = stages.OnlineLearning(session.agent, session.replay)
    points: list[Point] = []
    while hand.minutes < minutes:
        episode = hand.play(acting(session.agent))
        add_episode(session.replay, episode, source="policy", episode_id=f"online{len(points)}")
        while learning.due() > 0:
            check()
            session.record(learning.rounds, 0, learning.update())
        points.append((hand.minutes, episode.info[TASK.metric], episode.info["dropped"]))
        if len(points) % 10 == 0:
            _, metric, drops = np.mean(points[-10:], axis=0)
            log(f"online {hand.minutes:.1f} min: {metric:.2f} {TASK.metric_label}, drops {drops:.2f}")
    session.extra["online_rounds"] = learning.rounds
    return points
