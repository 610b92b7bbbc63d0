"""The keyboard node: a person in a terminal takes the hand, moves it, stops it, gives it back."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.task import Future
from sensor_msgs.msg import JointState
from softflow_msgs.msg import EpisodeEvent, HandDescription, HandHealth, HandState
from softflow_msgs.srv import EStop, LabelEpisode
from std_srvs.srv import SetBool, Trigger

from softflow_node.messages import numpy32
from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_tasks.hand_watch import why_not
from softflow_teleop.device_file import DeviceFileError, load_device_map
from softflow_teleop.joints import HandLimits, Jog
from softflow_teleop.keyboard.hold import Hold
from softflow_teleop.keyboard.keys import COMMANDS, HELP, Command, Keys, split_keys
from softflow_teleop.keyboard.terminal import Terminal
from softflow_teleop.keyboard.verdicts import KEPT, Verdict, Verdicts
from softflow_teleop.messages import from_description, to_targets

PERIOD = 0.05
"""[s] between two looks at the keys, and two messages with the pose while the hand is the human's."""

VERDICTS = {
    Command.SUCCESS: (True, False),
    Command.FAILURE: (False, False),
    Command.SUCCESS_BEFORE: (True, True),
    Command.FAILURE_BEFORE: (False, True),
}
"""Command -> success, of the episode before"""


@dataclass(frozen=True)
class KeyboardParameters:
    """Parameters of the keyboard node."""

    devices: str = bounded("", doc="name in config/teleop or path of a YAML file; empty: the hand's name")
    success_reward: float = bounded(
        1.0,
        low=-100.0,
        high=100.0,
        doc="of an episode's last step when a human calls it a success; 0 of a failure",
    )


