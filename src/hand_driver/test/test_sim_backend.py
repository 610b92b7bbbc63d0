"""The simulated back end moves bitwise as the environment; its description agrees with the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from hand_driver.backends import HandMismatchError, backend_names, make_hand
from hand_driver.control import Driver
from hand_driver.device import Hand, Reading
from hand_driver.hand_file import load_hand
from hand_driver.playback import Chunk
from hand_driver.safety import clamp_action, clamp_targets
from hand_driver.safety_core import Mode
from softflow_sim.catalogue import make_scene, make_teacher
from softflow_sim.demonstrations import demonstrate
from softflow_sim.task_env import TaskEnv
from softflow_tasks import HandSample, ObjectSample, Task, make_task, task_ids

PERIOD = 0.05


@pytest.fixture(params=task_ids())
def task(request: pytest.FixtureRequest) -> Task:
    return make_task(request.param)


@pytest.fixture
def hand(task: Task) -> Hand:
    made = make_hand(load_hand(task.hand.name), "", task)
    made.connect()
    return made


def observe(task: Task, reading: Reading, applied: np.ndarray, command: np.ndarray) -> np.ndarray:
    """The state as perception makes it of what travels as float32."""
    joints = [v.astype(np.float32).astype(np.float64) for v in (reading.position, reading.velocity)]
    sample = HandSample(*joints, applied, command.astype(np.float32).astype(np.float64))
    objects = {o.name: ObjectSample(o.position, o.quaternion, o.linear, o.angular) for o in reading.objects}
    return task.observe(sample, objects)


def teacher_actions(task: Task, seed: int) -> np.ndarray:
    env = TaskEnv(make_scene(task.id))
    return demonstrate(env, make_teacher(task.id, seed, 0.02), seed).actions[:150]


def wild_actions(task: Task, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.5, 1.5, (60, task.action_dim)).astype(np.float32)


@pytest.mark.parametrize("actions", [teacher_actions, wild_actions])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_and_actions_give_bitwise_the_same_motion(
    task: Task, hand: Hand, actions: Callable[[Task, int], np.ndarray], seed: int
) -> None:
    env = TaskEnv(make_scene(task.id))
    hand.reset(99)
    hand.wait_period()
    command = hand.reset(seed)
    assert command is not None
    start, _ = env.reset(seed=seed)
    assert observe(task, hand.read(), task.rest_action(), command).tobytes() == start.tobytes()
    for action in actions(task, seed):
        applied = clamp_action(action.astype(np.float64)).value
        targets = clamp_targets(task.action_to_joints(applied, command), hand.description, command, PERIOD)
        command = hand.command(targets.value, np.ones(len(command)))
        hand.wait_period()
        state, *_ = env.step(action)
        assert observe(task, hand.read(), applied, command).tobytes() == state.tobytes()


def test_a_held_action_leaves_the_targets_where_they_are(task: Task, hand: Hand) -> None:
    command = hand.reset(0)
    assert command is not None
    action = np.linspace(-0.9, 0.9, task.action_dim)
    command = task.action_to_joints(action, command)
    held = task.held_action(action)
    np.testing.assert_array_equal(task.action_to_joints(held, command), command)


def test_time_passes_only_in_wait_period_and_by_one_control_period(task: Task, hand: Hand) -> None:
    hand.reset(0)
    before = hand.read()
    hand.command(np.zeros(len(task.joint_names)), np.ones(len(task.joint_names)))
    np.testing.assert_array_equal(hand.read().position, before.position)
    assert hand.wait_period() == pytest.approx(1.0 / task.control_hz)
    assert not np.array_equal(hand.read().position, before.position)


def test_a_command_returns_what_was_sent(task: Task, hand: Hand) -> None:
    targets = np.linspace(-0.1, 0.1, len(task.joint_names))
    np.testing.assert_array_equal(hand.command(targets, np.ones(len(targets))), targets)


def test_the_description_is_complete(task: Task, hand: Hand) -> None:
    d = hand.description
    joints = len(task.joint_names)
    assert d.joint_names == task.joint_names and d.action_names == task.action_names
    assert all(a.shape == (joints,) for a in (d.lower, d.upper, d.max_velocity))
    assert (d.lower < d.upper).all() and (d.max_velocity > 0).all() and d.control_rate == task.control_hz
    reading = hand.read()
    shapes = {a.shape for a in (reading.position, reading.velocity, reading.current, reading.valid)}
    assert shapes == {(joints,)} and reading.valid.all()


@pytest.mark.parametrize("changed", [{"upper": 1.0}, {"lower": -0.1}])
def test_a_task_that_moves_beyond_the_hand_is_refused(changed: dict[str, float]) -> None:
    spec = load_hand("palmdown4")
    joints = tuple(dataclasses.replace(j, **changed) if j.name == "finger1_mcp" else j for j in spec.joints)
    with pytest.raises(HandMismatchError, match=r"moves finger1_mcp in \[-1.047.*palmdown4 allows"):
        make_hand(dataclasses.replace(spec, joints=joints), "", make_task("CubeRotation-v0"))


def test_the_file_holds_the_limits_of_the_task_bit_by_bit(task: Task) -> None:
    spec = load_hand(task.hand.name)
    assert spec.joint_names == task.joint_names
    for name in ("lower", "upper", "max_velocity"):
        assert spec.values(name).tobytes() == getattr(task.hand, name).tobytes()


@pytest.mark.parametrize("actions", [teacher_actions, wild_actions])
def test_behind_the_driver_chunks_give_bitwise_the_same_motion(
    task: Task, actions: Callable[[Task, int], np.ndarray]
) -> None:
    """The whole chain of checks leaves a simulated hand's dynamics as the policies learnt them."""
    env = TaskEnv(make_scene(task.id))
    spec = load_hand(task.hand.name)
    driver = Driver(make_hand(spec, "", task), spec, task)
    driver.start(0.0)
    driver.begin("e", 3, 0.0)
    start, _ = env.reset(seed=3)
    assert observe(task, driver.reading, driver.at.applied, driver.at.command).tobytes() == start.tobytes()
    rows = actions(task, 3)
    for number in range(len(rows) // 5):
        steps = rows[5 * number : 5 * number + 5]
        assert driver.offer(make_chunk(number + 1, steps, driver), float(number))
        for action in steps:
            outcome = driver.step(float(number))
            assert outcome.decision.mode is Mode.ACTIVE
            state, *_ = env.step(action)
            seen = observe(task, driver.reading, driver.at.applied, driver.at.command)
            assert seen.tobytes() == state.tobytes()
        assert outcome.done is not None
    assert driver.step(1e5).decision.mode is Mode.HOLD and driver.counters["starved_steps"] == 1


def make_chunk(number: int, actions: np.ndarray, driver: Driver) -> Chunk:
    return Chunk(
        episode_id="e",
        chunk_id=number,
        obs_id=number,
        obs_step=driver.at.step,
        source="policy",
        policy_version=0,
        policy_sha256="",
        log_prob=0.0,
        dt=PERIOD,
        actions=actions.astype(np.float64),
        execute_steps=len(actions),
        expiry=driver.robot_time + 0.1,
    )


def test_unknown_back_ends_and_tasks_are_named() -> None:
    assert "sim" in backend_names()
    spec = load_hand("palmdown4")
    with pytest.raises(HandMismatchError, match=r"backend: 'simm' is unknown; known: .*sim"):
        make_hand(spec, "simm")
    with pytest.raises(HandMismatchError, match="the back end sim needs a task"):
        make_hand(spec)
    with pytest.raises(HandMismatchError, match=r"task ToolCut-v0 moves .*palmdown4 has"):
        make_hand(spec, "", make_task("ToolCut-v0"))
