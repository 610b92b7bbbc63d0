"""What tests of the driver node share: the node as a process, and a node beside it that sees and asks all there is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from softflow_msgs.action import Calibrate, Home, ResetScene, Tension
from softflow_msgs.msg import ActionChunk, ChunkResult, HandDescription, HandHealth, HandState
from softflow_msgs.srv import EStop, Lease, RecoverHand, ResetEStop, SetMode
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hand_driver.actions import JointActions
from hand_driver.hand_spec import HandSpec
from softflow_node.messages import floats32, to_stamp
from softflow_node.node import latched, reliable, stream

TIMEOUT = 30.0
SERVICES = {
    "estop": EStop,
    "reset_estop": ResetEStop,
    "set_mode": SetMode,
    "recover_hand": RecoverHand,
    "lease": Lease,
    "hand_driver/change_state": ChangeState,
    "hand_driver/get_state": GetState,
}
ACTIONS = {"home": Home, "calibrate": Calibrate, "tension": Tension, "reset_scene": ResetScene}


class Driver:
    """One driver node in a process, and everything it says since it was started."""

    def __init__(self, context: Context, spec: HandSpec, namespace: str, **parameters: object) -> None:
        self.spec, self.namespace, self.parameters = spec, namespace, parameters
        self.node = Node("probe", namespace=namespace, context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.states: list[HandState] = []
        self.joints: list[JointState] = []
        self.results: list[ChunkResult] = []
        self.events: list[str] = []
        self.descriptions: list[HandDescription] = []
        self.health = HandHealth()
        self.status: dict[str, str] = {}
        self.complaint = ""
        """Of the driver on /diagnostics."""
        listen = self.node.create_subscription
        listen(HandState, "hand_state", self.states.append, stream())
        listen(JointState, "joint_states", self.joints.append, reliable(100))
        listen(ChunkResult, "chunk_result", self.results.append, stream())
        listen(HandDescription, "hand_description", self.descriptions.append, latched())
        listen(HandHealth, "hand_health", self._on_health, latched())
        listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(10))
        listen(TransitionEvent, "hand_driver/transition_event", self._on_event, reliable(10))
        self.chunks = self.node.create_publisher(ActionChunk, "action_chunk", reliable(10))
        self.targets = self.node.create_publisher(JointState, "joint_targets", reliable(10))
        self.trajectory = self.node.create_publisher(JointTrajectory, "joint_trajectory", reliable(10))
        self.services = {name: self.node.create_client(kind, name) for name, kind in SERVICES.items()}
        self.actions = {name: ActionClient(self.node, kind, name) for name, kind in ACTIONS.items()}
        self.feedback: list[Any] = []
        self.ids = 0
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start the process, and wait for what it says first."""
        command = [sys.executable, "-m", "hand_driver.node", "--ros-args", "-r", f"__ns:={self.namespace}"]
        for name, value in self.parameters.items():
            command += ["-p", f"{name}:={value}"]
        self.process = subprocess.Popen(command)
        self.states.clear()
        self.descriptions.clear()
        waits = self.parameters.get("autostart") == "false"
        self.until(
            lambda: self.services["estop"].service_is_ready() if waits else self.descriptions, "a start"
        )

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT)

    def _on_health(self, message: HandHealth) -> None:
        self.health = message

    def _on_event(self, message: TransitionEvent) -> None:
        self.events.append(message.goal_state.label)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{self.namespace}/hand_driver":
                self.status = {v.key: v.value for v in status.values}
                self.complaint = status.message

    def until(self, condition: Callable[[], Any], what: str, limit: float = TIMEOUT) -> None:
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, f"never: {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def see(self, steps: int) -> list[HandState]:
        """The states of so many further control steps."""
        first = len(self.states)
        self.until(lambda: len(self.states) >= first + steps, "the hand going on")
        return self.states[first : first + steps]

    def ask(self, service: str, **request: Any) -> Any:
        """The answer of a service; one that is lost with a process is asked for again."""
        client = self.services[service]
        answers: list[Any] = []
        for _ in range(6):
            self.until(client.service_is_ready, service)
            future = client.call_async(SERVICES[service].Request(**request))
            end = time.monotonic() + 5.0
            while not future.done() and time.monotonic() < end:
                self.executor.spin_once(timeout_sec=0.05)
            if future.done():
                answers.append(future.result())
                break
        assert answers, f"{service} does not answer"
        return answers[0]

    def change(self, transition: int) -> bool:
        return bool(self.ask("hand_driver/change_state", transition=Transition(id=transition)).success)

    def begin(self, action: str, **goal: Any) -> Any:
        """A goal handle, of a goal that was accepted."""
        client = self.actions[action]
        self.until(client.server_is_ready, action)
        self.feedback.clear()
        future = client.send_goal_async(
            ACTIONS[action].Goal(**goal), feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        self.until(future.done, f"{action} accepted")
        assert future.result().accepted
        return future.result()

    def end(self, handle: Any) -> Any:
        """Status and result of a goal."""
        future = handle.get_result_async()
        self.until(future.done, "a result")
        return future.result()

    def act(self, action: str, **goal: Any) -> Any:
        return self.end(self.begin(action, **goal)).result

    def send_targets(
        self,
        positions: dict[str, float] | Sequence[float],
        holder: str = "",
        names: Sequence[str] | None = None,
    ) -> None:
        values = positions if not isinstance(positions, dict) else list(positions.values())
        given = list(positions) if isinstance(positions, dict) else list(names or self.spec.joint_names)
        message = JointState(name=given, position=array("d", values))
        message.header.frame_id = holder
        self.targets.publish(message)

    def send_trajectory(self, names: Sequence[str], *points: tuple[float, Sequence[float]]) -> None:
        rows = []
        for time_, position in points:
            sec, rest = divmod(time_, 1.0)
            since = Duration(sec=int(sec), nanosec=round(rest * 1e9))
            rows.append(JointTrajectoryPoint(positions=array("d", position), time_from_start=since))
        self.trajectory.publish(JointTrajectory(joint_names=list(names), points=rows))

    def move(self, names: Sequence[str], position: Sequence[float], seconds: float = 1.0) -> None:
        """Along a trajectory, until the hand is free again."""
        self.until(lambda: self.states, "states")
        first = len(self.states)
        self.send_trajectory(names, (seconds, position))
        self.until(
            lambda: any(s.source == "trajectory" for s in self.states[first:]), "the trajectory followed"
        )
        self.until(lambda: self.states[-1].source == "", "its end")

    def chunk(self, targets: Any, steps: int, **values: Any) -> ActionChunk:
        """One that asks for joint targets (J,)."""
        self.ids += 1
        at, actions = self.states[-1], JointActions(self.spec).joints_to_action(np.atleast_2d(targets))
        rows = np.repeat(actions, steps, axis=0)
        fields: dict[str, Any] = {
            "episode_id": at.episode_id,
            "chunk_id": self.ids,
            "obs_step": at.step,
            "source": "policy",
            "dt": self.spec.period,
            "horizon": steps,
            "action_dim": rows.shape[1],
            "actions": floats32(rows),
            "execute_steps": steps,
            "expiry": to_stamp(at.header.stamp.sec * 10**9 + at.header.stamp.nanosec + 2 * 10**9),
        }
        return ActionChunk(**{**fields, **values})

    def close(self) -> None:
        if self.process.poll() is None:
            assert self.stop() == 0
        self.node.destroy_node()


@contextmanager
def driver_alone(spec: HandSpec, **parameters: object) -> Iterator[Driver]:
    """A driver in a domain of its own, that ends well."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
        context = Context()
        rclpy.init(context=context)
        driver = Driver(context, spec, "/hand0", **parameters)
        try:
            yield driver
        finally:
            driver.close()
            rclpy.shutdown(context=context)


def publisher(namespace: str, topic: str, body: str) -> subprocess.Popen[bytes]:
    """A process that publishes until it is killed; `body` runs at 50 Hz and knows `node`, `probe` and `t` [s]."""
    program = f"""
import sys, time, math
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import rclpy
from array import array
from rclpy.node import Node
from sensor_msgs.msg import JointState
from softflow_node.node import reliable
rclpy.init()
node = Node("source", namespace={namespace!r})
pub = node.create_publisher(JointState, {topic!r}, reliable(10))
begin = time.monotonic()
while True:
    t = time.monotonic() - begin
    {body}
    rclpy.spin_once(node, timeout_sec=0.0)
    time.sleep(0.02)
"""
    return subprocess.Popen([sys.executable, "-c", program])


def commands(states: Sequence[HandState]) -> np.ndarray:
    """Joint targets (T, J)."""
    return np.array([s.command for s in states], dtype=np.float64)


def stays_within_slew(states: Sequence[HandState], spec: HandSpec) -> None:
    """No joint target moves by more than the speed limit in a period, whatever happened between two states."""
    moved = np.abs(np.diff(commands(states), axis=0))
    allowed = spec.values("max_velocity") * spec.period
    assert (moved <= allowed + 1e-6).all(), f"{moved.max()} rad in a period, allowed: {allowed}"


def pid_gone(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)
