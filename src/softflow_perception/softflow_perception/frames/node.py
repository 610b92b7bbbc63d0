"""The frames node: object and cameras on /tf and /tf_static. Needs tf2_msgs, which not every ROS 2 here has."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, TransformStamped
from softflow_msgs.msg import ObjectState

from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_perception.frames.messages import prefix_of, to_camera_frame, to_object_frame

OBJECT_TOPICS = {"none": "object_state", "camera": "object_seen"}


@dataclass(frozen=True)
class FramesParameters:
    """Parameters of the frames node."""

    eyes: str = bounded("none", choices=tuple(OBJECT_TOPICS), doc="where the object's pose comes from")
    cameras: str = bounded("front", doc="names of the cameras, with commas between them")
    prefix: str = bounded(
        "", doc="of all frame names, so that several robots have their own; as robot_state_publisher's"
    )


class FramesNode(SoftflowNode[FramesParameters]):
    """A tree with the hand's base as root; the joints' frames are robot_state_publisher's."""

    def __init__(self) -> None:
        super().__init__("frames", FramesParameters)
        try:
            self._message: Any = importlib.import_module("tf2_msgs.msg").TFMessage
        except ModuleNotFoundError as error:
            raise ParameterError(
                f"{self.get_name()}: tf:=true needs tf2_msgs (ros-jazzy-tf2-msgs), which is not here"
            ) from error
        self._prefix = prefix_of(self.params.prefix)
        self._cameras: dict[str, TransformStamped] = {}
        self.pub = self.create_publisher(self._message, "/tf", reliable(100))
        self.static_pub = self.create_publisher(self._message, "/tf_static", latched())
        self.create_subscription(ObjectState, OBJECT_TOPICS[self.params.eyes], self._on_object, stream())
        for name in filter(None, self.params.cameras.split(",")):
            self.create_subscription(
                PoseStamped, f"camera/{name}/pose", partial(self._on_camera, name), latched()
            )

    def _on_object(self, message: ObjectState) -> None:
        frame = to_object_frame(message, self._prefix)
        if frame is not None:
            self.pub.publish(self._message(transforms=[frame]))

    def _on_camera(self, name: str, message: PoseStamped) -> None:
        # One latched message has all of them: a late joiner gets the last one only.
        self._cameras[name] = to_camera_frame(name, message, self._prefix)
        self.static_pub.publish(self._message(transforms=list(self._cameras.values())))


def main() -> None:
    """Entry point of `frames_node`."""
    sys.exit(run_node(FramesNode))


if __name__ == "__main__":
    main()
