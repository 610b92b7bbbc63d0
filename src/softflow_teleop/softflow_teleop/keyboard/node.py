"""The keyboard node: a person in a terminal takes the hand, moves it, stops it, gives it back."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.task import Future
from sensor_msgs.msg import JointState
from softflow_msgs.msg import HandDescription, HandState
from softflow_msgs.srv import EStop
from std_srvs.srv import SetBool, Trigger

from softflow_node.messages import numpy32
from softflow_node.node import SoftflowNode, latched, reliable, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_teleop.device_file import DeviceFileError, load_device_map
from softflow_teleop.joints import HandLimits, Jog
from softflow_teleop.keyboard.keys import COMMANDS, HELP, Command, Keys, split_keys
from softflow_teleop.keyboard.terminal import Terminal
from softflow_teleop.messages import from_description, to_targets

PERIOD = 0.05
"""[s] between two looks at the keys, and two messages with the pose while the hand is the human's."""


@dataclass(frozen=True)
class KeyboardParameters:
    """Parameters of the keyboard node."""

    devices: str = bounded("", doc="name in config/teleop or path of a YAML file; empty: the hand's name")


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
        self.pub = self.create_publisher(JointState, "teleop/joint_targets", reliable(2))
        self.create_subscription(HandDescription, "hand_description", self._on_description, latched())
        self.create_subscription(HandState, "hand_state", self._on_state, stream())
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

    def _on_state(self, message: HandState) -> None:
        self._state = message

    def poll(self) -> float:
        """Read the keys; say where the hand is to be."""
        keys = split_keys(self._terminal.read())
        for key in keys:
            self._press(key)
        now = time.monotonic()
        if self.jog is not None and self.limits is not None and (keys or now >= self._due):
            self._due = now + PERIOD
            self.pub.publish(to_targets(self.limits, self.jog.pose))
        self._show()
        return PERIOD / 2

    def _press(self, key: str) -> None:
        # A stop must not wait for anything, not even for a hand that says what it is.
        command = self.keys.press(key, self.jog) if self.keys else COMMANDS.get(key, Command.NONE)
        if command is Command.ESTOP:
            self._ask(self._estop, EStop.Request(reason="a human, by the keyboard"), "EMERGENCY STOP")
            self.jog = None
        elif command is Command.TAKE:
            self._ask(self._take, SetBool.Request(data=True), "take")
        elif command is Command.GIVE:
            self.jog = None
            self._ask(self._take, SetBool.Request(data=False), "give back")
        elif command is Command.REWARD:
            self._ask(self._reward, Trigger.Request(), "reward")
        elif command is Command.QUIT:
            self.finished = True

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
