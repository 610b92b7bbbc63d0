"""The teleoperation node: joint targets of a device, or a gamepad, into chunks that take the hand from a policy."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import JointState, Joy
from softflow_msgs.msg import ActionChunk, HandDescription, HandHealth, HandState, Observation, RewardLabel
from softflow_msgs.srv import EStop, Lease
from std_srvs.srv import SetBool, Trigger

from softflow_node.messages import numpy32
from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_tasks import make_task, task_ids
from softflow_tasks.hand_watch import why_not
from softflow_teleop.device_file import DeviceFileError, load_device_map
from softflow_teleop.gamepad import Gamepad
from softflow_teleop.joints import FloatArray, HandLimits, Jog, TargetError, merge_targets
from softflow_teleop.messages import SOURCE, from_description, to_chunk, to_label
from softflow_teleop.steering import Steering
from softflow_teleop.takeover import Takeover


@dataclass(frozen=True)
class TeleopParameters:
    """Parameters of the teleoperation node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids(), doc="turns joint targets into actions")
    take: str = bounded(
        "targets",
        choices=("targets", "command"),
        doc="what takes the hand: the first joint target, or only the service teleop/take",
    )
    silence: float = bounded(
        0.5, low=0.05, high=60.0, unit="s", doc="wall time without a target, then the hand is given back"
    )
    speed: float = bounded(0.7, low=0.01, high=20.0, unit="ranges/s", doc="of a joint at most")
    horizon: int = bounded(2, low=2, high=16, doc="actions in a chunk; the second one spares the hand a gap")
    expiry: float = bounded(1.0, low=0.05, high=5.0, unit="s", doc="a chunk is not started later than this")
    reward: float = bounded(1.0, low=-100.0, high=100.0, doc="of the step that a human marks")
    devices: str = bounded(
        "", doc="name in config/teleop or path of a YAML file; empty: the one of the task's hand"
    )


