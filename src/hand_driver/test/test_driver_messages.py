"""Chunks and results between plain Python and messages, through real serialisation."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from softflow_msgs.msg import ActionChunk, ChunkResult, HandHealth
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hand_driver.actions import JointActions
from hand_driver.backends.mock import MockHand
from hand_driver.control import Driver
from hand_driver.hand_file import load_hand
from hand_driver.messages import (
    from_chunk,
    from_joint_trajectory,
    to_description,
    to_hand_state,
    to_health,
    to_joint_state,
    to_refusal,
    to_result,
)
from hand_driver.playback import ChunkPlayback
from hand_driver.safety import Refusal
from softflow_node.messages import floats32, numpy32, to_stamp

ACTIONS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


def message(**values: object) -> ActionChunk:
    fields: dict[str, object] = {
        "episode_id": "e",
        "chunk_id": 4,
        "obs_id": 9,
        "obs_step": 2,
        "dt": 0.05,
        "horizon": 3,
        "action_dim": 8,
        "actions": floats32(ACTIONS),
        "log_prob": -2.5,
        "execute_steps": 2,
        "expiry": to_stamp(1_500_000_000),
    }
    sent = ActionChunk(**{**fields, **values})
    received: ActionChunk = deserialize_message(serialize_message(sent), ActionChunk)
    return received


def test_a_chunk_arrives_as_it_was_sent_and_is_accepted() -> None:
    chunk = from_chunk(message())
    np.testing.assert_array_equal(chunk.actions, ACTIONS)
    assert (chunk.chunk_id, chunk.obs_id, chunk.execute_steps, chunk.expiry) == (4, 9, 2, 1.5)
    playback = ChunkPlayback(8, 0.05)  # dt travels as float32: it must fit nevertheless
    playback.begin("e")
    assert playback.offer(chunk, 0.0)


@pytest.mark.parametrize(
    "values",
    [
        {"horizon": 4},
        {"action_dim": 7},
        {"actions": floats32(ACTIONS[:2])},
        {"actions": floats32(ACTIONS[:0]), "horizon": 0},
    ],
)
def test_sizes_that_contradict_each_other_are_named(values: dict[str, object]) -> None:
    with pytest.raises(Refusal, match=r"actions has \d+ values, horizon\*action_dim is \d\*\d"):
        from_chunk(message(**values))


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_result_holds_what_was_applied(factor: float) -> None:
    playback = ChunkPlayback(8, 0.05)
    playback.begin("e")
    playback.offer(from_chunk(message()), 0.0)
    done = None
    for step in (6, 7):
        action = playback.next_action(step, 0.0)
        assert action is not None
        done = playback.applied(action * factor)
    assert done is not None
    result = to_result(done, ChunkResult.COMPLETED, 2_000_000_000)
    np.testing.assert_array_equal(numpy32(result.applied).reshape(2, 8), ACTIONS[:2] * np.float32(factor))
    assert (result.start_step, result.executed_steps, result.action_dim) == (6, 2, 8)
    assert (result.chunk_id, result.obs_id, result.header.stamp.sec) == (4, 9, 2)
    assert result.modified is (factor != 1.0)
    assert math.isnan(result.log_prob) if result.modified else result.log_prob == -2.5


def test_a_chunk_stopped_before_its_first_step_gives_an_empty_result() -> None:
    playback = ChunkPlayback(8, 0.05)
    playback.begin("e")
    playback.offer(from_chunk(message()), 0.0)
    playback.next_action(0, 0.0)
    playing = playback.flush()
    assert playing is not None
    result = to_result(playing, ChunkResult.STOPPED, 0, "estop")
    assert (result.executed_steps, len(result.applied), result.detail) == (0, 0, "estop")


def test_a_refusal_says_which_chunk_and_why() -> None:
    result = to_refusal(message(), Refusal("dt is 1 s"), 3_000_000_000)
    assert result.reason == ChunkResult.REFUSED and result.detail == "dt is 1 s"
    assert (result.chunk_id, result.executed_steps, math.isnan(result.log_prob)) == (4, 0, True)


HAND = load_hand("mock")


def received(sent: Any) -> Any:
    """As it arrives."""
    return deserialize_message(serialize_message(sent), type(sent))


def driver() -> Driver:
    made = Driver(MockHand(HAND), HAND, JointActions(HAND))
    made.start(0.0)
    made.begin("e", 3, 0.0)
    return made


def test_what_a_hand_is_arrives() -> None:
    said = received(to_description(driver().hand.description, HAND, "ab", 7))
    for name in (
        "lower",
        "upper",
        "max_velocity",
        "max_acceleration",
        "neutral",
        "soft_current",
        "max_current",
    ):
        np.testing.assert_array_equal(getattr(said, name), HAND.values(name))
    assert (said.calibration_hash, said.control_rate) == ("ab", HAND.control_rate)


def test_how_a_hand_is_arrives_with_who_has_it() -> None:
    made = driver()
    unread = Driver(MockHand(HAND), HAND, JointActions(HAND))
    assert np.isnan(received(to_health(unread, HandHealth.MODE_INACTIVE, "", 0.0)).temperature).all()
    made.stream("glove", HAND.values("neutral") + 0.2, 0.0)
    made.hand.world.temperature[2] = 65.0  # between soft and maximal: half of the share is left
    made.hand.world.unplugged = True
    made.step(0.01)
    made.hand.world.unplugged = False
    for now in (0.02, 0.03, 0.04):
        made.step(now)
    health = received(to_health(made, HandHealth.MODE_ACTIVE, "why", 0.05))
    assert (health.holder, health.holder_priority) == ("glove", HandHealth.PRIORITY_HUMAN)
    assert (health.failed_reads, health.failed_writes) == (1, 1)
    np.testing.assert_allclose(health.derating, [1, 1, 0.5, 1, 1, 1])
    assert list(health.temperature)[2] == 65.0
    state = received(to_hand_state(made.at, made.reading, 0, 0))
    assert state.source == "glove" and list(state.stiffness) == [1, 1, 0.5, 1, 1, 1]
    made.stream("glove", HAND.values("neutral") + 9.0, 0.05)
    made.step(0.05)
    health = received(to_health(made, HandHealth.MODE_ACTIVE, "why", 9.0))
    assert (health.holder, health.holder_priority) == ("", HandHealth.PRIORITY_NONE)
    assert health.refused_targets == 1 and received(to_hand_state(made.at, made.reading, 0, 0)).source == ""


def test_joint_states_are_those_of_the_reading() -> None:
    made = driver()
    made.step(0.01)
    message: JointState = received(to_joint_state(made.at, made.reading, list(HAND.joint_names)))
    assert tuple(message.name) == HAND.joint_names
    for theirs, ours in (
        (message.position, made.reading.position),
        (message.velocity, made.reading.velocity),
    ):
        np.testing.assert_array_equal(theirs, ours)
    np.testing.assert_array_equal(message.effort, made.reading.current)


def test_a_trajectory_arrives_as_it_was_sent() -> None:
    points = [
        JointTrajectoryPoint(positions=array("d", [0.1, 0.2]), velocities=array("d", [0.0, 1.0])),
        JointTrajectoryPoint(positions=array("d", [0.3, 0.4]), velocities=array("d", [0.5, 0.0])),
    ]
    points[1].time_from_start.sec, points[1].time_from_start.nanosec = 1, 250_000_000
    sent = JointTrajectory(joint_names=["thumb_mcp", "index_mcp"], points=points)
    sent.header.stamp = to_stamp(2_500_000_000)
    trajectory, start = from_joint_trajectory(received(sent), HAND)
    assert start == 2.5 and trajectory.times.tolist() == [0.0, 1.25] and trajectory.joints.tolist() == [5, 0]
    assert trajectory.positions.tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert trajectory.velocities is not None and trajectory.velocities.tolist() == [[0.0, 1.0], [0.5, 0.0]]
