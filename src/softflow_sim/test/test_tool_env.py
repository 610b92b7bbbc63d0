"""The scissors stay in their case, and come out of it only in the hand."""

from __future__ import annotations

import numpy as np

from softflow_sim.tool_env import ToolCutEnv
from softflow_sim.tool_scene import ToolScene
from softflow_tasks import gantry
from softflow_tasks.tool_cut import REST_HEIGHT, TAPE_DISTANCE, TAPES


def test_the_tool_waits_in_the_case_with_open_blades() -> None:
    env = ToolCutEnv()
    env.reset(seed=0)
    rest = env.task.rest_action().astype(np.float32)
    ends = [env.step(rest) for _ in range(env.task.horizon)]
    assert not any(terminated or truncated for _, _, terminated, truncated, _ in ends[:-1])
    state, reward, terminated, truncated, info = ends[-1]
    assert truncated and not terminated and reward == 0.0 and info["grasped"] == 0.0
    tool = env.task.block(state, "tool_position")
    assert abs(tool[2] - REST_HEIGHT) < 0.002 and np.hypot(*tool[:2]) < 0.02
    assert env.task.block(state, "jaw_opening")[0] > env.task.ARMED


def test_the_gantry_moves_at_its_speed_and_stays_in_its_workspace() -> None:
    scene = ToolScene()
    before = scene.reset(1)[gantry.GANTRY]
    action = scene.task.rest_action()
    action[gantry.GANTRY] = (1.0, -0.5, 0.0)
    scene.advance(action)
    moved = (scene.joint_targets()[gantry.GANTRY] - before) * scene.task.control_hz
    np.testing.assert_allclose(moved, [gantry.MAX_SPEED, -gantry.MAX_SPEED / 2, 0.0], atol=1e-12)
    for _ in range(100):
        scene.advance(action)
    np.testing.assert_allclose(scene.hand().position[:2], [0.05, -0.13], atol=1e-3)


def test_the_model_has_the_joints_and_limits_of_the_task() -> None:
    model = ToolScene().model
    names = [model.joint(i).name for i in range(len(gantry.JOINT_NAMES))]
    assert names == list(gantry.JOINT_NAMES) == [model.actuator(i).name for i in range(model.nu)]
    np.testing.assert_allclose(model.jnt_range[: len(names)].T, [gantry.HAND.lower, gantry.HAND.upper])


def test_tapes_and_tool_are_where_the_task_says() -> None:
    starts = []
    for seed in range(5):
        scene = ToolScene()
        scene.reset(seed)
        places = {name: o.position for name, o in scene.objects().items()}
        assert [places[t][1] for t in TAPES] == [TAPE_DISTANCE, -TAPE_DISTANCE]
        np.testing.assert_allclose(places["tool"], [0.0, 0.0, REST_HEIGHT], atol=0.011)
        np.testing.assert_allclose(places["tool"], places["tool_arm"], atol=1e-9)
        starts.append(tuple(places["tape_left"]))
    assert len(set(starts)) == 5
