"""The driver node: one control loop around a hand, chunks in, states and results out."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionServer
from rclpy.action.server import ServerGoalHandle
from rosgraph_msgs.msg import Clock
from softflow_msgs.action import ResetScene
from softflow_msgs.msg import (
    ActionChunk,
    ChunkResult,
    HandDescription,
    HandHealth,
    HandState,
    ObjectState,
    PolicyManifest,
)
from softflow_msgs.srv import EStop, ResetEStop, SetMode

from hand_driver.backends import HandMismatchError, backend_names, make_hand
from hand_driver.control import Driver, JointActions
from hand_driver.hand_file import HandFileError, load_hand
from hand_driver.histogram import Histogram
from hand_driver.loop import ControlLoop
from hand_driver.messages import (
    from_chunk,
    to_description,
    to_hand_state,
    to_object_state,
    to_refusal,
    to_result,
)
from hand_driver.pacing import Pacer, parse_speed
from hand_driver.playback import Playing
from hand_driver.safety import Refusal
from hand_driver.urgency import make_urgent
from softflow_node.messages import floats32, to_stamp
from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_tasks import make_task, task_ids

REPEAT_STATE = 0.25
"""[s] wall time after which a world that waits for a chunk says its state again."""
SILENCE = 5.0
"""[s] wall time after which it says that it waits."""


@dataclass(frozen=True)
class DriverParameters:
    """Parameters of the driver node."""

    hand: str = bounded("", doc="name in config/hands or path of a YAML file; empty: the task's hand")
    backend: str = bounded("", choices=("", *backend_names()), doc="empty: the one of the hand's file")
    task: str = bounded(
        "CubeRotation-v0",
        choices=("", *task_ids()),
        doc="maps actions to joint targets; empty: an action for each joint, from its lower to its upper limit",
    )
    speed: str = bounded("1", doc="simulated clock against wall clock: a number or 'max'")
    lock_step: str = bounded(
        "auto", choices=("auto", "true", "false"), doc="the world waits for the policy; auto: at max"
    )
    clock_topic: str = bounded("clock", doc="where the robot clock goes; empty = nowhere")


class DriverNode(SoftflowNode[DriverParameters]):
    """Plays chunks at the control rate; see `ChunkPlayback` for what is accepted and `Pacer` for when.

    Steps are made in the thread of `ControlLoop`, all callbacks run between two steps.
    """

    def __init__(self) -> None:
        self.loop = ControlLoop(self._step_if_due, self._before_first_step)
        super().__init__("hand_driver", DriverParameters)
        p = self.params
        try:
            speed = parse_speed(p.speed)
        except ValueError as error:
            raise ParameterError(f"{self.get_name()}: parameter 'speed': {error}") from error
        task = make_task(p.task) if p.task else None
        name = p.hand or (task.hand.name if task else "")
        if not name:
            raise ParameterError(
                f"{self.get_name()}: parameters 'hand' and 'task' are empty, one must not be"
            )
        try:
            spec = load_hand(name)
            hand = make_hand(spec, p.backend, task)
            self.driver = Driver(hand, spec, task or JointActions(spec))
            self.driver.start(time.monotonic())
        except (HandFileError, HandMismatchError, OSError) as error:
            raise ParameterError(f"{self.get_name()}: parameter 'hand': {error}") from error
        if self.driver.real and (speed != 1.0 or p.lock_step == "true"):
            raise ParameterError(
                f"{self.get_name()}: parameters 'speed' and 'lock_step' are {p.speed} and {p.lock_step}; "
                "a real hand runs at 1 and false or auto"
            )
        self.period = spec.period
        self.lock_step = p.lock_step == "true" or (p.lock_step == "auto" and math.isinf(speed))
        self.pacer = Pacer(0.0 if math.isinf(speed) else self.period / speed)
        self.mode_reason = "started"
        self.late = Histogram()
        self._said_at = self._complained_at = 0.0
        self._wire()
        self.description_pub.publish(to_description(hand.description, spec.digest(), self.driver.robot_ns))
        self._publish_health()

    def _wire(self) -> None:
        self.description_pub = self.create_publisher(HandDescription, "hand_description", latched())
        self.health_pub = self.create_publisher(HandHealth, "hand_health", latched())
        self.state_pub = self.create_publisher(HandState, "hand_state", stream())
        self.object_pub = self.create_publisher(ObjectState, "object_state", stream())
        self.result_pub = self.create_publisher(ChunkResult, "chunk_result", stream())
        clock = self.params.clock_topic
        self.clock_pub = self.create_publisher(Clock, clock, reliable(10)) if clock else None
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, reliable(2))
        self.create_subscription(PolicyManifest, "active_policy", self._on_policy, latched(10))
        self.create_service(EStop, "estop", self._on_estop)
        self.create_service(ResetEStop, "reset_estop", self._on_reset_estop)
        self.create_service(SetMode, "set_mode", self._on_set_mode)
        self.create_timer(1.0, self._publish_health)
        on_reset = self.loop.exclusive(self._on_reset)
        self._reset_server = ActionServer(self, ResetScene, "reset_scene", on_reset)

    @property
    def mode(self) -> int:
        """As HandHealth names it."""
        if self.driver.safety.estop_reason:
            return int(HandHealth.MODE_ESTOP)
        return int(HandHealth.MODE_HOLD if self.driver.safety.blocked else HandHealth.MODE_ACTIVE)

    def create_subscription(self, kind: Any, topic: str, callback: Any, *more: Any, **named: Any) -> Any:
        """As of a node; the callback has the hand for itself."""
        return super().create_subscription(kind, topic, self.loop.exclusive(callback), *more, **named)

    def create_service(self, kind: Any, name: str, callback: Any, **named: Any) -> Any:
        """As of a node; the callback has the hand for itself."""
        return super().create_service(kind, name, self.loop.exclusive(callback), **named)

    def create_timer(self, period: float, callback: Any, *more: Any, **named: Any) -> Any:
        """As of a node; the callback has the hand for itself."""
        return super().create_timer(period, self.loop.exclusive(callback), *more, **named)

    def poll(self) -> float:
        """Look after the control loop."""
        self.loop.tend()
        return 0.2

    def _before_first_step(self) -> None:
        # A world that waits, or goes as fast as it can, leaves no pause in which others would get a processor.
        if self.pacer.period > 0.0 and not self.lock_step and (why := make_urgent()):
            self.get_logger().info(f"the control loop has no real-time priority: {why}")
        self.pacer.start(time.monotonic())

    def _step_if_due(self) -> float:
        """Make a control step when one is due; returns when to be asked again."""
        now = time.monotonic()
        if not self.driver.at.episode_id and self.driver.simulated:
            return now + 1.0
        if now < self.pacer.due:
            return self.pacer.due
        if self.lock_step and self.driver.playback.steps_left == 0 and self.mode == HandHealth.MODE_ACTIVE:
            return self._wait_for_chunk(now)
        late = self.pacer.advance(now)
        if not self.lock_step:
            self.late.add(late)
        self._control_step()
        return self.pacer.due

    def _wait_for_chunk(self, now: float) -> float:
        # The policy may not have been there yet when the state was published.
        if now - self._said_at >= REPEAT_STATE:
            self.counters["states_repeated"] += 1
            self._publish_state()
        if now - self.pacer.due > SILENCE and now - self._complained_at > SILENCE:
            self._complained_at = now
            self.get_logger().warning(
                f"the world waits: no chunk for step {self.driver.at.step} for {now - self.pacer.due:.0f} s"
            )
        return self._said_at + REPEAT_STATE

    def _control_step(self) -> None:
        outcome = self.driver.step(time.monotonic())
        for event in outcome.decision.events:
            self.get_logger().warning(event)
        if outcome.decision.events:
            self.mode_reason = self.driver.safety.why_not() or outcome.decision.events[-1]
            self._publish_health()
        self._publish_state()
        if outcome.done is not None:
            self._publish_result(outcome.done, ChunkResult.COMPLETED)
        reason = outcome.decision.refused or self.driver.safety.why_not()
        self._publish_result(outcome.stopped, ChunkResult.STOPPED, reason)

    def _publish_state(self) -> None:
        self._said_at = time.monotonic()
        driver = self.driver
        if self.clock_pub is not None:
            self.clock_pub.publish(Clock(clock=to_stamp(driver.robot_ns)))
        for obj in driver.reading.objects:
            self.object_pub.publish(to_object_state(driver.at, obj))
        self.state_pub.publish(
            to_hand_state(driver.at, driver.reading, driver.playback.chunk_id, driver.playback.steps_left)
        )

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            if not self.driver.offer(from_chunk(message), time.monotonic(), self.loop.asked_at):
                self.counters["repeated_or_late_chunks"] += 1
        except Refusal as error:
            self.refuse("action_chunk", error)
            self.result_pub.publish(to_refusal(message, error, self.driver.robot_ns))

    def _on_policy(self, manifest: PolicyManifest) -> None:
        self.driver.playback.announce(manifest.version, manifest.sha256)

    def _on_reset(self, goal: ServerGoalHandle) -> ResetScene.Result:
        request = goal.request
        result = ResetScene.Result(ok=False)
        if not request.episode_id:
            result.message = "episode_id is empty, must be a uuid"
        elif self.mode == HandHealth.MODE_ESTOP:
            result.message = f"mode is estop ({self.mode_reason}); reset_estop lifts it"
        if result.message:
            goal.abort()
            return result
        cut = self.driver.begin(request.episode_id, request.seed, time.monotonic())
        self._publish_result(cut, ChunkResult.RESET, "scene was reset")
        self.pacer.start(time.monotonic() + self.pacer.period)
        self._publish_state()
        goal.succeed()
        result.ok = True
        return result

    def _publish_result(self, playing: Playing | None, reason: int, detail: str = "") -> None:
        if playing is not None:
            self.result_pub.publish(to_result(playing, reason, self.driver.robot_ns, detail))

    def _on_estop(self, request: EStop.Request, response: EStop.Response) -> EStop.Response:
        self.driver.safety.estop(request.reason)
        self._mode_changed(self.driver.safety.estop_reason)
        response.ok, response.message = True, f"stopped: {self.mode_reason}"
        return response

    def _on_reset_estop(
        self, request: ResetEStop.Request, response: ResetEStop.Response
    ) -> ResetEStop.Response:
        try:
            self.driver.safety.reset_estop(request.reason)
        except Refusal as error:
            response.message = str(error)
            return response
        self._mode_changed(request.reason)
        response.ok, response.message = True, "lifted"
        return response

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        allowed = (HandHealth.MODE_HOLD, HandHealth.MODE_ACTIVE)
        if self.mode == HandHealth.MODE_ESTOP:
            response.message = f"mode is estop ({self.mode_reason}); reset_estop lifts it"
        elif request.mode not in allowed:
            response.message = f"mode is {request.mode}, allowed: {allowed[0]} (hold), {allowed[1]} (active)"
        else:
            if request.mode == HandHealth.MODE_HOLD:
                self.driver.safety.hold(request.reason)
            else:
                self.driver.safety.follow()
            self._mode_changed(request.reason)
            response.ok, response.message = True, "set"
        return response

    def _mode_changed(self, reason: str) -> None:
        self.mode_reason = reason
        self.get_logger().info(f"mode {self.mode}: {reason}")
        if self.mode != HandHealth.MODE_ACTIVE:
            self._publish_result(self.driver.playback.flush(), ChunkResult.STOPPED, reason)
        self._publish_health()

    def _publish_health(self) -> None:
        if not self.lock_step:
            self.counters["missed_ticks"] = self.pacer.missed
        self.counters.update({k: v - self.counters[k] for k, v in self.driver.counters.items()})
        message = HandHealth(
            mode=self.mode,
            reason=self.mode_reason,
            temperature=floats32(self.driver.reading.temperature),
            faults=[fault.text for fault in self.driver.safety.faults.values()],
            starved_steps=self.counters["starved_steps"],
            refused_chunks=self.counters["refused_action_chunk"],
            clamped_values=self.counters["clamped_values"],
        )
        message.header.stamp = to_stamp(self.driver.robot_ns)
        self.health_pub.publish(message)

    def figures(self) -> dict[str, str]:
        """Histograms of the loop, of chunks on their way to the hand, and of the bus."""
        driver = self.driver
        return {
            key: value
            for name, times in (
                ("late", self.late),
                ("action_delay", driver.action_delay),
                ("bus_read", driver.read_time),
                ("bus_write", driver.write_time),
            )
            for key, value in times.figures(name)
        }

    def close(self) -> None:
        """Tell what was being played, then let go of the hand."""
        self.loop.stop()
        self._publish_result(self.driver.close(), ChunkResult.STOPPED, "driver stops")


def main() -> None:
    """Entry point of `driver_node`."""
    sys.exit(run_node(DriverNode))


if __name__ == "__main__":
    main()
