"""Between pictures, camera models and their messages."""

from __future__ import annotations

from array import array

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, CompressedImage

from softflow_node.messages import to_stamp
from softflow_node.pictures import FORMAT
from softflow_perception.camera_model import CameraModel
from softflow_perception.rotations import from_quaternion, to_quaternion

BASE_FRAME = "hand_base"


def frame_of(name: str) -> str:
    """The optical frame of a camera."""
    return f"camera_{name}_optical"


def to_health(name: str, why: str) -> DiagnosticStatus:
    """`why` a camera must not be relied on; empty: it may be."""
    level = DiagnosticStatus.ERROR if why else DiagnosticStatus.OK
    return DiagnosticStatus(level=level, name=f"camera {name}", message=why)


def to_image(name: str, jpeg: bytes, stamp: int) -> CompressedImage:
    """`stamp` [ns] of the exposure, robot clock."""
    message = CompressedImage(format=FORMAT, data=array("B", jpeg))
    message.header.stamp, message.header.frame_id = to_stamp(stamp), frame_of(name)
    return message


def to_camera_info(model: CameraModel) -> CameraInfo:
    k = model.matrix
    projection = np.concatenate([k, np.zeros((3, 1))], axis=1)
    message = CameraInfo(
        height=model.height,
        width=model.width,
        distortion_model="plumb_bob",
        d=model.distortion.tolist(),
        k=k.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )
    message.header.frame_id = frame_of(model.name)
    return message


def to_camera_pose(model: CameraModel) -> PoseStamped:
    """Where the optical frame is in the hand's base frame."""
    message = PoseStamped()
    message.header.frame_id = BASE_FRAME
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z = model.position.tolist()
    q.x, q.y, q.z, q.w = to_quaternion(model.rotation).tolist()
    return message


def from_camera(name: str, info: CameraInfo, pose: PoseStamped) -> CameraModel:
    """Raises ValueError that names the field."""
    if info.distortion_model not in ("plumb_bob", ""):
        raise ValueError(f"distortion_model is {info.distortion_model!r}, must be 'plumb_bob'")
    if pose.header.frame_id != BASE_FRAME:
        raise ValueError(f"frame_id of the camera's pose is {pose.header.frame_id!r}, must be {BASE_FRAME!r}")
    p, q = pose.pose.position, pose.pose.orientation
    return CameraModel(
        name,
        info.width,
        info.height,
        np.array(info.k).reshape(3, 3),
        np.array(info.d) if len(info.d) else np.zeros(5),
        from_quaternion(np.array([q.x, q.y, q.z, q.w])),
        np.array([p.x, p.y, p.z]),
    )
