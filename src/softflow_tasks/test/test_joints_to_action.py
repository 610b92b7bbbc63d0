"""Joint targets that others recorded become the actions that lead to them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softflow_tasks import CubeRotation, ToolCut, gantry
from softflow_tasks.task import FloatArray

CUBE, TOOL = CubeRotation(), ToolCut()


def actions(size: int) -> st.SearchStrategy[FloatArray]:
    return arrays(np.float64, size, elements=st.floats(-1, 1))


@given(actions(CUBE.action_dim))
def test_the_cube_tasks_targets_lead_back_to_the_action(action: FloatArray) -> None:
    command = np.zeros(len(CUBE.joint_names))
    targets = CUBE.action_to_joints(action, command)
    np.testing.assert_allclose(CUBE.joints_to_action(targets, command), action, atol=1e-9)


@given(actions(TOOL.action_dim), arrays(np.float64, 3, elements=st.floats(-1, 1)))
def test_the_tool_tasks_targets_lead_back_to_targets(action: FloatArray, place: FloatArray) -> None:
    # Also at the workspace's border, where the target stops and the velocity is not what was asked for.
    middle = (gantry.WORKSPACE_LOWER + gantry.WORKSPACE_UPPER) / 2
    command = np.zeros(len(TOOL.joint_names))
    command[gantry.GANTRY] = middle + place * (gantry.WORKSPACE_UPPER - middle)
    targets = TOOL.action_to_joints(action, command)
    found = TOOL.joints_to_action(targets, command)
    assert np.abs(found).max() <= 1 + 1e-9
    np.testing.assert_allclose(TOOL.action_to_joints(found, command), targets, atol=1e-12)
    np.testing.assert_allclose(found[gantry.CLOSURES], action[gantry.CLOSURES], atol=1e-9)


def test_targets_out_of_reach_give_the_nearest_action() -> None:
    targets = CUBE.action_to_joints(np.zeros(8), np.zeros(12))
    away = targets + np.tile([0.0, 0.03, -0.05], 4)  # not along the fingers' synergy
    found = CUBE.joints_to_action(away, np.zeros(12))
    distance = np.linalg.norm(CUBE.action_to_joints(found, np.zeros(12)) - away)
    for other in found + 1e-3 * np.concatenate([np.eye(8), -np.eye(8)]):
        assert np.linalg.norm(CUBE.action_to_joints(other, np.zeros(12)) - away) > distance


def test_targets_beyond_the_range_are_not_clipped() -> None:
    beyond = CUBE.action_to_joints(np.full(8, 1.5), np.zeros(12))
    np.testing.assert_allclose(CUBE.joints_to_action(beyond, np.zeros(12)), 1.5)
