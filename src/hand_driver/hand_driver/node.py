"""The driver node: one control loop around a hand, chunks in, states and results out."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer
from rclpy.action.server import ServerGoalHandle
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
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

from hand_driver.actions import JointActions
from hand_driver.backends import HandMismatchError, make_hand
from hand_driver.calibration import (
    Calibration,
    calibration_hash,
    load_calibration,
    save_calibration,
)
from hand_driver.commands.node import Commands
from hand_driver.control import Driver
from hand_driver.hand_file import HandFileError, hand_path, load_hand
from hand_driver.histogram import Histogram
from hand_driver.lifecycle.node import Managed
from hand_driver.loop import ControlLoop
from hand_driver.messages import (
    from_chunk,
    to_description,
    to_hand_state,
    to_health,
    to_joint_state,
    to_object_state,
    to_refusal,
    to_result,
)
from hand_driver.operate.node import Operations
from hand_driver.pacing import Pacer, parse_speed
from hand_driver.parameters import DriverParameters
from hand_driver.playback import Playing
from hand_driver.safety import Refusal
from hand_driver.safety_core import Mode
from hand_driver.urgency import make_urgent
from softflow_node.messages import to_stamp
from softflow_node.node import SoftflowNode, latched, reliable, run_node
from softflow_node.parameters import ParameterError
from softflow_tasks import make_task

REPEAT_STATE = 0.25
"""[s] wall time after which a world that waits for a chunk says its state again."""
SILENCE = 5.0
"""[s] wall time after which it says that it waits."""


class DriverNode(Managed, SoftflowNode[DriverParameters]):
    """Plays chunks at the control rate; see `ChunkPlayback` for what is accepted and `Pacer` for when.

    Steps are made in the thread of `ControlLoop`, all callbacks run between two steps. Unconfigured it has let go of
    the hand, inactive it holds it, active it follows.
    """

    def __init__(self) -> None:
        self.loop = ControlLoop(self._step_if_due, self._before_first_step)
        SoftflowNode.__init__(self, "hand_driver", DriverParameters)
        Managed.__init__(self, self.loop.exclusive)
        p = self.params
        self.driver = self._make_driver()
        self.spec = self.driver.spec
        try:
            speed = parse_speed(p.speed)
        except ValueError as error:
            raise ParameterError(f"{self.get_name()}: parameter 'speed': {error}") from error
        if self.driver.real and (speed != 1.0 or p.lock_step == "true"):
            raise ParameterError(
                f"{self.get_name()}: parameters 'speed' and 'lock_step' are {p.speed} and {p.lock_step}; "
                "a real hand runs at 1 and false or auto"
            )
        self.period = self.spec.period
        self.lock_step = p.lock_step == "true" or (p.lock_step == "auto" and math.isinf(speed))
        self.pacer = Pacer(0.0 if math.isinf(speed) else self.period / speed)
        self.mode_reason = "started"
        self.late = Histogram()
        self._said_at = self._complained_at = 0.0
        self._said: tuple[int, str] = (-1, "")
        self._to_activate = False
        self._wire()
        self.commands, self.operations = Commands(self), Operations(self)
        if p.autostart:
            self._start()
        self.publish_health()

    def _make_driver(self) -> Driver:
        """Of the parameters; the hand is not touched. Raises ParameterError."""
        p = self.params
        task = make_task(p.task) if p.task else None
        name = p.hand or (task.hand.name if task else "")
        if not name:
            raise ParameterError(
                f"{self.get_name()}: parameter 'hand' is empty, must be given without a task"
            )
        try:
            spec = load_hand(name)
            self.calibration_path = Path(p.calibration or hand_path(name).with_suffix(".calibration"))
            return Driver(make_hand(spec, p.backend, task), spec, task or JointActions(spec))
        except (HandFileError, HandMismatchError) as error:
            raise ParameterError(f"{self.get_name()}: parameter 'hand': {error}") from error

    def _start(self) -> None:
        """Configure, and activate as soon as the pose can be compared with the calibration. Raises ParameterError."""
        self.trigger_configure()
        if self.failure:
            raise ParameterError(f"{self.get_name()}: parameter 'hand': {self.failure}")
        self._to_activate = self.driver.calibration is not None
        if not self._to_activate:
            self.trigger_activate()

    def _each_second(self) -> None:
        if self._to_activate and self.driver.stands:
            self._to_activate = False
            if self.lifecycle_state == "inactive":
                self.trigger_activate()
        self.publish_health()

    def configure(self) -> None:
        """Reach for the hand, and hold it where it is. Raises OSError, CalibrationError."""
        driver = self.driver
        driver.calibration, digest = load_calibration(self.calibration_path, self.spec)
        try:
            driver.start(time.monotonic())
        except OSError:
            driver.close()
            raise
        driver.stand("inactive")
        if driver.simulated:
            driver.calibration = None
        self.pacer.start(time.monotonic() + self.pacer.period)
        self._describe(digest)

    def activate(self) -> None:
        """Follow, once the pose is verified. Raises Refusal."""
        self.driver.verify()
        self.driver.safety.follow()

    def deactivate(self) -> None:
        """Hold; whoever had the hand has it no more."""
        self._publish_result(self.driver.stand("inactive"), ChunkResult.STOPPED, "deactivated")

    def clean_up(self) -> None:
        """Let go of the hand."""
        if self.lifecycle_state == "unconfigured" or not self.driver.has_read:
            return
        self._publish_result(self.driver.stand("not configured"), ChunkResult.STOPPED, "driver lets go")
        self.driver.close()

    def said(self, text: str) -> None:
        """A transition of the lifecycle was made or refused."""
        self.mode_reason = text
        if self.failure:
            self.counters["refused_transition"] += 1
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)
        if hasattr(self, "operations"):
            self.publish_health()

    def fault(self) -> str:
        """On /diagnostics: what a person has to look after."""
        faults = [fault.text for fault in self.driver.safety.faults.values()]
        return "; ".join(faults) or self.failure

    def check_active(self) -> None:
        """Raises Refusal unless the hand may be moved."""
        if not self.active:
            raise Refusal(
                f"the driver is {self.lifecycle_state}: {self.failure or 'change_state activates it'}"
            )

    def calibrated(self, measured: Calibration) -> str:
        """Put a calibration in force and write it; returns the hash of hand and calibration. Raises OSError."""
        digest = save_calibration(self.calibration_path, measured)
        self.driver.calibration = measured
        return self._describe(digest)

    def _describe(self, file_hash: str) -> str:
        driver = self.driver
        digest = calibration_hash(self.spec, file_hash)
        self.description_pub.publish(
            to_description(driver.hand.description, self.spec, digest, driver.robot_ns)
        )
        return digest

    def _wire(self) -> None:
        self.description_pub = self.create_publisher(HandDescription, "hand_description", latched())
        self.health_pub = self.create_publisher(HandHealth, "hand_health", latched())
        self.joint_pub = self.create_publisher(JointState, "joint_states", reliable(10))
        self.state_pub = self.create_recorded_publisher(HandState, "hand_state")
        self.object_pub = self.create_recorded_publisher(ObjectState, "object_state")
        self.result_pub = self.create_recorded_publisher(ChunkResult, "chunk_result")
        clock = self.params.clock_topic
        self.clock_pub = self.create_publisher(Clock, clock, reliable(10)) if clock else None
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, reliable(2))
        self.create_subscription(PolicyManifest, "active_policy", self._on_policy, latched(10))
        self.create_timer(1.0, self._each_second)
        on_reset = self.loop.exclusive(self._on_reset)
        self._reset_server = ActionServer(self, ResetScene, "reset_scene", on_reset)

    @property
    def mode(self) -> int:
        """As HandHealth names it."""
        if self.driver.safety.estop_reason:
            return int(HandHealth.MODE_ESTOP)
        if not self.active:
            return int(HandHealth.MODE_INACTIVE)
        if self.driver.at.mode is Mode.RELAX:
            return int(HandHealth.MODE_RELAX)
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
        away = self.lifecycle_state not in ("inactive", "active")
        if away or (not self.driver.at.episode_id and self.driver.simulated):
            return now + 1.0
        if now < self.pacer.due:
            return self.pacer.due
        idle = self.driver.playback.steps_left == 0 and not self.driver.moving
        if self.lock_step and idle and self.mode == HandHealth.MODE_ACTIVE:
            return self._wait_for_chunk(now)
        late = self.pacer.advance(now)
        if not self.lock_step:
            self.late.add(late)
        self._control_step()
        return self.pacer.due

    def idle(self) -> float:
        """A real hand is held from the moment of its connection on."""
        return self.poll()

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
            self.publish_health()
        self._publish_state()
        if outcome.done is not None:
            self._publish_result(outcome.done, ChunkResult.COMPLETED)
        reason = outcome.decision.refused or self.driver.safety.why_not()
        reason = reason or f"{self.driver.at.source or 'nobody'} has the hand"
        self._publish_result(outcome.stopped, ChunkResult.STOPPED, reason)

    def _publish_state(self) -> None:
        self._said_at = time.monotonic()
        driver = self.driver
        if self.clock_pub is not None:
            self.clock_pub.publish(Clock(clock=to_stamp(driver.robot_ns)))
        if self.joint_pub.get_subscription_count():
            names = list(self.spec.joint_names)
            self.joint_pub.publish(to_joint_state(driver.at, driver.reading, names))
        for obj in driver.reading.objects:
            self.object_pub.publish(to_object_state(driver.at, obj))
        self.state_pub.publish(
            to_hand_state(driver.at, driver.reading, driver.playback.chunk_id, driver.playback.steps_left)
        )
        if (self.mode, driver.safety.lease.holder) != self._said:
            self.publish_health()

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
        elif not self.active:
            result.message = f"the driver is {self.lifecycle_state}; change_state activates it"
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

    def mode_changed(self, reason: str) -> None:
        """Somebody has decided on the mode: say it, and end what is played where it is not followed any more."""
        self.mode_reason = reason
        self.get_logger().info(f"mode {self.mode}: {reason}")
        if self.mode != HandHealth.MODE_ACTIVE:
            self._publish_result(self.driver.playback.flush(), ChunkResult.STOPPED, reason)
        self.publish_health()

    def publish_health(self) -> None:
        """Now, beside once a second."""
        self._tally()
        mode, reason = self.mode, self.mode_reason
        if mode == HandHealth.MODE_RELAX and not self.driver.safety.blocked:
            reason = f"nothing to follow for {self.spec.safety.starve_relax} s"
        message = to_health(self.driver, mode, reason, time.monotonic())
        message.refused_chunks = self.counters["refused_action_chunk"]
        for topic in ("joint_targets", "joint_trajectory"):
            message.refused_targets += self.counters[f"refused_{topic}"]
        self._said = message.mode, message.holder
        self.health_pub.publish(message)

    def _tally(self) -> None:
        """Bring the counters up to now."""
        if not self.lock_step:
            self.counters["missed_ticks"] = self.pacer.missed
        self.counters.update({k: v - self.counters[k] for k, v in self.driver.counters.items()})

    def figures(self) -> dict[str, str]:
        """Histograms of the loop, of chunks on their way to the hand, and of the bus; counters of the same moment."""
        self._tally()
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
        if self.lifecycle_state in ("inactive", "active"):
            self._publish_result(self.driver.close(), ChunkResult.STOPPED, "driver stops")


def main() -> None:
    """Entry point of `driver_node`."""
    sys.exit(run_node(DriverNode))


if __name__ == "__main__":
    main()
