"""Keyboard, gamepad and the teleoperation node, in one process: who has the hand, and who stops it."""

from __future__ import annotations

import os
import pty
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import domain_coordinator
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Joy
from softflow_msgs.msg import HandDescription, HandHealth, HandState
from softflow_msgs.srv import EStop

from softflow_node.messages import floats32, floats64
from softflow_node.node import SoftflowNode, latched, stream
from softflow_tasks import make_task
from softflow_teleop.keyboard.node import PERIOD, KeyboardNode
from softflow_teleop.keyboard.terminal import Terminal
from softflow_teleop.node import TeleopNode

pytestmark = pytest.mark.ros
HAND = make_task("CubeRotation-v0").hand
TIMEOUT = 20.0
WELL = HandHealth(mode=HandHealth.MODE_ACTIVE)


class Robot:
    """A hand that says what and how it is, and the nodes beside it."""

    def __init__(self) -> None:
        self.node = Node("robot", namespace="/hand0")
        self.executor = SingleThreadedExecutor()
        self.nodes: list[Node] = []
        self.add(self.node)
        self.descriptions = self.node.create_publisher(HandDescription, "hand_description", latched())
        self.states = self.node.create_publisher(HandState, "hand_state", stream())
        self.health = self.node.create_publisher(HandHealth, "hand_health", latched())

    def add(self, node: Node) -> None:
        self.nodes.append(node)
        self.executor.add_node(node)

    def describe(self) -> None:
        message = HandDescription(
            hand=HAND.name,
            joint_names=HAND.joint_names,
            lower=floats64(HAND.lower),
            upper=floats64(HAND.upper),
            max_velocity=floats64(HAND.max_velocity),
        )
        self.descriptions.publish(message)
        self.health.publish(WELL)

    def until(self, condition: Callable[[], Any], *polled: SoftflowNode[Any]) -> None:
        """Run all nodes; only the `polled` ones do what they do by themselves."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end
            for node in polled:
                node.poll()
            self.states.publish(HandState(command=floats32(HAND.lower)))
            self.executor.spin_once(timeout_sec=0.01)


@pytest.fixture
def robot() -> Iterator[Robot]:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        rclpy.init(args=["--ros-args", "-r", "__ns:=/hand0"])
        found = Robot()
        try:
            yield found
        finally:
            for node in found.nodes:
                node.destroy_node()
            rclpy.shutdown()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is written to this file is typed in the terminal of this process."""
    ours, theirs = pty.openpty()
    with open(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        yield ours
    os.close(ours)


class Person:
    """Holds the hand by the keys of a terminal."""

    def __init__(self, robot: Robot, terminal: Terminal, keys: int) -> None:
        self.robot, self.keys = robot, keys
        self.keyboard, self.teleop = KeyboardNode(terminal), TeleopNode()
        robot.add(self.keyboard)
        robot.add(self.teleop)
        robot.describe()
        self.take()

    def take(self) -> None:
        keyboard, teleop = self.keyboard, self.teleop
        self.robot.until(lambda: keyboard._take.service_is_ready() and keyboard._state and teleop._ready())
        os.write(self.keys, b"t")
        self.robot.until(lambda: keyboard.jog is not None and teleop.takeover.holding, keyboard, teleop)

    def goes_on(self) -> None:
        """Both nodes do what they do, for longer than the keyboard waits between two messages."""
        until = time.monotonic() + 5 * PERIOD
        self.robot.until(lambda: time.monotonic() > until, self.keyboard, self.teleop)


def test_a_hand_that_was_down_is_taken_again_by_the_key_alone(
    robot: Robot, keys: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Terminal() as terminal:
        person = Person(robot, terminal, keys)
        keyboard, takeover = person.keyboard, person.teleop.takeover
        robot.health.publish(HandHealth(mode=HandHealth.MODE_ACTIVE, faults=["too hot"]))
        robot.until(lambda: keyboard.jog is None and not takeover.holding, keyboard, person.teleop)
        assert "given back: fault: too hot" in capsys.readouterr().out
        robot.health.publish(WELL)
        robot.until(lambda: keyboard._hold.why == "")
        person.goes_on()
        assert takeover.taken == 1 and not takeover.holding
        person.take()
        assert takeover.taken == 2


def test_after_a_pause_the_keyboard_does_not_take_the_hand_by_itself(
    robot: Robot, keys: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Terminal() as terminal:
        person = Person(robot, terminal, keys)
        takeover = person.teleop.takeover
        robot.until(lambda: not takeover.holding, person.teleop)  # and the keyboard is stopped
        person.goes_on()
        assert takeover.taken == 1 and not takeover.holding
        assert "given back: the keyboard said nothing for" in capsys.readouterr().out
        person.take()
        assert takeover.taken == 2


@pytest.mark.parametrize("known", [True, False], ids=["crashed", "ended"])
def test_teleop_that_is_started_anew_is_not_told_a_pose_of_before(
    robot: Robot, keys: int, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    """The middleware still knows one that crashed when the next one comes up."""
    with Terminal() as terminal:
        person = Person(robot, terminal, keys)
        robot.executor.remove_node(person.teleop)
        if not known:
            person.teleop.destroy_node()
            robot.until(lambda: not person.keyboard._take.service_is_ready())
            person.keyboard.poll()
        person.teleop = TeleopNode()
        robot.add(person.teleop)
        robot.until(person.teleop._ready, person.keyboard)
        person.goes_on()
        assert person.teleop.takeover.taken == 0
        said = "teleop was started anew" if known else "teleop is not there any more"
        assert f"given back: {said}" in capsys.readouterr().out
        person.take()
        assert person.teleop.takeover.taken == 1


def test_the_gamepads_stop_waits_neither_for_the_hand_nor_for_all_axes(robot: Robot) -> None:
    stops: list[str] = []

    def stop(request: EStop.Request, response: EStop.Response) -> EStop.Response:
        stops.append(request.reason)
        return response

    robot.node.create_service(EStop, "estop", stop)
    teleop = TeleopNode()
    robot.add(teleop)
    robot.until(teleop._estop.service_is_ready)
    assert teleop.limits is None and teleop.gamepad is not None
    button = teleop.gamepad.mapping.buttons["estop"]

    def joy(*pressed: int) -> None:
        """Of a gamepad with six axes; the map of the hand reads the eighth."""
        teleop._on_joy(Joy(axes=[0.0] * 6, buttons=[int(i in pressed) for i in range(8)]))

    joy(button)
    joy(button)
    robot.until(lambda: stops)
    robot.describe()
    robot.until(teleop._ready)
    joy()
    joy(button)
    joy(button)
    robot.until(lambda: len(stops) > 1)
    assert teleop.counters["refused_joy"] == 3 and not teleop.takeover.holding
    assert stops == ["a human, by the gamepad"] * 2
