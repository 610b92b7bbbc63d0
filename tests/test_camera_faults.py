"""Cameras that go wrong in the running system: named, counted, and no episode until they are well again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from softflow_msgs.msg import EpisodeEvent

from softflow_bringup.bench.eyes.video import TASK, scene, write_video
from softflow_bringup.bench.system import until
from softflow_bringup.graph import GraphDescription, load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_node.messages import to_stamp
from softflow_node.node import latched, reliable, stream
from softflow_node.pictures import FORMAT, RGBImage, encode_jpeg
from softflow_perception.camera.messages import to_camera_info, to_camera_pose, to_image
from softflow_perception.camera_model import CameraModel, load_camera

pytestmark = [pytest.mark.ros, pytest.mark.slow]
NODES = "hand_driver", "camera_front", "pose", "perception", "episode_manager"
RATE = 30.0
TIMEOUT = 60.0


class ForeignCamera:
    """Another driver's camera: its messages, and the clock of a robot that stands by."""

    def __init__(self, node: Node, model: CameraModel) -> None:
        base = "/hand0/camera/front"
        self.clock = node.create_publisher(Clock, "/hand0/clock", reliable(10))
        self.image = node.create_publisher(CompressedImage, f"{base}/image/compressed", stream())
        self.info = node.create_publisher(CameraInfo, f"{base}/camera_info", latched())
        self.pose = node.create_publisher(PoseStamped, f"{base}/pose", latched())
        self.info.publish(to_camera_info(model))
        self.pose.publish(to_camera_pose(model))
        self.stamp = 0

    def wait(self) -> None:
        """The next instant, and no picture."""
        self.stamp += round(1e9 / RATE)
        self.clock.publish(Clock(clock=to_stamp(self.stamp)))

    def send(self, picture: RGBImage, text: str) -> None:
        """A picture of the next instant whose `format` is `text`."""
        self.wait()
        message = to_image("front", encode_jpeg(picture, 90), self.stamp)
        message.format = text
        self.image.publish(message)


class Watcher:
    """Sees episodes and diagnostics."""

    def __init__(self, context: Context) -> None:
        self.node = node = Node("watcher", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(node)
        self.events: list[EpisodeEvent] = []
        self.errors: dict[str, set[str]] = {}
        """Name of a node -> what it called an error."""
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        node.create_subscription(EpisodeEvent, "/hand0/episode_event", self.events.append, latched(100))
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(100))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status
            if status.level == DiagnosticStatus.ERROR:
                self.errors.setdefault(status.name, set()).add(status.message)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        assert until(lambda: bool(condition()), TIMEOUT, lambda _: self.spin(0.05)), (
            what,
            [(e.kind, e.cause, e.last_step) for e in self.events],
            self.errors,
        )

    def ended(self, part: str) -> list[EpisodeEvent]:
        return [e for e in self.events if e.kind != EpisodeEvent.START and part in e.cause]

    def said(self, node: str, part: str) -> bool:
        return any(part in text for text in self.errors.get(f"/hand0/{node}", ()))

    def count(self, node: str, key: str) -> int:
        values = self.diagnostics.get(f"/hand0/{node}", DiagnosticStatus()).values
        return int({v.key: v.value for v in values}.get(key, "0"))

    def runs(self) -> bool:
        """Whether an episode has begun and not ended."""
        return bool(self.events) and self.events[-1].kind == EpisodeEvent.START


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        context = Context()
        rclpy.init(context=context)
        yield Watcher(context)
        rclpy.shutdown(context=context)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RGBImage], Path]:
    made, model = scene(20)
    path = tmp_path_factory.mktemp("camera") / "camera.yaml"
    model.save(path)
    return made, path


def graph(run: Path, video: Path, calibration: Path, **camera: Any) -> GraphDescription:
    """A simulated hand that nobody commands, and a video in place of its camera."""
    arguments = {"run": str(run), "task": TASK, "eyes": "camera", "speed": "1", "lock_step": "false"}
    whole = load_graph("online_rl", arguments).only(NODES)
    device = {"source": "device", "device": str(video), "calibration": str(calibration), "rate": RATE}
    own: dict[str, dict[str, Any]] = {
        "camera_front": {**device, **camera},
        "perception": {"max_skew": 0.2},
        "episode_manager": {"observers": 1, "recorders": 0, "policy": False},
    }
    nodes = tuple(
        dataclasses.replace(
            node.unrecorded(),
            nice=0,
            parameters={**node.parameters, **own.get(node.name, {})},
        )
        for node in whole.nodes
    )
    return dataclasses.replace(whole, nodes=nodes)


def part(pictures: Sequence[RGBImage], seconds: float) -> list[RGBImage]:
    return [pictures[i % len(pictures)] for i in range(round(RATE * seconds))]


