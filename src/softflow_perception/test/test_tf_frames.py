"""Poses as tf frames: names, parents, stamps; what is out of sight has no frame."""

from __future__ import annotations

import pytest
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from softflow_msgs.msg import ObjectState

from softflow_node.messages import to_stamp
from softflow_perception.frames.messages import prefix_of, to_camera_frame, to_object_frame

POSE = Pose(position=Point(x=0.1, y=-0.2, z=0.3), orientation=Quaternion(x=0.5, y=-0.5, z=0.5, w=0.5))


def cube(valid: bool) -> ObjectState:
    message = ObjectState(object_name="cube", valid=valid, pose=POSE)
    message.header.stamp, message.header.frame_id = to_stamp(1_500_000_000), "hand_base"
    return message


def test_an_object_is_a_frame_below_the_hands_base() -> None:
    frame = to_object_frame(cube(valid=True), "hand0/")
    assert frame is not None
    assert (frame.header.frame_id, frame.child_frame_id) == ("hand0/hand_base", "hand0/cube")
    assert frame.header.stamp == to_stamp(1_500_000_000)
    t, r = frame.transform.translation, frame.transform.rotation
    assert (t.x, t.y, t.z) == (0.1, -0.2, 0.3) and (r.x, r.y, r.z, r.w) == (0.5, -0.5, 0.5, 0.5)
    assert to_object_frame(cube(valid=False), "") is None


def test_a_camera_is_its_optical_frame() -> None:
    message = PoseStamped(pose=POSE)
    message.header.frame_id = "hand_base"
    frame = to_camera_frame("front", message, "")
    assert (frame.header.frame_id, frame.child_frame_id) == ("hand_base", "camera_front_optical")


@pytest.mark.parametrize(
    ("text", "prefix"), [("/hand0", "hand0/"), ("/", ""), ("", ""), ("/lab/left/", "lab/left/")]
)
def test_prefixes_are_names_that_tf2_takes(text: str, prefix: str) -> None:
    assert prefix_of(text) == prefix
