"""The driver node on a bus of emulated motors, through the vendor's SDK: a drawn cable, a killed driver, drift."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hand_probe import Driver, commands, driver_alone, stays_within_slew
from lifecycle_msgs.msg import Transition
from softflow_msgs.msg import HandHealth

from hand_driver.emulator import EmulatedBus, EmulatedMotor
from hand_driver.hand_file import load_hand

pytestmark = [pytest.mark.ros, pytest.mark.slow]
JOINTS = ("index", "middle", "thumb")
TICK = 2 * np.pi / 4096
HAND = {
    "name": "bench",
    "backend": "dynamixel",
    "control_rate": 50.0,
    "joint_defaults": {
        "lower": -0.5,
        "upper": 1.5,
        "max_velocity": 2.0,
        "max_acceleration": 40.0,
        "soft_current": 0.8,
        "max_current": 1.1,
        "soft_temperature": 60.0,
        "max_temperature": 68.0,
    },
    "joints": {name: {} for name in JOINTS},
    "safety": {"starve_relax": 30.0},
    "motor_defaults": {"offset": float(np.pi)},
    "motors": [{"id": i, "joint": name} for i, name in enumerate(JOINTS)],
}


class Bench:
    """Motors, and the driver of their hand."""

    def __init__(self, folder: Path) -> None:
        self.bus = EmulatedBus([EmulatedMotor(i) for i in range(len(JOINTS))], folder / "port")
        # A loaded machine is no dead one: the motors wait longer than they would on a robot.
        bus = {"port": str(folder / "port"), "watchdog": 2.0, "timeout": 0.1}
        path = folder / "bench.yaml"
        path.write_text(yaml.safe_dump({**HAND, "bus": bus}))
        calibration = folder / "bench.calibration"
        calibration.write_text("hand: bench\noffsets: {index: 0.0, middle: 0.0, thumb: 0.0}\n")
        self.hand = path
        self.driver: Driver

    def active(self) -> None:
        self.driver.see(3)
        self.driver.until(lambda: self.driver.health.mode == HandHealth.MODE_ACTIVE, "active")

    def ready(self) -> None:
        """Whatever an earlier test left: the cable in, every joint free, and a hand without faults that is active."""
        with self.bus.lock:
            for motor in self.bus.motors.values():
                motor.blocked_at = None
        self.bus.plug()
        hand = self.driver
        if hand.process.poll() is not None:
            hand.start()
        hand.see(3)
        for _ in range(10):
            if hand.health.faults:
                hand.ask("recover_hand", reason="the next test")
            if hand.health.mode == HandHealth.MODE_INACTIVE:
                hand.change(Transition.TRANSITION_ACTIVATE)
            with contextlib.suppress(AssertionError):
                return hand.until(lambda: hand.health.mode == HandHealth.MODE_ACTIVE, "active", 3.0)
        raise AssertionError(f"no active hand: {hand.health}")

    @property
    def joints(self) -> np.ndarray:
        """Where the motors really are (J,) [rad]."""
        with self.bus.lock:
            return np.array([m.ticks for m in self.bus.motors.values()]) * TICK - np.pi


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    with driver_alone(load_hand(str(bench.hand)), hand=bench.hand, task='""') as driver:
        bench.driver = driver
        yield bench
    bench.bus.close()


@pytest.fixture
def bench(shared_bench: Bench) -> Bench:
    """A hand that is active, also after a test that failed."""
    shared_bench.ready()
    return shared_bench


def test_with_a_calibration_it_is_active_once_the_pose_is_compared(bench: Bench) -> None:
    # At first the hand is held, until it has stood still for long enough. Nobody may hear the first states.
    stamp = bench.driver.states[-1].header.stamp
    assert stamp.sec + 1e-9 * stamp.nanosec >= 0.3
    assert bench.driver.descriptions[-1].calibration_hash != bench.driver.spec.digest()
    bench.driver.move(JOINTS, [0.3, 0.4, 0.5])
    bench.driver.see(10)
    np.testing.assert_allclose(bench.joints, [0.3, 0.4, 0.5], atol=0.01)


def test_a_drawn_cable_is_a_fault_until_it_is_put_back_and_recovered(bench: Bench) -> None:
    hand = bench.driver
    first = len(hand.states)
    hand.send_trajectory(JOINTS, (2.0, [0.9, 0.9, 0.9]))
    hand.until(
        lambda: hand.states[-1].source == "trajectory" and hand.states[-1].command[0] > 0.4, "movement"
    )
    bench.bus.unplug()
    hand.until(lambda: any("in a row failed" in f for f in hand.health.faults), "a fault in health")
    assert hand.health.mode == HandHealth.MODE_HOLD and hand.health.holder == ""
    assert hand.health.failed_reads >= 3 or hand.health.failed_writes >= 3
    hand.until(lambda: "in a row failed" in hand.complaint, "an error on /diagnostics")
    assert not any(hand.states[-1].valid)
    for reason, words in (("", "reason is empty"), ("nothing was done", "the hand does not come back")):
        answer = hand.ask("recover_hand", reason=reason)
        assert not answer.ok and words in answer.message
    bench.bus.plug()
    answer = hand.ask("recover_hand", reason="put the cable back")
    assert answer.ok, answer.message
    hand.until(lambda: not hand.health.faults and hand.health.mode == HandHealth.MODE_ACTIVE, "active again")
    hand.until(lambda: hand.states[-1].stiffness[0] == 1.0, "stiff again")
    result = hand.act("home", holder="test")
    assert result.ok, result.message
    stays_within_slew(hand.states[first:], hand.spec)


def test_a_driver_that_was_killed_takes_the_hand_up_as_it_is(bench: Bench) -> None:
    hand = bench.driver
    hand.move(JOINTS, [0.6, 0.2, 0.4])
    hand.see(10)
    before, pose = commands(hand.states[-1:])[0], bench.joints
    hand.stop(signal.SIGKILL)
    np.testing.assert_allclose(bench.joints, pose, atol=2 * TICK)
    hand.start()
    bench.active()
    started = commands(hand.states)
    allowed = hand.spec.values("max_velocity") * hand.spec.period
    assert (np.abs(started - before).max(axis=0) <= allowed).all()
    np.testing.assert_allclose(bench.joints, pose, atol=0.01)
    hand.move(JOINTS, [0.0, 0.0, 0.0])
    stays_within_slew(hand.states, hand.spec)


def test_a_pose_that_disagrees_with_the_calibration_is_not_moved(bench: Bench) -> None:
    hand = bench.driver
    motor = bench.bus.motors[1]
    motor.blocked_at = round((np.pi + 0.1) / TICK)
    hand.move(JOINTS, [0.0, 0.5, 0.0])
    assert hand.change(Transition.TRANSITION_DEACTIVATE)
    hand.see(25)
    assert not hand.change(Transition.TRANSITION_ACTIVATE)
    hand.until(lambda: "middle is read -0.4" in hand.health.reason, "joint and value")
    assert "calibrated: 0.000, allowed difference: 0.1 (max_drift)" in hand.health.reason
    assert hand.health.mode == HandHealth.MODE_INACTIVE
    hand.until(lambda: "middle is read" in hand.complaint, "an error on /diagnostics")
    motor.blocked_at = None
    hand.until(lambda: abs(bench.joints[1] - 0.5) < 0.01, "the joint free")
    hand.see(5)
    assert hand.change(Transition.TRANSITION_ACTIVATE)
    bench.active()


def test_a_hand_that_lost_a_turn_is_not_started(bench: Bench) -> None:
    hand, motor = bench.driver, bench.bus.motors[2]
    assert hand.stop() == 0
    turned_by_hand(bench, motor, 4096)
    try:
        done = subprocess.run(hand.process.args, capture_output=True, text=True, timeout=60)
    finally:
        turned_by_hand(bench, motor, -4096)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and "thumb is at 6." in lines[0] and "a lost turn" in lines[0]
    hand.start()
    bench.active()


def turned_by_hand(bench: Bench, motor: EmulatedMotor, ticks: int) -> None:
    with bench.bus.lock:
        motor.set("torque_enable", 0)
        motor.ticks += ticks
        bench.bus.advance()
