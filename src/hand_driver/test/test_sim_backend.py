"""The simulated back end moves bitwise as the environment; its description agrees with the task."""

from __future__ import annotations

import numpy as np
import pytest

from hand_driver.backends import backend_names, make_hand
from hand_driver.device import Hand, Reading
from hand_driver.safety import clamp_action, clamp_targets
from softflow_sim.cube_env import CubeRotationEnv
from softflow_sim.teacher import CubeTeacher
from softflow_tasks import CubeRotation, HandSample, ObjectSample

TASK = CubeRotation()


@pytest.fixture
def hand() -> Hand:
    made = make_hand("sim", TASK.id)
    made.connect()
    return made


def observe(reading: Reading, applied: np.ndarray) -> np.ndarray:
    obj = reading.object
    assert obj is not None
    return TASK.observe(
        HandSample(reading.position, reading.velocity, applied),
        ObjectSample(obj.position, obj.quaternion, obj.linear, obj.angular),
    )


def teacher_actions(seed: int) -> np.ndarray:
    teacher = CubeTeacher(seed)
    return np.array([teacher() for _ in range(150)], dtype=np.float32)


def wild_actions(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.5, 1.5, (60, 8)).astype(np.float32)


@pytest.mark.parametrize("actions", [teacher_actions(0), teacher_actions(1), wild_actions(2)])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_and_actions_give_bitwise_the_same_motion(
    hand: Hand, actions: np.ndarray, seed: int
) -> None:
    env = CubeRotationEnv()
    hand.reset(99)
    hand.wait_period()
    hand.reset(seed)
    start, _ = env.reset(seed=seed)
    command = TASK.action_to_joints(TASK.rest_action())
    assert observe(hand.read(), TASK.rest_action()).tobytes() == start.tobytes()
    for action in actions:
        applied = clamp_action(action.astype(np.float64)).value
        targets = clamp_targets(TASK.action_to_joints(applied), hand.description, command, 0.05)
        command = hand.command(targets.value)
        hand.wait_period()
        state, *_ = env.step(action)
        assert observe(hand.read(), applied).tobytes() == state.tobytes()


def test_time_passes_only_in_wait_period_and_by_one_control_period(hand: Hand) -> None:
    hand.reset(0)
    before = hand.read()
    hand.command(np.zeros(12))
    np.testing.assert_array_equal(hand.read().position, before.position)
    assert hand.wait_period() == pytest.approx(1.0 / TASK.control_hz)
    assert not np.array_equal(hand.read().position, before.position)


def test_a_command_returns_what_was_sent(hand: Hand) -> None:
    targets = np.linspace(-0.1, 0.1, 12)
    np.testing.assert_array_equal(hand.command(targets), targets)


def test_the_description_is_complete(hand: Hand) -> None:
    d = hand.description
    joints = len(TASK.joint_names)
    assert d.joint_names == TASK.joint_names and d.action_names == TASK.action_names
    assert all(a.shape == (joints,) for a in (d.lower, d.upper, d.max_velocity))
    assert (d.lower < d.upper).all() and (d.max_velocity > 0).all() and d.control_rate == TASK.control_hz
    reading = hand.read()
    shapes = {a.shape for a in (reading.position, reading.velocity, reading.current, reading.valid)}
    assert shapes == {(joints,)} and reading.valid.all()


def test_unknown_back_ends_and_tasks_are_named() -> None:
    assert "sim" in backend_names()
    with pytest.raises(ValueError, match=r"backend: 'simm' is unknown; known: .*sim"):
        make_hand("simm", TASK.id)
    with pytest.raises(ValueError, match="'Juggling-v0'"):
        make_hand("sim", "Juggling-v0")
