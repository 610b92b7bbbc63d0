"""Between messages and samples: nothing is lost, wrong sizes are named."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose, Quaternion, Twist, Vector3
from softflow_msgs.msg import HandState, ObjectState

from softflow_node.messages import floats32, from_stamp, numpy32
from softflow_perception.alignment import Aligned
from softflow_perception.messages import to_hand_sample, to_object_sample, to_observation
from softflow_tasks import CubeRotation

SIZES = {"position": 12, "velocity": 12, "applied_action": 8, "command": 12}


def hand_state(**sizes: int) -> HandState:
    arrays = {name: floats32(np.arange(size)) for name, size in {**SIZES, **sizes}.items()}
    message = HandState(episode_id="e", seed=5, step=7, steps_left=2, **arrays)
    message.header.frame_id = "hand_base"
    return message


def test_a_hand_sample_holds_the_arrays() -> None:
    sample = to_hand_sample(hand_state(), 12, 8)
    np.testing.assert_array_equal(sample.position, np.arange(12))
    np.testing.assert_array_equal(sample.applied_action, np.arange(8))
    assert sample.velocity.dtype == np.float64


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_size_names_field_and_bound(name: str, change: int) -> None:
    size = SIZES[name]
    with pytest.raises(ValueError, match=f"{name} has {size + change} values, must have {size}"):
        to_hand_sample(hand_state(**{name: size + change}), 12, 8)


def test_an_object_sample_holds_pose_and_twist_with_xyzw() -> None:
    sample = to_object_sample(
        ObjectState(
            pose=Pose(
                position=Point(x=1.0, y=2.0, z=3.0), orientation=Quaternion(x=0.1, y=0.2, z=0.3, w=0.9)
            ),
            twist=Twist(linear=Vector3(x=4.0, y=5.0, z=6.0), angular=Vector3(x=7.0, y=8.0, z=9.0)),
        )
    )
    assert sample.position.tolist() == [1, 2, 3] and sample.quaternion.tolist() == [0.1, 0.2, 0.3, 0.9]
    assert sample.linear.tolist() == [4, 5, 6] and sample.angular.tolist() == [7, 8, 9]


def test_an_observation_carries_what_belongs_to_the_hand_state() -> None:
    task, hand = CubeRotation(), hand_state()
    state = np.arange(task.layout.size, dtype=np.float32)
    stamps = {"hand_state": 1_000_000_000, "cube": 1_004_000_000}
    message = to_observation(task, state, hand, Aligned(dict.fromkeys(stamps), stamps), obs_id=9)
    np.testing.assert_array_equal(numpy32(message.state), state)
    assert (message.episode_id, message.seed, message.step, message.steps_left) == ("e", 5, 7, 2)
    assert (message.obs_id, message.layout_hash, message.task) == (9, task.layout.hash, task.id)
    assert from_stamp(message.header.stamp) == 1_004_000_000 and message.header.frame_id == "hand_base"
    assert [from_stamp(s) for s in message.sensor_stamps] == list(stamps.values())
    assert message.skew == pytest.approx(0.004)
    assert not message.images
    (name,) = to_observation(
        task, state, hand, Aligned(dict.fromkeys(stamps), stamps), 9, images=["/hand0/a@3"]
    ).images
    assert name == "/hand0/a@3"
