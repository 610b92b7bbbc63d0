"""The environment keeps Gymnasium's contract, repeats bitwise, and ends as the task says."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import softflow_sim  # noqa: F401  registers the environments
from softflow_sim.cube_env import CubeRotationEnv
from softflow_sim.cube_scene import CubeScene
from softflow_tasks import palmdown
from softflow_tasks.cube_rotation import REST_HEIGHT

ID = "softflow/CubeRotation-v0"


def actions(seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 8)).astype(np.float32)


def test_gymnasium_finds_no_fault() -> None:
    env = gym.make(ID)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    # An unbounded observation is legitimate.
    allowed = ("minimum value is -infinity", "maximum value is infinity")
    matter = [str(w.message) for w in caught if not any(part in str(w.message) for part in allowed)]
    assert matter == []


def test_make_by_module_and_id() -> None:
    env = gym.make(f"softflow_sim:{ID}")
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space and "success" in info
    env.close()


@pytest.mark.parametrize(("mode", "options"), [("sync", {}), ("async", {"context": "spawn"})])
def test_vector_environments_equal_single_ones(mode: str, options: dict[str, str]) -> None:
    envs = gym.make_vec(f"softflow_sim:{ID}", num_envs=2, vectorization_mode=mode, vector_kwargs=options)
    try:
        observations, _ = envs.reset(seed=[5, 6])
        for action in actions(0, 5):
            observations, *_ = envs.step(np.stack([action, -action]))
    finally:
        envs.close()
    for i, (seed, sign) in enumerate(((5, 1), (6, -1))):
        env = CubeRotationEnv()
        env.reset(seed=seed)
        for action in actions(0, 5):
            single, *_ = env.step(sign * action)
        np.testing.assert_array_equal(observations[i], single)


def test_equal_seeds_give_bitwise_equal_episodes_in_new_and_used_environments() -> None:
    used, new = CubeRotationEnv(), CubeRotationEnv()
    used.reset(seed=99)
    for action in actions(1, 30):
        used.step(action)
    first, second = used.reset(seed=4)[0], new.reset(seed=4)[0]
    assert first.tobytes() == second.tobytes()
    for action in actions(2, 100):
        one, two = used.step(action), new.step(action)
        assert one[0].tobytes() == two[0].tobytes() and one[1:] == two[1:]


def test_other_seeds_give_other_starts_and_unseeded_resets_go_on() -> None:
    env = CubeRotationEnv()
    starts = [env.reset(seed=seed)[0] for seed in (1, 2)] + [env.reset()[0] for _ in range(2)]
    assert len({start.tobytes() for start in starts}) == 4


def test_the_time_limit_truncates_at_step_400() -> None:
    env = CubeRotationEnv()
    env.reset(seed=0)
    rest = env.task.rest_action().astype(np.float32)
    ends = [env.step(rest)[2:] for _ in range(400)]
    assert not any(terminated or truncated for terminated, truncated, _ in ends[:-1])
    terminated, truncated, info = ends[-1]
    assert truncated is True and terminated is False
    assert info["dropped"] is False and info["success"] is False and info["steps"] == 400


def test_what_the_caller_does_to_an_observation_changes_nothing() -> None:
    env, spoilt = CubeRotationEnv(), CubeRotationEnv()
    env.reset(seed=0)
    spoilt.reset(seed=0)[0][:] = 100.0
    for action in actions(3, 3):
        right, wrong = env.step(action), spoilt.step(action)
        assert right[1] == wrong[1]
        np.testing.assert_array_equal(right[0], wrong[0])
        wrong[0][:] = 100.0


@pytest.mark.parametrize("action", [np.zeros(7), np.full(8, np.nan), np.zeros((1, 8))])
def test_bad_actions_are_refused(action: np.ndarray) -> None:
    env = CubeRotationEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"finite with shape \(8,\)"):
        env.step(action)


def test_an_action_outside_the_box_acts_as_its_bound() -> None:
    one, two = CubeRotationEnv(), CubeRotationEnv()
    one.reset(seed=0)
    two.reset(seed=0)
    np.testing.assert_array_equal(
        one.step(np.full(8, 5.0, np.float32))[0], two.step(np.ones(8, np.float32))[0]
    )


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'human'.*'rgb_array'"):
        CubeRotationEnv(render_mode="human")


def test_the_cube_rests_on_the_post_after_a_reset() -> None:
    scene = CubeScene()
    for seed in range(5):
        scene.reset(seed)
        cube = scene.object()
        np.testing.assert_allclose(cube.position[2], REST_HEIGHT, atol=5e-4)
        assert np.linalg.norm(cube.linear) < 0.05 and np.hypot(*cube.position[:2]) < 0.004


def test_the_simulated_fingertips_are_where_the_kinematics_of_the_task_say() -> None:
    scene = CubeScene()
    angles = palmdown.inverse_kinematics(0.01, 0.045, 0.08)
    scene.data.qpos[:12] = np.tile(angles, palmdown.FINGERS)
    mujoco.mj_forward(scene.model, scene.data)
    for finger in range(palmdown.FINGERS):
        turn = finger * np.pi / 2
        wanted = [
            0.045 * np.cos(turn) - 0.01 * np.sin(turn),
            0.045 * np.sin(turn) + 0.01 * np.cos(turn),
            0.08,
        ]
        np.testing.assert_allclose(scene.data.geom(f"finger{finger}_tip").xpos, wanted, atol=1e-9)


def test_the_model_has_the_joints_and_limits_of_the_task() -> None:
    model = CubeScene().model
    names = [model.joint(i).name for i in range(len(palmdown.JOINT_NAMES))]
    assert names == list(palmdown.JOINT_NAMES)
    assert [model.actuator(i).name for i in range(model.nu)] == names
    np.testing.assert_allclose(model.jnt_range[: len(names)].T, [palmdown.JOINT_LOWER, palmdown.JOINT_UPPER])


RENDER = """
import sys
try:
    import mujoco
    mujoco.GLContext(64, 64).make_current()
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(77)
from softflow_sim.cube_env import CubeRotationEnv
env = CubeRotationEnv(render_mode="rgb_array")
env.reset(seed=0)
picture = env.render()
print(picture.shape, picture.dtype, len({tuple(p) for p in picture.reshape(-1, 3)[::50].tolist()}) > 20)
env.close()
"""


def test_a_picture_is_rendered() -> None:
    environment = {"MUJOCO_GL": "egl", **os.environ}
    done = subprocess.run([sys.executable, "-c", RENDER], env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"no OpenGL without a screen here (MUJOCO_GL=egl): {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(480, 640, 3) uint8 True"


def test_without_a_render_mode_there_is_no_picture() -> None:
    assert CubeRotationEnv().render() is None
