"""The camera node: pictures of a device, a recording or the simulated scene, on the same topics."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from softflow_msgs.msg import HandState, ObjectState

from softflow_node.messages import from_stamp, numpy32
from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_node.pictures import RGBImage, encode_jpeg
from softflow_perception.alignment import Aligned, Aligner
from softflow_perception.camera.frames import CameraHealth
from softflow_perception.camera.messages import to_camera_info, to_camera_pose, to_health, to_image
from softflow_perception.camera.robot_clock import RobotClock
from softflow_perception.camera.sources import CaptureSource, SourceError
from softflow_perception.camera_model import CameraModel, load_camera
from softflow_perception.messages import to_object_sample
from softflow_tasks import make_task, task_ids

HAND = "hand_state"
REOPEN = 1.0
"""[s] between attempts to open a device that is gone."""


@dataclass(frozen=True)
class CameraParameters:
    """Parameters of the camera node."""

    source: str = bounded(
        "sim", choices=("sim", "device"), doc="sim draws the scene; device: V4L2 or a video file"
    )
    name: str = bounded("front", doc="of the camera; its topics are camera/NAME/...")
    task: str = bounded("CubeRotation-v0", choices=task_ids(), doc="whose scene is drawn")
    device: str = bounded("/dev/video0", doc="device, its number, or a video file")
    calibration: str = bounded("", doc="camera file (YAML) of a device: intrinsics and place")
    rate: float = bounded(30.0, low=0.1, high=1000.0, unit="Hz", doc="of a device")
    delay: float = bounded(
        0.0, low=0.0, high=1.0, unit="s", doc="of a device, from the exposure to the picture's arrival"
    )
    carried: bool = bounded(
        False, doc="a device that the hand carries: the place in its camera file is not said"
    )
    quality: int = bounded(90, low=1, high=100, doc="of the JPEG pictures")
    recorded: bool = bounded(False, doc="the recorder must have the pictures from the first on")


class CameraNode(SoftflowNode[CameraParameters]):
    """Simulated pictures carry the stamp of the state they show; a device's, the robot time of its exposure.

    A camera that the hand carries has no place in its base frame, so it says none.
    """

    def __init__(self) -> None:
        super().__init__("camera", CameraParameters)
        self.carried = self.params.carried
        self._eye: Any = None
        self._drawn: tuple[str, int, CompressedImage | None] = "", 0, None
        self._reader: threading.Thread | None = None
        self._stopping = False
        self._robot_clock, self._health = RobotClock(), CameraHealth()
        self.model = self._simulated() if self.params.source == "sim" else self._calibrated()
        base = f"camera/{self.params.name}"
        topic = f"{base}/image/compressed"
        self.image_pub = (
            self.create_recorded_publisher(CompressedImage, topic)
            if self.params.recorded
            else self.create_publisher(CompressedImage, topic, stream())
        )
        self.info_pub = self.create_publisher(CameraInfo, f"{base}/camera_info", latched())
        self.pose_pub = self.create_publisher(PoseStamped, f"{base}/pose", latched())
        self.health_pub = self.create_publisher(DiagnosticStatus, f"{base}/health", latched())
        self.info_pub.publish(to_camera_info(self.model))
        if not self.carried:
            self.pose_pub.publish(to_camera_pose(self.model))
        self.create_subscription(Clock, "clock", self._on_clock, reliable(10))
        if self.params.source == "sim":
            self._watch_scene()
        else:
            self._reader = threading.Thread(target=self._read_device, daemon=True)
            self._reader.start()

    def _simulated(self) -> CameraModel:
        # Only here: a camera on a robot needs no simulator.
        from softflow_sim.cameras import SimulatedCamera

        try:
            self._eye = SimulatedCamera(self.params.task, self.params.name)
        except ValueError as error:
            raise ParameterError(f"{self.get_name()}: {error}") from error
        o = self._eye.optics
        self.carried = o.carried
        return CameraModel(
            self.params.name, o.width, o.height, o.matrix, rotation=o.rotation, position=o.position
        )

    def _calibrated(self) -> CameraModel:
        path = self.params.calibration
        try:
            return load_camera(Path(path))
        except (OSError, ValueError) as error:
            raise ParameterError(
                f"{self.get_name()}: parameter 'calibration' is {path!r}: {error}"
            ) from error

    def _watch_scene(self) -> None:
        task = make_task(self.params.task)
        self._aligner: Aligner[Any] = Aligner(HAND, task.objects, 0.5 / task.control_hz)
        self.create_subscription(HandState, HAND, lambda m: self._on_state(HAND, m), stream())
        self.create_subscription(
            ObjectState, "object_state", lambda m: self._on_state(m.object_name, m), stream()
        )

    def _on_state(self, sensor: str, message: Any) -> None:
        if sensor != HAND and sensor not in self._aligner.others:
            return
        for aligned in self._aligner.add(sensor, from_stamp(message.header.stamp), message):
            self._draw(aligned)

    def _draw(self, aligned: Aligned[Any]) -> None:
        hand, stamp = aligned.samples[HAND], aligned.stamps[HAND]
        if (hand.episode_id, stamp) == self._drawn[:2]:
            # A world that waits repeats its state: whoever came late gets the same picture.
            self.image_pub.publish(self._drawn[2])
            self.counters["repeated_pictures"] += 1
            return
        objects = {name: to_object_sample(o) for name, o in aligned.samples.items() if name != HAND}
        image = self._eye.render(numpy32(hand.position).astype(np.float64), objects)
        self._drawn = hand.episode_id, stamp, self._publish(image, stamp)

    def _publish(self, image: RGBImage, stamp: int) -> CompressedImage:
        message = to_image(self.params.name, encode_jpeg(image, self.params.quality), stamp)
        self.image_pub.publish(message)
        self.counters["pictures"] += 1
        return message

    def fault(self) -> str:
        """Why the pictures must not be used."""
        return f"camera {self.params.name}: {self._health.why}" if self._health.why else ""

    def _on_clock(self, message: Clock) -> None:
        self._robot_clock.hear(from_stamp(message.clock), time.monotonic())

    def _read_device(self) -> None:
        """A thread, since a device makes its reader wait; publishing is safe from any thread."""
        p, m = self.params, self.model
        while not self._stopping:
            try:
                source = CaptureSource(p.device, m.width, m.height, p.rate)
            except SourceError as error:
                self._lost(error)
                continue
            due = time.monotonic()
            try:
                while not self._stopping:
                    image = source.read()
                    self._take(image, time.monotonic() - p.delay)
                    if source.recorded:
                        due += 1.0 / p.rate
                        time.sleep(max(0.0, due - time.monotonic()))
            except SourceError as error:
                self._lost(error)
            finally:
                source.close()

    def _take(self, image: RGBImage, exposed: float) -> None:
        """A device's picture, exposed at a time [s] on the host's clock."""
        swapped = self.model.mark.fault(image) if self.model.mark else ""
        if swapped:
            self.refuse("picture", f"camera {self.params.name}: {swapped}")
            self._down(swapped)
            return
        stamp = self._robot_clock.at(exposed)
        if stamp is None:
            # While the robot's clock stands still, or is not there yet, a picture has no time.
            self.counters["pictures_without_clock"] += 1
        else:
            self._publish(image, stamp)
        if self._health.good():
            self.get_logger().info(f"camera {self.params.name} is well again")
            self.health_pub.publish(to_health(self.params.name, ""))

    def _down(self, fault: str, certain: bool = False) -> None:
        if self._health.bad(fault, certain):
            self.counters["faults"] += 1
            self.get_logger().error(self.fault())
            self.health_pub.publish(to_health(self.params.name, self._health.why))

    def _lost(self, error: SourceError) -> None:
        self.counters["device_losses"] += 1
        self.get_logger().error(f"{error}; trying again")
        self._down(str(error), certain=True)
        if self._health.why != str(error):
            # What keeps it down now may be another thing than what it went down for.
            self._health.why = str(error)
            self.health_pub.publish(to_health(self.params.name, self._health.why))
        time.sleep(REOPEN)

    def close(self) -> None:
        """Free device and renderer."""
        self._stopping = True
        if self._reader is not None:
            self._reader.join(timeout=2.0)
        if self._eye is not None:
            self._eye.close()


def main() -> None:
    """Entry point of `camera_node`."""
    sys.exit(run_node(CameraNode))


if __name__ == "__main__":
    main()
