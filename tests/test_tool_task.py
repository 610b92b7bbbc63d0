"""The tool task behind the driver: the bags of two demonstrations agree bitwise with the environment."""

from __future__ import annotations

from time import sleep

import domain_coordinator
import numpy as np
import pytest

from softflow_bringup.episodes import run_episodes
from softflow_recorder.bag import EpisodeData, read_episode
from softflow_sim.tool_env import ToolCutEnv

pytestmark = [pytest.mark.ros, pytest.mark.slow]
EPISODES = 2


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeData]:
    """Demonstrations in lock step, as `./softflow record --task ToolCut-v0` makes them."""
    arguments = {"task": "ToolCut-v0", "speed": "max"}
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        run = tmp_path_factory.mktemp("tool")
        done = run_episodes("record_demos", arguments, run, EPISODES, lambda _: None, sleep)
    return [read_episode(summary.path) for summary in done]


def test_bags_and_the_environment_stepped_with_their_actions_agree_bitwise(
    episodes: list[EpisodeData],
) -> None:
    assert len(episodes) == EPISODES
    for episode in episodes:
        assert (episode.task, episode.source) == ("ToolCut-v0", "teacher") and episode.steps > 50
        env = ToolCutEnv()
        states = [env.reset(seed=episode.seed)[0]]
        for action, recorded in zip(episode.actions, episode.rewards, strict=True):
            state, reward, terminated, truncated, info = env.step(action)
            states.append(state)
            assert np.float32(reward) == recorded
        assert np.array(states).tobytes() == episode.states.tobytes()
        assert (terminated, truncated) == (episode.terminated, episode.truncated)
        assert episode.success == info["success"]
        assert episode.metrics == {name: info[name] for name in ("cut", "grasped", "steps")}


def test_each_attempt_moves_the_gantry(episodes: list[EpisodeData]) -> None:
    env = ToolCutEnv()
    for episode in episodes:
        height = [env.task.block(state, "gantry_position")[2] for state in episode.states]
        assert max(height) - min(height) > 0.05
