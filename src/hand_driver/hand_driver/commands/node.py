"""Services and joint targets of people and tools: to the driver, or refused with field, value and bound."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from sensor_msgs.msg import JointState
from softflow_msgs.msg import HandHealth
from softflow_msgs.srv import EStop, Lease, RecoverHand, ResetEStop, SetMode
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from hand_driver.control import TELEOP, check_holder
from hand_driver.messages import PRIORITIES, from_joint_trajectory
from hand_driver.safety import Refusal
from hand_driver.trajectory import with_targets
from softflow_node.node import reliable

if TYPE_CHECKING:
    from hand_driver.node import DriverNode


class Commands:
    """Wires them to one driver node."""

    def __init__(self, node: DriverNode) -> None:
        self.node = node
        node.create_service(EStop, "estop", self._on_estop)
        # The same as a topic: for a button that asks nobody whether it was heard, and presses again.
        node.create_subscription(String, "estop", lambda message: self._stop(message.data), reliable(10))
        node.create_service(ResetEStop, "reset_estop", self._on_reset_estop)
        node.create_service(SetMode, "set_mode", self._on_set_mode)
        node.create_service(RecoverHand, "recover_hand", self._on_recover)
        node.create_service(Lease, "lease", self._on_lease)
        node.create_subscription(JointState, "joint_targets", self._on_targets, reliable(2))
        node.create_subscription(JointTrajectory, "joint_trajectory", self._on_trajectory, reliable(2))

    def _on_targets(self, message: JointState) -> None:
        driver = self.node.driver
        holder = message.header.frame_id or TELEOP  # where the header names none
        try:
            self.node.check_active()
            check_holder("header.frame_id", holder)
            position = np.array(message.position, dtype=np.float64)
            targets = with_targets(
                list(message.name), position, driver.spec.joint_names, driver.safety.command
            )
            driver.stream(holder, targets, time.monotonic())
        except Refusal as error:
            self.node.refuse("joint_targets", error)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        driver = self.node.driver
        try:
            self.node.check_active()
            trajectory, start = from_joint_trajectory(message, driver.spec)
            driver.follow(trajectory, start, time.monotonic())
        except Refusal as error:
            self.node.refuse("joint_trajectory", error)

    def _stop(self, reason: str) -> None:
        self.node.driver.safety.estop(reason)
        self.node.mode_changed(self.node.driver.safety.estop_reason)

    def _on_estop(self, request: EStop.Request, response: EStop.Response) -> EStop.Response:
        self._stop(request.reason)
        response.ok, response.message = True, f"stopped: {self.node.mode_reason}"
        return response

    def _on_reset_estop(
        self, request: ResetEStop.Request, response: ResetEStop.Response
    ) -> ResetEStop.Response:
        try:
            self.node.driver.safety.reset_estop(request.reason)
        except Refusal as error:
            response.message = str(error)
            return response
        self.node.mode_changed(request.reason)
        response.ok, response.message = True, "lifted"
        return response

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        node, safety = self.node, self.node.driver.safety
        allowed = (HandHealth.MODE_HOLD, HandHealth.MODE_ACTIVE)
        if node.mode == HandHealth.MODE_ESTOP:
            response.message = f"mode is estop ({node.mode_reason}); reset_estop lifts it"
        elif request.mode not in allowed:
            response.message = f"mode is {request.mode}, allowed: {allowed[0]} (hold), {allowed[1]} (active)"
        elif not node.active:
            response.message = f"the driver is {node.lifecycle_state}; change_state activates it"
        else:
            if request.mode == HandHealth.MODE_HOLD:
                safety.hold(request.reason)
            else:
                safety.follow()
            node.mode_changed(request.reason)
            response.ok, response.message = True, "set"
        return response

    def _on_recover(
        self, request: RecoverHand.Request, response: RecoverHand.Response
    ) -> RecoverHand.Response:
        if self.node.lifecycle_state not in ("inactive", "active"):
            # The bus is closed, perhaps for another tool, and nobody would watch motors that got torque.
            response.message = f"the driver is {self.node.lifecycle_state}; change_state configures it"
            return response
        try:
            self.node.driver.recover(request.reason)
        except Refusal as error:
            response.message = str(error)
            return response
        self.node.mode_changed(request.reason)
        response.ok, response.message = True, "recovered"
        return response

    def _on_lease(self, request: Lease.Request, response: Lease.Response) -> Lease.Response:
        driver, now = self.node.driver, time.monotonic()
        response.timeout = driver.spec.safety.lease_timeout
        try:
            check_holder("holder", request.holder)
            if request.release:
                response.ok = driver.give_back(request.holder)
                current = driver.safety.lease.current(now)
                response.message = (
                    "given back" if response.ok else f"the hand is held by {current or 'nobody'!r}"
                )
            else:
                self.node.check_active()
                if request.priority not in PRIORITIES:
                    raise Refusal(f"priority is {request.priority}, must be one of {sorted(PRIORITIES)}")
                driver.safety.lease.acquire(request.holder, PRIORITIES[request.priority], now)
                response.ok, response.message = True, "taken"
        except Refusal as error:
            response.message = str(error)
        self.node.publish_health()
        return response
