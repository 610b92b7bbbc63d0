"""The driver's actions. Each is a movement of the driver, so it goes through the safety core like everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from softflow_msgs.action import Calibrate, Home, Tension

from hand_driver import calibration, tension
from hand_driver.movement import Home as HomeMovement
from hand_driver.movement import Movement, Run
from hand_driver.safety import Refusal
from softflow_node.messages import floats32

if TYPE_CHECKING:
    from hand_driver.node import DriverNode

FEEDBACK_PERIOD = 0.05
"""[s]"""
CANCELLED = "cancelled"


class DeferredServer(ActionServer):
    """An action whose goals run beside the loop until `finish` is called.

    An `async` execute callback would do, but the events executor keeps calling one that waits: a core burns.
    """

    def __init__(
        self,
        node: DriverNode,
        kind: Any,
        name: str,
        begin: Callable[[ServerGoalHandle], None],
        cancel: Callable[[], None],
    ) -> None:
        self._begin, self._cancel_now = node.loop.exclusive(begin), node.loop.exclusive(cancel)
        super().__init__(node, kind, name, lambda goal: None, cancel_callback=self._on_cancel)

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        self._cancel_now()
        return CancelResponse.ACCEPT

    def notify_execute(
        self, goal_handle: ServerGoalHandle, execute_callback: Callable[[ServerGoalHandle], Any] | None
    ) -> None:
        """The goal's state is `executing` already."""
        self._begin(goal_handle)

    def finish(self, goal: ServerGoalHandle, result: Any) -> None:
        """Give the goal its result; `ok` and whether a cancel was asked for decide on its state."""
        if goal.is_cancel_requested:
            goal.canceled()
        elif result.ok:
            goal.succeed()
        else:
            goal.abort()
        super().notify_execute(goal, lambda _: result)


class Operations:
    """The actions `home`, `calibrate` and `tension` of one driver node; one of them runs at a time."""

    def __init__(self, node: DriverNode) -> None:
        self.node = node
        self._run: Run | None = None
        self._finish: Callable[[], None] = lambda: None
        self._feedback: Callable[[], None] = lambda: None
        self._home = DeferredServer(node, Home, "home", self._on_home, self._cancel)
        self._calibrate = DeferredServer(node, Calibrate, "calibrate", self._on_calibrate, self._cancel)
        self._tension = DeferredServer(node, Tension, "tension", self._on_tension, self._cancel)
        self._timer = node.create_timer(FEEDBACK_PERIOD, self._look, autostart=False)

    def _cancel(self) -> None:
        if self._run is not None:
            self.node.driver.mover.stop(self._run, CANCELLED)

    def _begin(
        self, make: Callable[[], Movement], feedback: Callable[[Run], None], done: Callable[[str], None]
    ) -> None:
        """Begin a movement; `done` gets why it failed, and is called at once where it cannot begin."""
        driver = self.node.driver
        try:
            self.node.check_active()
            if self._run is not None:
                raise Refusal("another action moves the hand; cancel it, or wait for its end")
            if driver.simulated and not driver.at.episode_id:
                raise Refusal("time stands still in the simulation before the first reset_scene")
            run = self._run = driver.move(make(), time.monotonic())
        except Refusal as error:
            done(str(error))
            return
        self._feedback = lambda: feedback(run)
        self._finish = lambda: done(run.failure)
        self._timer.reset()

    def _look(self) -> None:
        if self._run is None:
            return
        self._feedback()
        if self._run.over:
            self._run = None
            self._timer.cancel()
            self._finish()

    def _log(self, what: str, failure: str) -> None:
        self.node.get_logger().info(f"{what}: {failure or 'done'}")

    def _on_home(self, goal: ServerGoalHandle) -> None:
        who = goal.request.holder

        def done(failure: str) -> None:
            self._log(f"home, asked for by {who!r}", failure)
            read = self.node.driver.reading.position if self.node.driver.has_read else np.zeros(0)
            result = Home.Result(ok=not failure, message=failure or "arrived", position=floats32(read))
            self._home.finish(goal, result)

        def feedback(run: Run) -> None:
            goal.publish_feedback(Home.Feedback(progress=run.movement.progress))

        self._begin(lambda: HomeMovement(self.node.driver.spec), feedback, done)

    def _on_calibrate(self, goal: ServerGoalHandle) -> None:
        node = self.node
        made: list[calibration.Calibrate] = []

        def make() -> Movement:
            if node.driver.simulated:
                raise Refusal(f"{node.driver.spec.name} is simulated: there is nothing to calibrate")
            made.append(calibration.Calibrate(list(goal.request.joints), node.driver.spec))
            return made[0]

        def done(failure: str) -> None:
            digest = ""
            if not failure:
                try:
                    digest = node.calibrated(made[0].result(node.driver.calibration))
                except OSError as error:
                    failure = f"calibration: {error}"
            self._log("calibrate", failure)
            message = failure or f"written to {node.calibration_path}"
            result = Calibrate.Result(ok=not failure, message=message, calibration_hash=digest)
            self._calibrate.finish(goal, result)

        def feedback(run: Run) -> None:
            goal.publish_feedback(
                Calibrate.Feedback(joint=run.movement.joint, progress=run.movement.progress)
            )

        self._begin(make, feedback, done)

    def _on_tension(self, goal: ServerGoalHandle) -> None:
        made: list[tension.Tension] = []

        def make() -> Movement:
            driver = self.node.driver
            if driver.hand.description.backend not in ("dynamixel", "mock"):
                raise Refusal(
                    f"backend is {driver.hand.description.backend!r}, must be dynamixel or mock: "
                    "the others do not say how far a motor has turned"
                )
            made.append(tension.Tension(list(goal.request.joints), goal.request.current, driver.spec))
            return made[0]

        def done(failure: str) -> None:
            self._log("tension", failure)
            slack = floats32(np.array(made[0].slack if made else ()))
            result = Tension.Result(ok=not failure, message=failure or "taut", slack=slack)
            self._tension.finish(goal, result)

        def feedback(run: Run) -> None:
            goal.publish_feedback(Tension.Feedback(joint=run.movement.joint, progress=run.movement.progress))

        self._begin(make, feedback, done)
