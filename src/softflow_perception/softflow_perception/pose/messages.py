"""Between tracked poses and messages."""

from __future__ import annotations

from softflow_msgs.msg import ObjectState

from softflow_node.messages import to_stamp
from softflow_perception.camera.messages import BASE_FRAME
from softflow_perception.rotations import to_quaternion
from softflow_perception.tracking import TrackedPose


def to_object_state(
    name: str, tracked: TrackedPose | None, last: TrackedPose | None, stamp: int, episode_id: str, step: int
) -> ObjectState:
    """`tracked` None: out of sight; the numbers are then those of `last`, and the velocities zero."""
    message = ObjectState(
        object_name=name, source="fiducial", valid=tracked is not None, episode_id=episode_id, step=step
    )
    message.header.stamp, message.header.frame_id = to_stamp(stamp), BASE_FRAME
    pose = tracked or last
    if pose is not None:
        p, q = message.pose.position, message.pose.orientation
        p.x, p.y, p.z = pose.position.tolist()
        q.x, q.y, q.z, q.w = to_quaternion(pose.rotation).tolist()
    if tracked is not None:
        v, w = message.twist.linear, message.twist.angular
        v.x, v.y, v.z = tracked.linear.tolist()
        w.x, w.y, w.z = tracked.angular.tolist()
    return message
