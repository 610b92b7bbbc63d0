"""The pose node: pictures of calibrated cameras -> the tagged object's pose and velocity."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from softflow_msgs.msg import HandState, ObjectState

from softflow_node.messages import from_stamp, to_stamp
from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_node.pictures import check_format, decode_grey
from softflow_perception.camera.frames import CameraHealth, FrameLimits, FrameWatch
from softflow_perception.camera.messages import from_camera, to_health
from softflow_perception.camera.robot_clock import RobotClock
from softflow_perception.camera_model import CameraModel
from softflow_perception.fiducial import Corners, TagDetector, estimate
from softflow_perception.pose.messages import to_object_state
from softflow_perception.steps import Steps
from softflow_perception.tracking import PoseFilter
from softflow_tasks import cube_tags

LATENCIES = 2000
"""Pictures over which the latency's percentiles are taken."""
STATE_LIMIT = 0.5
"""[s] that pictures wait for the hand state of their step."""


@dataclass(frozen=True)
class PoseParameters:
    """Parameters of the pose node."""

    cameras: str = bounded("front", doc="names of the cameras, with commas between them")
    object: str = bounded("cube", choices=("cube",), doc="whose tags are looked for")
    clock_offset: float = bounded(0.2, low=0.001, high=10.0, unit="s", doc="of a picture's stamp, at most")


