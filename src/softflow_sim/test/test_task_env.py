"""Every environment keeps Gymnasium's contract and repeats bitwise."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import softflow_sim  # noqa: F401  registers the environments
from softflow_sim.catalogue import make_scene
from softflow_sim.task_env import TaskEnv
from softflow_tasks import make_task, task_ids


def make(task_id: str) -> TaskEnv:
    env = gym.make(f"softflow/{task_id}").unwrapped
    assert isinstance(env, TaskEnv)
    return env


def actions(task_id: str, seed: int, steps: int) -> np.ndarray:
    size = make_task(task_id).action_dim
    return np.random.default_rng(seed).uniform(-1, 1, (steps, size)).astype(np.float32)


@pytest.fixture(params=task_ids())
def task_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_gymnasium_finds_no_fault(task_id: str) -> None:
    env = make(task_id)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    # An unbounded observation is legitimate.
    allowed = ("minimum value is -infinity", "maximum value is infinity")
    matter = [str(w.message) for w in caught if not any(part in str(w.message) for part in allowed)]
    assert matter == []


def test_make_by_module_and_id(task_id: str) -> None:
    env = gym.make(f"softflow_sim:softflow/{task_id}")
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space and "success" in info
    env.close()


@pytest.mark.parametrize(("mode", "options"), [("sync", {}), ("async", {"context": "spawn"})])
def test_vector_environments_equal_single_ones(task_id: str, mode: str, options: dict[str, str]) -> None:
    envs = gym.make_vec(
        f"softflow_sim:softflow/{task_id}", num_envs=2, vectorization_mode=mode, vector_kwargs=options
    )
    try:
        observations, _ = envs.reset(seed=[5, 6])
        for action in actions(task_id, 0, 5):
            observations, *_ = envs.step(np.stack([action, -action]))
    finally:
        envs.close()
    for i, (seed, sign) in enumerate(((5, 1), (6, -1))):
        env = make(task_id)
        env.reset(seed=seed)
        for action in actions(task_id, 0, 5):
            single, *_ = env.step(sign * action)
        np.testing.assert_array_equal(observations[i], single)


def test_equal_seeds_give_bitwise_equal_episodes_in_new_and_used_environments(task_id: str) -> None:
    used, new = make(task_id), make(task_id)
    used.reset(seed=99)
    for action in actions(task_id, 1, 30):
        used.step(action)
    first, second = used.reset(seed=4)[0], new.reset(seed=4)[0]
    assert first.tobytes() == second.tobytes()
    for action in actions(task_id, 2, 100):
        one, two = used.step(action), new.step(action)
        assert one[0].tobytes() == two[0].tobytes() and one[1:] == two[1:]


def test_other_seeds_give_other_starts_and_unseeded_resets_go_on(task_id: str) -> None:
    env = make(task_id)
    starts = [env.reset(seed=seed)[0] for seed in (1, 2)] + [env.reset()[0] for _ in range(2)]
    assert len({start.tobytes() for start in starts}) == 4


def test_what_the_caller_does_to_an_observation_changes_nothing(task_id: str) -> None:
    env, spoilt = make(task_id), make(task_id)
    env.reset(seed=0)
    spoilt.reset(seed=0)[0][:] = 100.0
    for action in actions(task_id, 3, 3):
        right, wrong = env.step(action), spoilt.step(action)
        assert right[1] == wrong[1]
        np.testing.assert_array_equal(right[0], wrong[0])
        wrong[0][:] = 100.0


def test_bad_actions_are_refused(task_id: str) -> None:
    env = make(task_id)
    env.reset(seed=0)
    size = env.task.action_dim
    for action in (np.zeros(size - 1), np.full(size, np.nan), np.zeros((1, size))):
        with pytest.raises(ValueError, match=rf"finite with shape \({size},\)"):
            env.step(action)


def test_an_action_outside_the_box_acts_as_its_bound(task_id: str) -> None:
    one, two = make(task_id), make(task_id)
    one.reset(seed=0)
    two.reset(seed=0)
    bound = np.ones(one.task.action_dim, np.float32)
    np.testing.assert_array_equal(one.step(5 * bound)[0], two.step(bound)[0])


def test_an_unknown_render_mode_is_refused(task_id: str) -> None:
    with pytest.raises(ValueError, match=r"'human'.*'rgb_array'"):
        TaskEnv(make_scene(task_id), render_mode="human")


RENDER = """
import sys
try:
    import mujoco
    mujoco.GLContext(64, 64).make_current()
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(77)
import gymnasium, softflow_sim
env = gymnasium.make("softflow/" + sys.argv[1], render_mode="rgb_array").unwrapped
env.reset(seed=0)
picture = env.render()
print(picture.shape, picture.dtype, len({tuple(p) for p in picture.reshape(-1, 3)[::50].tolist()}) > 20)
env.close()
"""


def test_a_picture_is_rendered(task_id: str) -> None:
    environment = {"MUJOCO_GL": "egl", **os.environ}
    command = [sys.executable, "-c", RENDER, task_id]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"no OpenGL without a screen here (MUJOCO_GL=egl): {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(480, 640, 3) uint8 True"


def test_without_a_render_mode_there_is_no_picture(task_id: str) -> None:
    assert make(task_id).render() is None