class TeleopNode(SoftflowNode[TeleopParameters]):
    """Answers the hand's states with chunks as long as a human has the hand; else it is silent."""

    def __init__(self) -> None:
        super().__init__("teleop", TeleopParameters)
        p = self.params
        self.task = make_task(p.task)
        try:
            self.devices = load_device_map(p.devices or self.task.hand.name)
        except DeviceFileError as error:
            raise ParameterError(f"{self.get_name()}: parameter 'devices': {error}") from error
        self.takeover = Takeover(p.silence, by_targets=p.take == "targets")
        self.gamepad = Gamepad(self.devices.gamepad) if self.devices.gamepad else None
        self.limits: HandLimits | None = None
        self.steering: Steering | None = None
        self.jog: Jog | None = None
        """Where the human wants the joints, while the hand is the human's."""
        self._state: HandState | None = None
        self._chunk: ActionChunk | None = None
        self._releasing = False
        self._observed = ""
        """Episode of which there is an observation."""
        self._wire()

    def _wire(self) -> None:
        self.chunk_pub = self.create_recorded_publisher(ActionChunk, "action_chunk")
        self.label_pub = self.create_recorded_publisher(RewardLabel, "reward_label")
        self.create_subscription(HandDescription, "hand_description", self._on_description, latched())
        self.create_subscription(HandHealth, "hand_health", self._on_health, latched())
        self.create_subscription(HandState, "hand_state", self._on_state, stream())
        self.create_subscription(Observation, "observation", self._on_observation, stream())
        self.create_subscription(JointState, "teleop/joint_targets", self._on_targets, reliable(2))
        self.create_subscription(Joy, "joy", self._on_joy, reliable(2))
        self.create_service(SetBool, "teleop/take", self._on_take)
        self.create_service(Trigger, "teleop/reward", self._on_reward)
        self._estop = self.create_client(EStop, "estop")
        self._lease = self.create_client(Lease, "lease")

    def activity(self) -> str:
        """Whose the hand is."""
        return "the hand is a human's" if self.takeover.holding else "waits for a human"

    def poll(self) -> float:
        """A device that has fallen silent has given the hand back."""
        self._look()
        return 0.05

    def _on_description(self, message: HandDescription) -> None:
        limits = from_description(message)
        try:
            self.steering = Steering(self.task, limits, self.params.speed, self.params.horizon)
            Jog(limits, self.devices.synergies, limits.lower)
        except ValueError as error:
            self.refuse("hand_description", error)
            return
        self.limits = limits

    def _on_health(self, message: HandHealth) -> None:
        """Who held a hand that went down must take it anew."""
        why = why_not(message.mode, message.reason, message.faults)
        if why and self.takeover.holding:
            self.get_logger().warning(f"given back: {why}")
            self._give()

    def _on_targets(self, message: JointState) -> None:
        if not self._ready():
            self.counters["early_targets"] += 1
            return
        assert self.limits is not None
        try:
            targets = merge_targets(self.limits, self._pose(), message.name, message.position)
        except TargetError as error:
            self.refuse("joint_targets", error)
            return
        if self.takeover.heard(time.monotonic()):
            self._hold(targets)
        else:
            self.counters["ignored_targets"] += 1

    def _on_joy(self, message: Joy) -> None:
        if self.gamepad is None:
            return
        # A stop must not wait for anything, not for a hand that says what it is, nor for an axis that is missing.
        if self.gamepad.stops(message.buttons):
            self._stop_hand("gamepad")
        if not self._ready():
            return
        before = self.gamepad.state.held
        try:
            state = self.gamepad.read(message.axes, message.buttons)
        except TargetError as error:
            self.refuse("joy", error)
            return
        if "reward" in state.pressed:
            self._reward()
        if state.held and (self.takeover.holding or not before):
            self.takeover.take(time.monotonic())
            self._hold()
        elif before and not state.held:
            self._give()

    def _on_take(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if not request.data:
            self._give()
            response.success, response.message = True, "given back"
        elif not self._ready():
            response.message = "the hand has not said yet what and where it is"
        else:
            self.takeover.take(time.monotonic())
            self._hold()
            response.success, response.message = True, "the hand is yours"
        return response

    def _on_reward(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._reward()
        response.success = not response.message
        return response

    def _ready(self) -> bool:
        return self.limits is not None and self._state is not None

    def _pose(self) -> FloatArray:
        """Where the human wants the joints; where they were told to go, as long as nothing else is known."""
        if self.jog is not None:
            return self.jog.pose
        assert self._state is not None
        return numpy32(self._state.command).astype(np.float64)

    def _hold(self, pose: FloatArray | None = None) -> None:
        """The hand is the human's, to be moved to a pose (J,), and else to stay where it is."""
        if self.jog is not None:
            self.jog.pose = self.jog.pose if pose is None else pose
            return
        assert self.limits is not None and self._state is not None
        self.jog = Jog(self.limits, self.devices.synergies, self._pose() if pose is None else pose)
        self._chunk, self._releasing = None, False
        self.counters["takeovers"] = self.takeover.taken
        self.get_logger().info("a human has taken the hand")
        self._answer(self._state)

    def _give(self) -> None:
        self.takeover.give()
        self._look()

    def _look(self) -> None:
        if not self.takeover.look(time.monotonic()) and self.jog is not None:
            self.jog, self._releasing = None, True
            self.get_logger().info("the human has given the hand back")

    def _on_observation(self, message: Observation) -> None:
        self._observed = message.episode_id

    def _on_state(self, message: HandState) -> None:
        self._state = message
        self._look()
        if self.jog is not None:
            self._answer(message)
        elif self._releasing and message.steps_left == 0:
            # Before, what is still played would take the hand again.
            self._releasing = False
            if self._lease.service_is_ready():
                self._lease.call_async(Lease.Request(holder=SOURCE, release=True))

    def _answer(self, state: HandState) -> None:
        """Publish the next chunk when the hand is about to need one, or still plays another one's."""
        # A step that nobody observes is lost to the episode: at its start perception may not be there yet.
        if not state.episode_id or state.episode_id != self._observed:
            return
        last = self._chunk
        if last is not None and (last.episode_id, last.obs_step) == (state.episode_id, state.step):
            self.chunk_pub.publish(last)  # a world in lock step repeats its state until it is answered
            return
        own = last is not None and last.episode_id == state.episode_id
        since = state.step - last.obs_step if own and last is not None else self.params.horizon
        # What was sent may have come too late to be the first of its number; then the other's is still played.
        others = state.source not in ("", SOURCE) and since >= self.params.horizon
        if own and state.steps_left > 1 and not others:
            return
        assert self.jog is not None and self.steering is not None
        if self.gamepad is not None:
            self.gamepad.move(self.jog, since / self.task.control_hz)
        if not own or others:
            self.steering.start()
        command = numpy32(state.command).astype(np.float64)
        actions = self.steering.plan(self.jog.pose, command, state.steps_left)
        self._chunk = to_chunk(actions, state, 1.0 / self.task.control_hz, self.params.expiry)
        self.chunk_pub.publish(self._chunk)
        self.counters["chunks"] += 1

    def _reward(self) -> str:
        """Mark the last step; returns what is in the way, empty when it was done."""
        try:
            if self._state is None:
                raise ValueError("no state of the hand yet")
            self.label_pub.publish(to_label(self._state, self.params.reward))
        except ValueError as error:
            self.refuse("reward", error)
            return str(error)
        self.counters["rewards"] += 1
        return ""

    def _stop_hand(self, device: str) -> None:
        self.get_logger().warning(f"emergency stop by the {device}")
        self._estop.call_async(EStop.Request(reason=f"a human, by the {device}"))
        self._give()


def main() -> None:
    """Entry point of `teleop_node`."""
    sys.exit(run_node(TeleopNode))


if __name__ == "__main__":
    main()