class PoseNode(SoftflowNode[PoseParameters]):
    """Waits for the pictures of one instant from all cameras; a newer instant ends the wait.

    And for the hand's state of that instant, where it must be on its way: a picture may be faster.
    """

    def __init__(self) -> None:
        super().__init__("pose", PoseParameters)
        self.names = tuple(name.strip() for name in self.params.cameras.split(","))
        if not all(self.names) or len(set(self.names)) != len(self.names):
            raise ParameterError(
                f"{self.get_name()}: parameter 'cameras' is {self.params.cameras!r}: names must differ"
            )
        self.detector, self.filter = TagDetector(cube_tags.DICTIONARY), PoseFilter()
        self.tags = cube_tags.tag_corners()
        self.cameras: dict[str, CameraModel] = {}
        self.watches: dict[str, FrameWatch] = {}
        self.health = {name: CameraHealth() for name in self.names}
        self._own: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._infos: dict[str, CameraInfo] = {}
        self._places: dict[str, PoseStamped] = {}
        self._seen: dict[str, Corners] = {}
        self._stamp = 0
        self._robot_clock = RobotClock()
        self._now = 0
        self._steps = Steps()
        self._complete_at = 0.0
        self._episode = ""
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self.pub = self.create_recorded_publisher(ObjectState, "object_seen")
        self.health_pub = self.create_publisher(DiagnosticArray, "camera_health", latched())
        self.create_subscription(HandState, "hand_state", self._on_hand, stream())
        self.create_subscription(Clock, "clock", self._on_clock, reliable(10))
        for name in self.names:
            base = f"camera/{name}"
            self.create_subscription(
                DiagnosticStatus, f"{base}/health", partial(self._on_own_health, name), latched()
            )
            self.create_subscription(
                CameraInfo, f"{base}/camera_info", partial(self._on_info, name), latched()
            )
            self.create_subscription(PoseStamped, f"{base}/pose", partial(self._on_place, name), latched())
            self.create_subscription(
                CompressedImage, f"{base}/image/compressed", partial(self._on_image, name), stream()
            )

    def poll(self) -> float:
        """Look for cameras that have gone silent."""
        for name in self.names:
            silent = self.watches[name].check(self._now) if name in self.watches and self._now else ""
            if silent:
                self._bad(name, silent, certain=True)
        if self._complete() and time.monotonic() - self._complete_at > STATE_LIMIT:
            self.counters["instants_without_state"] += 1
            self._finish()
        return 0.2

    def fault(self) -> str:
        """Which cameras must not be relied on, and why."""
        return "; ".join(f"camera {name}: {why}" for name, why in self._why().items() if why)

    def _why(self) -> dict[str, str]:
        """What a camera's own node says comes first: that there are no pictures is a consequence."""
        return {name: self._own.get(name, "") or self.health[name].why for name in self.names}

    def _on_own_health(self, name: str, message: DiagnosticStatus) -> None:
        self._own[name] = message.message if message.level != DiagnosticStatus.OK else ""
        self._say_health()

    def _bad(self, name: str, fault: str, certain: bool = False) -> None:
        if self.health[name].bad(fault, certain):
            self._say_health()

    def _say_health(self) -> None:
        """For whoever lets the policy act and learn, and for those who come later."""
        before, why = self._told, self._why()
        if why == before:
            return
        self._told = why
        for name in self.names:
            self.counters[f"faults_{name}"] += bool(why[name] and not before.get(name))
        message = DiagnosticArray(status=[to_health(name, text) for name, text in why.items()])
        message.header.stamp = to_stamp(self._now)
        self.health_pub.publish(message)
        if self.fault():
            self.get_logger().error(self.fault())
        elif any(before.values()):
            self.get_logger().info("all cameras are well")

    def _on_clock(self, message: Clock) -> None:
        self._now = from_stamp(message.clock)
        self._robot_clock.hear(self._now, time.monotonic())

    def _on_hand(self, message: HandState) -> None:
        self._steps.add(from_stamp(message.header.stamp), message.episode_id, message.step)
        if self._complete() and not self._steps.awaited(self._stamp):
            self._finish()

    def _on_info(self, name: str, message: CameraInfo) -> None:
        self._infos[name] = message
        self._calibrate(name)

    def _on_place(self, name: str, message: PoseStamped) -> None:
        self._places[name] = message
        self._calibrate(name)

    def _calibrate(self, name: str) -> None:
        if name not in self._infos or name not in self._places:
            return
        try:
            model = from_camera(name, self._infos[name], self._places[name])
        except ValueError as error:
            self.refuse("camera_info", error)
            return
        self.cameras[name] = model
        limits = FrameLimits(model.width, model.height, clock_offset=self.params.clock_offset)
        self.watches[name] = FrameWatch(limits)

    def _on_image(self, name: str, message: CompressedImage) -> None:
        started = time.perf_counter()
        camera, watch = self.cameras.get(name), self.watches.get(name)
        if camera is None or watch is None:
            self.counters["pictures_without_calibration"] += 1
            return
        stamp, data = from_stamp(message.header.stamp), memoryview(message.data)
        if watch.repeats(stamp):
            self.counters["repeated_pictures"] += 1
            return
        try:
            check_format(message.format)
            grey = decode_grey(data)
            clock = self._robot_clock.span(time.monotonic()) or (stamp, stamp)
            fault = watch.picture(stamp, clock, (grey.shape[1], grey.shape[0]), data)
            if fault:
                raise ValueError(fault)
        except ValueError as error:
            self.refuse("image", f"camera {name}: {error}")
            self._bad(name, str(error), certain=watch.frozen)
            return
        if self.health[name].good():
            self._say_health()
        if stamp > self._stamp and self._seen:
            self.counters["instants_without_state" if self._complete() else "incomplete_instants"] += 1
            self._finish()
        self._stamp = stamp
        self._seen[name] = self.detector.detect(grey)
        if self._complete():
            self._complete_at = time.monotonic()
            if not self._steps.awaited(stamp):
                self._finish()
        self._latencies.append(time.perf_counter() - started)

    def _complete(self) -> bool:
        return len(self._seen) == len(self.names)

    def _finish(self) -> None:
        """One instant: fit, filter, say."""
        seen, self._seen = self._seen, {}
        episode, step = self._steps.at(self._stamp)
        if episode != self._episode:
            # The scene was set up anew.
            self.filter.reset()
            self._episode = episode
        views = [(self.cameras[name], corners) for name, corners in seen.items()]
        measured = estimate(views, self.tags, self.filter.prior(self._stamp))
        try:
            tracked = self.filter.update(self._stamp, measured)
        except ValueError as error:
            self.refuse("image", error)
            return
        self.counters["instants"] += 1
        self.counters["instants_without_tags"] += measured is None
        self.counters["measurements_not_believed"] = self.filter.rejected
        self.pub.publish(
            to_object_state(self.params.object, tracked, self.filter.last, self._stamp, episode, step)
        )
        if self._latencies and self.counters["instants"] % 100 == 0:
            p50, p99 = np.percentile(self._latencies, (50, 99))
            self.counters["latency_p50_us"], self.counters["latency_p99_us"] = (
                round(1e6 * p50),
                round(1e6 * p99),
            )


def main() -> None:
    """Entry point of `pose_node`."""
    sys.exit(run_node(PoseNode))


if __name__ == "__main__":
    main()
