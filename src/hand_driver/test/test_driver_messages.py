"""Chunks and results between plain Python and messages, through real serialisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from softflow_msgs.msg import ActionChunk, ChunkResult

from hand_driver.messages import from_chunk, to_refusal, to_result
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
