"""The real Dynamixel back end over the vendor's SDK, on emulated motors."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hand_driver.backends import HandMismatchError, make_hand
from hand_driver.backends.dynamixel import DynamixelHand
from hand_driver.emulator import EmulatedBus, EmulatedMotor
from hand_driver.emulator.motor import OVERLOAD
from hand_driver.hand_file import load_hand, parse_hand
from hand_driver.hand_spec import HandSpec

LEAP = load_hand("leap_like")
NO_RUSH = {"watchdog": 1.0, "timeout": 0.1, "baudrate": 1_000_000}
"""A machine under load may take its time."""

TENDONS: dict[str, Any] = {
    "name": "tendons",
    "backend": "dynamixel",
    "control_rate": 50,
    "joint_defaults": {
        "lower": -0.5,
        "upper": 1.5,
        "max_velocity": 4.0,
        "max_acceleration": 80.0,
        "soft_current": 0.4,
        "max_current": 0.6,
        "soft_temperature": 60.0,
        "max_temperature": 70.0,
    },
    "joints": {"mcp": {}, "pip": {}, "abd": {"max_current": 0.5}},
    # The tendon of the pip passes the mcp; the motor of the abd is turned round.
    "motors": [
        {"id": 5, "joint": "mcp", "ratio": 1.5, "offset": 3.0},
        {"id": 6, "coupling": {"mcp": 0.6, "pip": 1.2}, "offset": 1.0},
        {"id": 9, "joint": "abd", "ratio": -1.0, "offset": 3.14, "current_unit": 2.69e-3},
    ],
}


class Bench:
    """A hand and the motors that it talks to."""

    def __init__(self, spec: HandSpec, link: Path) -> None:
        bus = dataclasses.replace(spec.bus, port=str(link), **NO_RUSH)
        self.spec = dataclasses.replace(spec, bus=bus)
        self.bus = EmulatedBus([EmulatedMotor(m.id) for m in spec.motors], link)
        self.hand = self.driver_of_it()
        self.ones = np.ones(len(spec.joints))

    def driver_of_it(self) -> DynamixelHand:
        hand = make_hand(self.spec)
        assert isinstance(hand, DynamixelHand)
        return hand

    def value(self, motor: int, name: str) -> int:
        with self.bus.lock:
            self.bus.motors[motor].advance(time.monotonic())
            return self.bus.motors[motor].get(name)

    def settle(self, targets: np.ndarray) -> np.ndarray:
        """Command a pose until it is there; returns what was sent."""
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            sent = self.hand.command(targets, self.ones)
            if np.abs(self.hand.read().position - sent).max() < 3e-3:
                return sent
        raise AssertionError("the pose was not reached")


@pytest.fixture
def leap(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(LEAP, tmp_path / "tty")
    yield bench
    bench.hand.disconnect()
    bench.bus.close()


@pytest.fixture
def tendons(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(parse_hand(TENDONS, "tendons.yaml"), tmp_path / "tty")
    yield bench
    bench.hand.disconnect()
    bench.bus.close()


def test_connecting_moves_nothing_and_sets_what_the_file_says(leap: Bench) -> None:
    for number, motor in enumerate(leap.bus.motors.values()):
        motor.ticks = 2048.0 + 10 * number
        motor.set("goal_position", 0)  # where it went when it was last used
    leap.hand.connect()
    time.sleep(0.1)
    reading = leap.hand.read()
    np.testing.assert_allclose(reading.position, np.arange(16) * 10 * 2 * np.pi / 4096, atol=1e-9)
    assert reading.valid.all() and not reading.faults
    for number, motor in enumerate(leap.spec.motors):
        assert leap.bus.motors[motor.id].ticks == 2048 + 10 * number
        assert leap.value(motor.id, "operating_mode") == 5 and leap.value(motor.id, "torque_enable") == 1
        assert leap.value(motor.id, "goal_current") == 600 and leap.value(motor.id, "position_p") == 600
        assert leap.value(motor.id, "bus_watchdog") == 50 and leap.value(motor.id, "return_delay") == 0
        assert leap.value(motor.id, "profile_velocity") == round(4.0 / (0.229 * 2 * np.pi / 60))


def test_joints_go_where_they_are_told_and_what_was_sent_is_said(leap: Bench) -> None:
    leap.hand.connect()
    rng = np.random.default_rng(1)
    lower, upper = leap.spec.values("lower"), leap.spec.values("upper")
    targets = lower + rng.random(16) * (upper - lower)
    sent = leap.settle(targets)
    assert np.abs(sent - targets).max() <= np.pi / 4096 + 1e-12  # half a tick
    np.testing.assert_allclose(sent * 4096 / (2 * np.pi), np.rint(sent * 4096 / (2 * np.pi)), atol=1e-6)


def test_coupled_tendons_turn_several_motors_for_one_joint(tendons: Bench) -> None:
    tendons.hand.connect()
    tendons.settle(np.zeros(3))
    before = {i: tendons.value(i, "goal_position") for i in (5, 6, 9)}
    tendons.settle(np.array([1.0, 0.0, 0.2]))
    turned = {i: (tendons.value(i, "goal_position") - before[i]) * 2 * np.pi / 4096 for i in (5, 6, 9)}
    assert turned == {
        5: pytest.approx(1.5, abs=2e-3),
        6: pytest.approx(0.6, abs=2e-3),
        9: pytest.approx(-0.2, abs=2e-3),
    }
    assert tendons.value(9, "goal_current") == int(0.5 / 2.69e-3)


def test_current_and_temperature_come_from_the_motor_that_moves_the_joint_most(tendons: Bench) -> None:
    tendons.hand.connect()
    tendons.settle(np.zeros(3))
    tendons.bus.motors[6].extra_current = 300
    tendons.bus.motors[6].thermal.value = tendons.bus.motors[6].thermal.ambient = 55.0
    for _ in range(4):  # the well-being of one motor a period
        reading = tendons.hand.read()
    assert reading.current[1] > 0.2 > 0.1 > reading.current[0]
    assert reading.temperature.tolist() == [30.0, 55.0, 30.0]


def test_stiffness_is_a_share_of_the_current_limit(leap: Bench) -> None:
    leap.hand.connect()
    pose = leap.hand.read().position
    leap.hand.command(pose, np.linspace(0.0, 0.75, 16))
    leap.hand.read()
    limits = [leap.value(m.id, "goal_current") for m in leap.spec.motors]
    assert limits == [int(600 * s + 1e-6) for s in np.linspace(0.0, 0.75, 16)]


def test_a_current_limit_that_did_not_arrive_is_sent_again(leap: Bench) -> None:
    leap.hand.connect()
    pose = leap.hand.read().position
    leap.hand.command(pose, 0.4 * leap.ones)
    leap.hand.read()
    with leap.bus.lock:
        for motor in leap.bus.motors.values():
            motor.set("goal_current", 600)  # as if the packet had been lost
    for _ in leap.spec.motors:  # one of them is looked after a period
        leap.hand.command(pose, 0.4 * leap.ones)
        leap.hand.read()
    assert [leap.value(m.id, "goal_current") for m in leap.spec.motors] == [240] * 16


@pytest.mark.parametrize("chain", [True, False])
def test_a_silent_motor_makes_its_joints_invalid_and_the_others_are_still_read(
    tendons: Bench, chain: bool
) -> None:
    tendons.hand.connect()
    before = tendons.settle(np.array([0.3, 0.4, 0.1]))
    tendons.bus.chain, tendons.bus.motors[5].silent = chain, True
    for _ in range(3):
        reading = tendons.hand.read()
        assert reading.valid.tolist() == [False, False, True]  # the pip's angle needs the mcp's
        np.testing.assert_allclose(reading.position, before, atol=5e-3)
    tendons.bus.motors[5].silent = False
    tendons.hand.read()
    assert tendons.hand.read().valid.all()


def test_when_nobody_answers_that_is_an_error(leap: Bench) -> None:
    leap.hand.connect()
    leap.bus.unplug()
    pose = np.zeros(16)
    for _ in range(3):
        with pytest.raises(OSError):
            leap.hand.read()
        with pytest.raises(OSError):
            leap.hand.command(pose, leap.ones)


def test_a_motor_that_is_not_there_is_named_at_the_start(tendons: Bench) -> None:
    tendons.bus.motors[6].silent = True
    with pytest.raises(OSError, match=r"tendons: 1 of 3 motors absent: motor 6: ping"):
        tendons.hand.connect()


def test_a_stopped_motor_is_reported_at_once_and_recovers_without_a_jump(tendons: Bench) -> None:
    tendons.hand.connect()
    tendons.settle(np.array([0.3, 0.4, 0.1]))
    tendons.bus.motors[9].fail(OVERLOAD)
    assert any("motor 9 reports" in fault for fault in tendons.hand.read().faults)
    for _ in range(3):
        faults = tendons.hand.read().faults
    assert faults == ("motor 9 reports overload",)
    tendons.bus.motors[9].ticks -= 100.0  # it fell
    limp = tendons.hand.recover()
    assert limp.tolist() == [False, False, True]
    reading = tendons.hand.read()
    assert not reading.faults and tendons.value(9, "torque_enable") == 1
    assert reading.position[2] == pytest.approx(0.1 + 100 * 2 * np.pi / 4096, abs=5e-3)


def test_a_recovery_that_fails_half_way_forgets_no_joint(tendons: Bench) -> None:
    tendons.hand.connect()
    tendons.settle(np.array([0.3, 0.4, 0.1]))
    tendons.bus.motors[5].fail(OVERLOAD)
    tendons.bus.motors[9].silent = True
    with pytest.raises(OSError, match="motor 9"):
        tendons.hand.recover()
    assert tendons.value(5, "torque_enable") == 1, "the first was restarted"
    tendons.bus.motors[9].silent = False
    assert tendons.hand.recover().tolist() == [True, True, False]
    assert tendons.hand.recover().tolist() == [False, False, False]


def test_lost_torque_is_noticed(tendons: Bench) -> None:
    tendons.hand.connect()
    tendons.bus.motors[6].set("torque_enable", 0)  # its supply broke down for a moment
    reports = [tendons.hand.read().faults for _ in range(3)][-1]
    assert reports == ("motor 6 has lost its torque",)


def test_a_host_that_dies_stops_the_motors_and_the_next_one_takes_them_up_where_they_are(
    tendons: Bench,
) -> None:
    bench = tendons
    bench.spec = dataclasses.replace(bench.spec, bus=dataclasses.replace(bench.spec.bus, watchdog=0.2))
    bench.hand = bench.driver_of_it()
    bench.hand.connect()
    bench.hand.command(np.array([1.4, 1.4, -0.4]), bench.ones)
    time.sleep(0.5)  # killed: not even a disconnect
    assert {bench.value(i, "bus_watchdog") for i in (5, 6, 9)} == {-1}
    assert {bench.value(i, "torque_enable") for i in (5, 6, 9)} == {1}, "what is held is not dropped"
    held = {i: bench.bus.motors[i].ticks for i in (5, 6, 9)}
    another = bench.driver_of_it()
    another.connect()
    pose = another.read().position
    another.command(pose, bench.ones)
    time.sleep(0.1)
    another.read()
    for motor, ticks in held.items():
        assert bench.bus.motors[motor].ticks == pytest.approx(ticks, abs=1.0)
    another.disconnect()


def test_disconnecting_leaves_torque_on_at_the_current_of_a_relaxed_hand(leap: Bench) -> None:
    leap.hand.connect()
    leap.hand.disconnect()
    leap.hand.disconnect()
    time.sleep(0.05)
    assert leap.value(0, "torque_enable") == 1 and leap.value(0, "goal_current") == int(600 * 0.4)


def test_goals_that_the_sdk_would_garble_cannot_be_described() -> None:
    values = {
        **TENDONS,
        "motors": [{**TENDONS["motors"][0], "ratio": 90.0, "offset": 100.0}, *TENDONS["motors"][1:]],
    }
    with pytest.raises(
        HandMismatchError, match=r"tendons: motor 5 would turn to 153196 ticks, allowed: 100000"
    ):
        make_hand(parse_hand(values, "tendons.yaml"))


def test_a_hand_without_motors_is_no_dynamixel_hand() -> None:
    with pytest.raises(HandMismatchError, match="mock has 0 motors for 6 joints"):
        make_hand(load_hand("mock"), "dynamixel")
