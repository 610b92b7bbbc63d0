"""The cube's environment ends as the task says, and its hand is the task's."""

from __future__ import annotations

import mujoco
import numpy as np

from softflow_sim.cube_env import CubeRotationEnv
from softflow_sim.cube_scene import CubeScene
from softflow_tasks import palmdown
from softflow_tasks.cube_rotation import REST_HEIGHT


def test_the_time_limit_truncates_at_step_400() -> None:
    env = CubeRotationEnv()
    env.reset(seed=0)
    rest = env.task.rest_action().astype(np.float32)
    ends = [env.step(rest)[2:] for _ in range(400)]
    assert not any(terminated or truncated for terminated, truncated, _ in ends[:-1])
    terminated, truncated, info = ends[-1]
    assert truncated is True and terminated is False
    assert info["dropped"] is False and info["success"] is False and info["steps"] == 400


def test_the_cube_rests_on_the_post_after_a_reset() -> None:
    scene = CubeScene()
    for seed in range(5):
        scene.reset(seed)
        cube = scene.objects()["cube"]
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
