"""The driver node: one control loop around a hand, chunks in, states and results out."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
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

from hand_driver.backends import backend_names, make_hand
from hand_driver.messages import (
    Step,
    from_chunk,
    to_description,
    to_hand_state,
    to_object_state,
    to_refusal,
    to_result,
)
from hand_driver.pacing import Pacer, parse_speed
from hand_driver.playback import ChunkPlayback
from hand_driver.safety import Refusal, clamp_action, clamp_targets
from softflow_node.messages import NANOSECONDS, to_stamp
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

    backend: str = bounded("sim", choices=backend_names(), doc="which hand")
    task: str = bounded("CubeRotation-v0", choices=task_ids(), doc="maps actions to joint targets")
    speed: str = bounded("1", doc="simulated clock against wall clock: a number or 'max'")
    lock_step: str = bounded(
        "auto", choices=("auto", "true", "false"), doc="the world waits for the policy; auto: at max"
    )
    clock_topic: str = bounded("clock", doc="where the robot clock goes; empty = nowhere")


class DriverNode(SoftflowNode[DriverParameters]):
    """Plays chunks at the control rate; see `ChunkPlayback` for what is accepted and `Pacer` for when."""

    def __init__(self) -> None:
        super().__init__("hand_driver", DriverParameters)
        p = self.params
        try:
            speed = parse_speed(p.speed)
        except ValueError as error:
            raise ParameterError(f"{self.get_name()}: parameter 'speed': {error}") from error
        self.task = make_task(p.task)
        self.hand = make_hand(p.backend, p.task)
        self.hand.connect()
        d = self.hand.description
        self.period = 1.0 / d.control_rate
        self.lock_step = p.lock_step == "true" or (p.lock_step == "auto" and math.isinf(speed))
        self.pacer = Pacer(0.0 if math.isinf(speed) else self.period / speed)
        self.playback = ChunkPlayback(len(d.action_names), self.period)
        self.robot_ns = 0
        self.mode, self.mode_reason = HandHealth.MODE_ACTIVE, "started"
        # Until the first reset nothing is commanded.
        self.at = Step("", 0, 0, 0, self.task.rest_action(), self.hand.read().position, starved=False)
        self.late: deque[float] = deque(maxlen=10_000)
        self._said_at = self._complained_at = 0.0
        self._wire()
        self.description_pub.publish(to_description(d, self._calibration_hash(), self.robot_ns))
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
        self._reset_server = ActionServer(self, ResetScene, "reset_scene", self._on_reset)

    def poll(self) -> float:
        """Make a control step when one is due; returns seconds until the next."""
        if not self.at.episode_id:
            return 0.2
        now = time.monotonic()
        if now < self.pacer.due:
            return self.pacer.due - now
        if self.lock_step and self.playback.steps_left == 0 and self.mode == HandHealth.MODE_ACTIVE:
            return self._wait_for_chunk(now)
        self.late.append(self.pacer.advance(now))
        self._control_step()
        return max(0.0, self.pacer.due - time.monotonic())

    def _wait_for_chunk(self, now: float) -> float:
        # The policy may not have been there yet when the state was published.
        if now - self._said_at >= REPEAT_STATE:
            self.counters["states_repeated"] += 1
            self._publish_state()
        if now - self.pacer.due > SILENCE and now - self._complained_at > SILENCE:
            self._complained_at = now
            self.get_logger().warning(
                f"the world waits: no chunk for step {self.at.step} for {now - self.pacer.due:.0f} s"
            )
        return max(0.0, self._said_at + REPEAT_STATE - now)

    def _control_step(self) -> None:
        seconds = self.robot_ns / NANOSECONDS
        wanted = (
            self.playback.next_action(self.at.step, seconds) if self.mode == HandHealth.MODE_ACTIVE else None
        )
        starved = wanted is None
        if wanted is None:
            action, targets = self.task.held_action(self.at.applied), self.at.command
        else:
            clamped = clamp_action(wanted)
            action = clamped.value
            moved = self.task.action_to_joints(action, self.at.command)
            limited = clamp_targets(moved, self.hand.description, self.at.command, self.period)
            targets = limited.value
            self.counters["clamped_values"] += clamped.changed + limited.changed
        self.counters["control_steps"] += 1
        self.counters["expired_chunks"] = self.playback.expired
        self.counters["starved_steps"] += int(starved)
        sent = self.hand.command(targets)
        self.robot_ns += round(self.hand.wait_period() * NANOSECONDS)
        done = None if starved else self.playback.applied(action)
        self.at = Step(
            self.at.episode_id, self.at.seed, self.at.step + 1, self.robot_ns, action, sent, starved
        )
        self._publish_state()
        if done is not None:
            self.result_pub.publish(to_result(done, ChunkResult.COMPLETED, self.robot_ns))

    def _publish_state(self) -> None:
        self._said_at = time.monotonic()
        reading = self.hand.read()
        if self.clock_pub is not None:
            self.clock_pub.publish(Clock(clock=to_stamp(self.robot_ns)))
        for obj in reading.objects:
            self.object_pub.publish(to_object_state(self.at, obj))
        self.state_pub.publish(
            to_hand_state(self.at, reading, self.playback.chunk_id, self.playback.steps_left)
        )

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            if self.mode != HandHealth.MODE_ACTIVE:
                raise Refusal(
                    f"chunk_id {message.chunk_id}: mode is {self.mode} ({self.mode_reason}), must be active"
                )
            chunk = from_chunk(message)
            if not self.playback.offer(chunk, self.robot_ns / NANOSECONDS):
                self.counters["repeated_or_late_chunks"] += 1
        except Refusal as error:
            self.refuse("action_chunk", error)
            self.result_pub.publish(to_refusal(message, error, self.robot_ns))

    def _on_policy(self, manifest: PolicyManifest) -> None:
        self.playback.announce(manifest.version, manifest.sha256)

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
        self._flush(ChunkResult.RESET, "scene was reset")
        targets = self.hand.reset(request.seed)
        self.robot_ns += round(self.period * NANOSECONDS)
        rest = self.task.rest_action()
        self.at = Step(request.episode_id, request.seed, 0, self.robot_ns, rest, targets, starved=False)
        self.playback.begin(request.episode_id)
        self.pacer.start(time.monotonic() + self.pacer.period)
        self._publish_state()
        goal.succeed()
        result.ok = True
        return result

    def _flush(self, reason: int, detail: str) -> None:
        playing = self.playback.flush()
        if playing is not None:
            self.result_pub.publish(to_result(playing, reason, self.robot_ns, detail))

    def _on_estop(self, request: EStop.Request, response: EStop.Response) -> EStop.Response:
        self._set_mode(HandHealth.MODE_ESTOP, request.reason or "no reason given")
        response.ok, response.message = True, f"stopped: {self.mode_reason}"
        return response

    def _on_reset_estop(
        self, request: ResetEStop.Request, response: ResetEStop.Response
    ) -> ResetEStop.Response:
        if not request.reason.strip():
            response.message = "reason is empty, must say why it is safe to go on"
        elif self.mode != HandHealth.MODE_ESTOP:
            response.message = f"mode is {self.mode}, not estop"
        else:
            self._set_mode(HandHealth.MODE_ACTIVE, request.reason)
            response.ok, response.message = True, "lifted"
        return response

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        allowed = (HandHealth.MODE_HOLD, HandHealth.MODE_ACTIVE)
        if self.mode == HandHealth.MODE_ESTOP:
            response.message = f"mode is estop ({self.mode_reason}); reset_estop lifts it"
        elif request.mode not in allowed:
            response.message = f"mode is {request.mode}, allowed: {allowed[0]} (hold), {allowed[1]} (active)"
        else:
            self._set_mode(request.mode, request.reason)
            response.ok, response.message = True, "set"
        return response

    def _set_mode(self, mode: int, reason: str) -> None:
        self.mode, self.mode_reason = mode, reason
        self.get_logger().info(f"mode {mode}: {reason}")
        if mode != HandHealth.MODE_ACTIVE:
            self._flush(ChunkResult.STOPPED, reason)
        self._publish_health()

    def _publish_health(self) -> None:
        if self.late:
            for name, value in zip(
                ("p50", "p99", "max"), np.percentile(self.late, (50, 99, 100)), strict=True
            ):
                self.counters[f"late_{name}_us"] = round(1e6 * value)
        message = HandHealth(
            mode=self.mode,
            reason=self.mode_reason,
            starved_steps=self.counters["starved_steps"],
            refused_chunks=self.counters["refused_action_chunk"],
            clamped_values=self.counters["clamped_values"],
        )
        message.header.stamp = to_stamp(self.robot_ns)
        self.health_pub.publish(message)

    def _calibration_hash(self) -> str:
        d = self.hand.description
        parts: list[Any] = [d.hand, *d.joint_names, d.lower.tolist(), d.upper.tolist()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def close(self) -> None:
        """Tell what was being played, then let go of the hand."""
        self._flush(ChunkResult.STOPPED, "driver stops")
        self.hand.disconnect()


def main() -> None:
    """Entry point of `driver_node`."""
    sys.exit(run_node(DriverNode))


if __name__ == "__main__":
    main()
