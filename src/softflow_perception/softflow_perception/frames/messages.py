"""Poses as transforms."""

from __future__ import annotations

from geometry_msgs.msg import Pose, PoseStamped, TransformStamped
from softflow_msgs.msg import ObjectState
from std_msgs.msg import Header

from softflow_perception.camera.messages import frame_of


def prefix_of(text: str) -> str:
    """Of frame names, such as `hand0/` for the namespace /hand0; tf2 knows no frame that begins with a slash."""
    return f"{text.strip('/')}/" if text.strip("/") else ""


def to_object_frame(message: ObjectState, prefix: str) -> TransformStamped | None:
    """Where the object is in the hand's base frame; None while it is out of sight: old numbers are no place."""
    if not message.valid:
        return None
    return _transform(message.header, message.pose, message.object_name, prefix)


def to_camera_frame(name: str, message: PoseStamped, prefix: str) -> TransformStamped:
    """Where the optical frame of a camera is."""
    return _transform(message.header, message.pose, frame_of(name), prefix)


def _transform(header: Header, pose: Pose, child: str, prefix: str) -> TransformStamped:
    result = TransformStamped(child_frame_id=prefix + child)
    result.header.stamp, result.header.frame_id = header.stamp, prefix + header.frame_id
    p, t = pose.position, result.transform.translation
    t.x, t.y, t.z = p.x, p.y, p.z
    result.transform.rotation = pose.orientation
    return result
