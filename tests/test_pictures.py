"""Pictures in the observation: the graph with `pictures:=...`, and a camera that goes away."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import HandState, ObjectState, Observation

from softflow_bringup.episodes import BagWatch, run_graph
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_node.messages import floats32, from_stamp, to_stamp
from softflow_node.node import latched, reliable, stream
from softflow_node.pictures import decode
from softflow_perception.camera.messages import to_image
from softflow_recorder.bag import read_episode, read_messages
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
CAMERAS = "front", "wrist"
TOPICS = {name: f"/hand0/camera/{name}/image/compressed" for name in CAMERAS}
TOPIC = TOPICS["front"]
PERIOD = 50_000_000
"""[ns]"""
TIMEOUT = 60.0


class Robot:
    """A hand at rest, its objects, and a camera that may be silent."""

    def __init__(self, context: Context) -> None:
        self.task, self.step, self.last = make_task("ToolCut-v0"), -1, 0
        self.node = node = Node("robot", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(node)
        self.hand = node.create_publisher(HandState, "/hand0/hand_state", stream())
        self.object = node.create_publisher(ObjectState, "/hand0/object_state", stream())
        self.image = node.create_publisher(CompressedImage, TOPIC, stream())
        self.seen: list[Observation] = []
        self.health: list[DiagnosticArray] = []
        self.status = DiagnosticStatus()
        node.create_subscription(Observation, "/hand0/observation", self.seen.append, stream())
        node.create_subscription(DiagnosticArray, "/hand0/camera_health", self.health.append, latched())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(10))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/hand0/perception":
                self.status = status

    @property
    def counters(self) -> dict[str, str]:
        return {v.key: v.value for v in self.status.values}

    def act(self, pictures: bool) -> None:
        """One control step of robot and host."""
        self.step += 1
        stamp = to_stamp((self.step + 1) * PERIOD)
        for name in self.task.objects:
            thing = ObjectState(object_name=name, valid=True, step=self.step)
            thing.pose.orientation.w, thing.header.stamp = 1.0, stamp
            self.object.publish(thing)
        joints, actions = np.zeros(len(self.task.joint_names)), np.zeros(self.task.action_dim)
        hand = HandState(episode_id="e", step=self.step, position=floats32(joints), velocity=floats32(joints))
        hand.applied_action, hand.command, hand.header.stamp = floats32(actions), floats32(joints), stamp
        self.hand.publish(hand)
        if pictures:
            self.last = self.step
            self.image.publish(to_image("front", b"%d" % self.step, from_stamp(stamp)))
        until = time.monotonic() + PERIOD / 1e9
        while time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.01)

    def until(self, condition: Callable[[], Any], what: str, pictures: bool) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, (what, self.status, len(self.seen))
            self.act(pictures)


def test_a_camera_that_falls_silent_is_named_and_its_states_are_left_out(tmp_path: Path) -> None:
    context = Context()
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        rclpy.init(context=context)
        robot = Robot(context)
        graph = load_graph("robot", {"run": str(tmp_path), "task": "ToolCut-v0", "pictures": "front"})
        alone = graph.only(["perception"])
        alone = dataclasses.replace(alone, nodes=tuple(node.unrecorded() for node in alone.nodes))
        with Supervisor(alone, log_directory=tmp_path / "log"):
            robot.until(lambda: len(robot.seen) >= 5, "observations", pictures=True)
            dark = robot.last + 1
            robot.until(lambda: "front last came" in robot.status.message, "it is named", pictures=False)
            robot.until(lambda: "no picture for" in robot.status.message, "so is its fault", pictures=False)
            assert "no observation for" in robot.status.message
            assert int(robot.counters["late_front"]) > 0 and int(robot.counters["faults_front"]) == 1
            light = robot.step + 1
            ok = DiagnosticStatus.OK
            robot.until(lambda: robot.health[-1].status[0].level == ok, "well again", pictures=True)
            robot.until(lambda: robot.seen[-1].step > light, "observations go on", pictures=True)
        rclpy.shutdown(context=context)
    assert any("no picture for" in h.status[0].message for h in robot.health)
    assert not {message.step for message in robot.seen} & set(range(dark, light))
    for message in robot.seen:
        assert list(message.images) == [f"{TOPIC}@{(message.step + 1) * PERIOD}"]


def test_each_state_of_an_episode_has_its_own_picture(tmp_path: Path) -> None:
    """In lock step: one of each camera, drawn from just that state, named in the observation and in the bag, once."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        arguments = {"task": "ToolCut-v0", "speed": "max", "run": tmp_path, "episodes": 1}
        arguments["pictures"] = "+".join(CAMERAS)
        run_graph("record_demos", arguments, tmp_path / "log", lambda: True, time.sleep)
    (summary,) = BagWatch(tmp_path / "bags").summaries()
    episode = read_episode(summary.path)
    assert set(episode.images) == set(CAMERAS)
    for pictures in episode.images.values():
        assert len(pictures) == episode.steps + 1 and len(set(pictures)) == len(pictures)
        assert {np.shape(decode(data)) for data in pictures} == {(480, 640, 3)}
    recorded: dict[tuple[str, int], bytes] = {}
    named: dict[int, tuple[int, list[str]]] = {}
    states: dict[int, int] = {}
    for topic, _, m in read_messages(summary.path):
        if topic in TOPICS.values():
            stamp = from_stamp(m.header.stamp)
            assert (topic, stamp) not in recorded
            recorded[topic, stamp] = bytes(m.data)
        elif topic == "/hand0/observation":
            assert list(m.sensor_names) == [
                "hand_state",
                "tool",
                "tool_arm",
                "tape_left",
                "tape_right",
                *CAMERAS,
            ]
            assert len({from_stamp(s) for s in m.sensor_stamps}) == 1
            named[m.step] = from_stamp(m.header.stamp), list(m.images)
        elif topic == "/hand0/hand_state":
            states[m.step] = from_stamp(m.header.stamp)
    # The world plays on until the teacher knows that the episode has ended: what is recorded goes further.
    assert set(named) >= set(range(episode.steps + 1)) and sorted(named) == list(range(len(named)))
    for step, (stamp, images) in named.items():
        assert stamp == states[step] and images == [f"{topic}@{stamp}" for topic in TOPICS.values()]
        for name, topic in TOPICS.items():
            if step <= episode.steps:
                assert episode.images[name][step] == recorded[topic, stamp]