class KeyboardNode(SoftflowNode[KeyboardParameters]):
    """A device as any other: it publishes joint targets as long as the human has the hand."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__("keyboard", KeyboardParameters)
        self._terminal = terminal
        self.keys: Keys | None = None
        self.jog: Jog | None = None
        self.limits: HandLimits | None = None
        self._synergies: dict[str, dict[str, float]] = {}
        self._state: HandState | None = None
        self._line = ""
        self._due = 0.0
        self._hold = Hold()
        self._verdicts = Verdicts()
        self.pub = self.create_publisher(JointState, "teleop/joint_targets", reliable(2))
        self.create_subscription(HandDescription, "hand_description", self._on_description, latched())
        self.create_subscription(HandHealth, "hand_health", self._on_health, latched())
        self.create_subscription(HandState, "hand_state", self._on_state, stream())
        self.create_subscription(EpisodeEvent, "episode_event", self._on_event, latched(3 * KEPT))
        self._label = self.create_client(LabelEpisode, "label_episode")
        self._take = self.create_client(SetBool, "teleop/take")
        self._reward = self.create_client(Trigger, "teleop/reward")
        self._estop = self.create_client(EStop, "estop")
        print(HELP)

    def _on_description(self, message: HandDescription) -> None:
        try:
            devices = load_device_map(self.params.devices or message.hand)
            limits = from_description(message)
            Jog(limits, devices.synergies, limits.lower)
        except (DeviceFileError, ValueError) as error:
            raise ParameterError(f"{self.get_name()}: parameter 'devices': {error}") from error
        self.limits, self._synergies = limits, devices.synergies
        self.keys = Keys(limits.names, tuple(devices.synergies), devices.step)

    def _on_health(self, message: HandHealth) -> None:
        self._hold.why = why_not(message.mode, message.reason, message.faults)
        self._look()

    def _on_state(self, message: HandState) -> None:
        self._state = message

    def _on_event(self, message: EpisodeEvent) -> None:
        now = time.monotonic()
        self._tell(self._verdicts.on_event(message.episode_id, message.kind, message.last_step, now))

    def poll(self) -> float:
        """Read the keys; say where the hand is to be."""
        keys = split_keys(self._terminal.read())
        self._look()
        for key in keys:
            self._press(key)
        self._look()  # a terminal that is held up (Ctrl-S) holds up what the keys have to say, and this process
        now = time.monotonic()
        if self.jog is not None and self.limits is not None and (keys or now >= self._due):
            self._due = now + PERIOD
            self._hold.spoke(now)
            self.pub.publish(to_targets(self.limits, self.jog.pose))
        self._send_verdict(now)
        self._show()
        return PERIOD / 2

    def _look(self) -> None:
        """A hand that teleop has given back is not taken again by a pose of before, only by the key."""
        if self.jog is None:
            return
        lost = self._hold.lost(time.monotonic(), self._servers())
        if lost:
            self.jog = None
            self._say(f"given back: {lost}")

    def _servers(self) -> int:
        return int(self.count_services(self._take.service_name))

    def _press(self, key: str) -> None:
        # A stop must not wait for anything, not even for a hand that says what it is.
        command = self.keys.press(key, self.jog) if self.keys else COMMANDS.get(key, Command.NONE)
        if command is Command.ESTOP:
            self._ask(self._estop, EStop.Request(reason="a human, by the keyboard"), "EMERGENCY STOP")
            self.jog = None
        elif command is Command.TAKE:
            # Who took it without knowing where it is would have nothing to say, and lose it by silence.
            if self.limits is None or self._state is None:
                self._say("take: the hand has not said yet what and where it is")
            else:
                self._hold.asks(time.monotonic(), self._servers())
                self._ask(self._take, SetBool.Request(data=True), "take")
        elif command is Command.GIVE:
            self.jog = None
            self._ask(self._take, SetBool.Request(data=False), "give back")
        elif command is Command.REWARD:
            self._ask(self._reward, Trigger.Request(), "reward")
        elif command in VERDICTS:
            self._tell(self._verdicts.say(*VERDICTS[command]))
        elif command is Command.QUIT:
            self.finished = True

    def _send_verdict(self, now: float) -> None:
        found = self._verdicts.next(now)
        if found is None:
            return
        verdict, steps = found
        if not self._label.service_is_ready():
            self._tell(self._verdicts.answered(verdict, False, f"{self._label.srv_name} is not there", now))
            return
        request = LabelEpisode.Request(
            episode_id=verdict.episode_id,
            start_step=steps - 1,
            values=[self.params.success_reward if verdict.success else 0.0],
            source="human",
            confidence=1.0,
        )
        self._label.call_async(request).add_done_callback(lambda future: self._on_labelled(verdict, future))

    def _on_labelled(self, verdict: Verdict, future: Future) -> None:
        answer, now = future.result(), time.monotonic()
        text = f"revision {answer.revision}, {answer.message}" if answer.ok else answer.message
        self._tell(self._verdicts.answered(verdict, answer.ok, text, now))

    def _ask(self, client: Any, request: Any, what: str) -> None:
        if not client.service_is_ready():
            self._say(f"{what}: {client.srv_name} is not there")
            if what != "EMERGENCY STOP":
                return
        client.call_async(request).add_done_callback(lambda future: self._on_answer(what, future))

    def _on_answer(self, what: str, future: Future) -> None:
        answer = future.result()
        ok = bool(getattr(answer, "ok", getattr(answer, "success", False)))
        self._say(f"{what}: {answer.message or 'done'}")
        if what == "take" and ok and self.limits is not None and self._state is not None:
            pose = numpy32(self._state.command).astype(np.float64)
            self.jog = Jog(self.limits, self._synergies, pose)

    def _tell(self, text: str) -> None:
        if text:
            self._say(text)

    def _say(self, text: str) -> None:
        print(f"\r\x1b[K{text}")
        self._line = ""

    def _show(self) -> None:
        line = self.keys.line(self.jog) if self.keys else "waiting for the hand"
        if line != self._line:
            self._line = line
            print(f"\r\x1b[K{line}", end="", flush=True)

    def close(self) -> None:
        """Nobody is at the keys any more."""
        if self.jog is not None:
            self._take.call_async(SetBool.Request(data=False))
        print()


def main() -> None:
    """Entry point of `keyboard_node`."""
    try:
        with Terminal() as terminal:
            code = run_node(lambda: KeyboardNode(terminal))
    except OSError as error:
        print(f"error: keyboard: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