def test_each_fault_of_a_device_pauses_learning_until_it_is_over(
    watcher: Watcher, pictures: tuple[list[RGBImage], Path], tmp_path: Path
) -> None:
    """A film: well, frozen, well, red and blue swapped, well, its end; then a file of another size; then a good one."""
    good, calibration = pictures
    swapped = [np.ascontiguousarray(picture[..., ::-1]) for picture in good]
    film = part(good, 12.0) + [good[0]] * 45 + part(good, 6.0) + part(swapped, 1.5) + part(good, 6.0)
    video = tmp_path / "video.avi"
    write_video(video, film, RATE)
    write_video(tmp_path / "long.avi", part(good, 60.0), RATE)  # It must not end before the test does.
    with Supervisor(graph(tmp_path / "run", video, calibration), log_directory=tmp_path / "log"):
        watcher.wait(lambda: watcher.ended("frozen"), "frozen")
        watcher.wait(watcher.runs, "the next begins")
        watcher.wait(lambda: watcher.ended("BGR sent as RGB"), "wrong encoding")
        watcher.wait(watcher.runs, "the next begins")
        small = [np.ascontiguousarray(picture[:240, :320]) for picture in good]
        write_video(tmp_path / "small.avi", small, RATE)
        watcher.wait(lambda: watcher.ended("gave no picture: its end"), "the end")
        video.unlink()
        watcher.wait(lambda: watcher.count("camera_front", "device_losses") >= 2, "it is tried again")
        begun = len(watcher.events)
        (tmp_path / "small.avi").replace(video)
        watcher.wait(lambda: watcher.said("episode_manager", "gives 320x240"), "another size")
        assert len(watcher.events) == begun and not watcher.runs(), "no episode without a camera"
        (tmp_path / "long.avi").replace(video)
        watcher.wait(watcher.runs, "the next begins")
        watcher.wait(
            lambda: watcher.diagnostics["/hand0/episode_manager"].level == DiagnosticStatus.OK, "all is well"
        )
    for cause in ("equal pictures in a row: frozen, limit 10", "mark at (24, 24) is rgb", "its end"):
        (cut,) = watcher.ended(cause)
        assert cut.kind == EpisodeEvent.TRUNCATED and cut.cause.startswith("camera front: ")
        assert cut.last_step > 0
        assert watcher.said("episode_manager", cause) and watcher.said("pose", cause)
    size = "gives 320x240, asked for 640x480"
    for node in ("camera_front", "pose", "episode_manager"):
        assert watcher.said(node, size), (node, watcher.errors)
    assert watcher.said("camera_front", "BGR sent as RGB") and watcher.said("camera_front", "its end")
    assert watcher.count("camera_front", "faults") == 2
    assert watcher.count("pose", "faults_front") == watcher.count("episode_manager", "camera_stops") == 3


def test_stamps_off_the_robots_clock_let_no_episode_begin(
    watcher: Watcher, pictures: tuple[list[RGBImage], Path], tmp_path: Path
) -> None:
    good, calibration = pictures
    video = tmp_path / "video.avi"
    write_video(video, part(good, 30.0), RATE)
    late = graph(tmp_path / "run", video, calibration, delay=0.4)
    with Supervisor(late, log_directory=tmp_path / "log"):
        text = "off the robot's clock, must be within 0.2 s"
        watcher.wait(lambda: watcher.said("episode_manager", text), "the fault is named")
        watcher.wait(lambda: watcher.said("pose", "camera front: stamp is -0."), "with its value")
        begun = len(watcher.events)
        watcher.wait(lambda: watcher.count("pose", "refused_image") > 60, "it goes on")
        assert len(watcher.events) == begun and not watcher.runs()
    (cut,) = watcher.ended("off the robot's clock")
    assert cut.kind == (EpisodeEvent.TRUNCATED if cut.last_step else EpisodeEvent.DISCARDED)


def test_another_drivers_camera_in_a_wrong_format_or_size_or_silent_is_named(
    watcher: Watcher, pictures: tuple[list[RGBImage], Path], tmp_path: Path
) -> None:
    good, calibration = pictures
    camera = ForeignCamera(watcher.node, load_camera(calibration))
    pose = graph(tmp_path / "run", tmp_path, calibration).only(["pose"])

    def told(part: str, picture: Sequence[RGBImage], text: str) -> Callable[[], bool]:
        def sent_and_said() -> bool:
            camera.send(picture[camera.stamp % len(picture)], text)
            status = watcher.diagnostics.get("/hand0/pose", DiagnosticStatus())
            return bool(status.message) and part in status.message

        return sent_and_said

    def silent() -> bool:
        camera.wait()
        return watcher.said("pose", "camera front: no picture for 0.5")

    small = [np.ascontiguousarray(picture[:240, :320]) for picture in good]
    with Supervisor(pose, log_directory=tmp_path / "log"):
        watcher.wait(lambda: camera.image.get_subscription_count(), "the pose node is there")
        watcher.wait(told("camera front: format is 'h264', must be such as", good, "h264"), "format")
        watcher.wait(told("inputs refused", good, FORMAT), "well again: what was refused is only a warning")
        watcher.wait(silent, "silence")
        watcher.wait(told("inputs refused", good, FORMAT), "well again")
        watcher.wait(told("picture is 320x240, the calibration is for 640x480", small, FORMAT), "size")
    assert watcher.count("pose", "faults_front") == 3
    assert "format is 'h264'" in (tmp_path / "log" / "pose.log").read_text()
