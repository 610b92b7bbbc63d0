"""What the driver measures of chunks and of the bus, on a clock of the test."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hand_driver.actions import JointActions
from hand_driver.control import Driver
from hand_driver.device import FloatArray, Reading

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import PERIOD, SPEC, RecordingHand, Rig


class SlowHand(RecordingHand):
    """A bus whose reads and writes take their time."""

    now = 50.0

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        self.now += 0.002
        return super().command(targets, stiffness)

    def read(self) -> Reading:
        self.now += 0.003
        return super().read()


@pytest.fixture
def hand() -> SlowHand:
    return SlowHand(SPEC)


@pytest.fixture
def driver(hand: SlowHand) -> Driver:
    made = Driver(hand, SPEC, JointActions(SPEC), clock=lambda: hand.now)
    made.start(100.0)
    made.begin("e", 0, 100.0)
    return made


def test_bus_times_are_those_of_the_back_end(driver: Driver) -> None:
    for i in range(5):
        driver.step(100.0 + i * PERIOD)
    assert driver.read_time.count == driver.write_time.count == 5
    assert driver.read_time.longest == pytest.approx(0.003)
    assert driver.write_time.longest == pytest.approx(0.002)


def test_a_bus_that_fails_is_measured_too(driver: Driver, hand: SlowHand) -> None:
    hand.world.unplugged = True
    driver.step(100.0)
    assert driver.read_time.count == driver.write_time.count == 1
    assert driver.read_time.longest == pytest.approx(0.003)


def test_an_action_is_delayed_from_the_arrival_of_its_chunk_until_it_was_sent(
    driver: Driver, hand: SlowHand
) -> None:
    example = Rig()
    first = example.chunk(np.zeros((3, 6)))
    arrived = hand.now
    hand.now += 0.004
    assert driver.offer(first, 100.0, arrived)
    for i in range(3):
        driver.step(100.0 + i * PERIOD)
    assert driver.action_delay.count == 1
    assert driver.action_delay.longest == pytest.approx(0.004 + 0.002)
