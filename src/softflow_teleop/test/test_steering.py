"""From joint targets to actions: never faster than the hand may go, and they arrive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softflow_tasks import make_task
from softflow_teleop.joints import FloatArray, HandLimits
from softflow_teleop.steering import Steering

TASKS = {name: make_task(name) for name in ("CubeRotation-v0", "ToolCut-v0")}


def steering(name: str, speed: float = 1.0, horizon: int = 2) -> Steering:
    hand = TASKS[name].hand
    limits = HandLimits(hand.joint_names, hand.lower, hand.upper, hand.max_velocity)
    return Steering(TASKS[name], limits, speed, horizon)


def play(
    s: Steering, targets: FloatArray, command: FloatArray, queued: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Actions (h, A) and the joint targets (h+1, J) that they lead to, as float32 carries them."""
    actions = s.plan(targets, command, queued).astype(np.float32).astype(np.float64)
    path = [command]
    for action in actions:
        path.append(s.task.action_to_joints(action, path[-1]))
    return actions, np.stack(path)


def shares(size: int) -> st.SearchStrategy[FloatArray]:
    return arrays(np.float64, size, elements=st.floats(0, 1))


@pytest.mark.parametrize("name", sorted(TASKS))
@settings(max_examples=200, deadline=None)
@given(data=st.data(), speed=st.floats(0.05, 20.0))
def test_no_joint_moves_faster_than_it_may(name: str, data: st.DataObject, speed: float) -> None:
    s = steering(name, speed, horizon=3)
    task, size = s.task, len(s.limits.names)
    command = task.action_to_joints(2 * data.draw(shares(task.action_dim)) - 1, np.zeros(size))
    targets = s.limits.lower + data.draw(shares(size)) * s.limits.range
    for _ in range(3):
        actions, path = play(s, targets, command)
        assert np.abs(actions).max() <= 1.0
        bound = np.minimum(speed * s.limits.range, s.limits.max_velocity) / task.control_hz
        assert (np.abs(np.diff(path, axis=0)) <= bound + 1e-6).all()
        command = path[-1]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_targets_within_reach_are_reached(name: str) -> None:
    s = steering(name)
    rng = np.random.default_rng(0)
    zero = np.zeros(len(s.limits.names))
    command = s.task.action_to_joints(rng.uniform(-1, 1, s.task.action_dim), zero)
    targets = s.task.action_to_joints(rng.uniform(-1, 1, s.task.action_dim), command)
    for _ in range(100):
        _, path = play(s, targets, command)
        command = path[-1]
    np.testing.assert_allclose(command, targets, atol=1e-5)


def test_a_chunk_goes_on_where_the_one_before_ends() -> None:
    s = steering("CubeRotation-v0", speed=0.2)
    start = s.task.action_to_joints(-np.ones(8), np.zeros(12))
    targets = s.task.action_to_joints(np.ones(8), np.zeros(12))
    _, path = play(s, targets, start)
    # One step of it was played, one is still to come.
    _, further = play(s, targets, path[1], queued=1)
    np.testing.assert_allclose(further[1] - path[2], path[2] - path[1], atol=1e-5)
    s.start()
    _, anew = play(s, targets, path[1], queued=1)
    np.testing.assert_allclose(anew[1], path[2], atol=1e-5)


def test_a_slower_hand_is_not_asked_for_more_and_more() -> None:
    s = steering("CubeRotation-v0")
    command = s.task.action_to_joints(-np.ones(8), np.zeros(12))
    targets = s.task.action_to_joints(np.ones(8), np.zeros(12))
    for _ in range(50):
        actions, _ = play(s, targets, command, queued=1)  # the hand does not move at all
        asked = s.task.action_to_joints(actions[-1], command)
        assert (np.abs(asked - command) <= (1 + 2 * s.horizon) * s.bound + 1e-5).all()


def test_another_hand_is_refused() -> None:
    hand = TASKS["ToolCut-v0"].hand
    limits = HandLimits(hand.joint_names, hand.lower, hand.upper, hand.max_velocity)
    with pytest.raises(ValueError, match=r"the hand has joints .*gantry_x.* the task CubeRotation-v0 has"):
        Steering(TASKS["CubeRotation-v0"], limits, 1.0, 2)
