"""Positions that no joint can have come to: a single one is not believed, two in a row are a fault."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hand_driver.device import Reading
from hand_driver.safety import Refusal
from hand_driver.safety_core import Mode
from hand_driver.safety_reading import Plausibility

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import NEAR, PERIOD, SPEC, RecordingHand, Rig, moving

NEUTRAL = SPEC.values("neutral")
FURTHEST = SPEC.safety.max_reading_speed * PERIOD
"""[rad] that a joint may have moved between two readings."""


def reading(offset: float = 0.0, valid: bool = True) -> Reading:
    """The neutral pose, with joint 1 somewhere else."""
    values = np.zeros(len(NEUTRAL))
    position, read = NEUTRAL.copy(), np.ones(len(NEUTRAL), dtype=np.bool_)
    position[1] += offset
    read[1] = valid
    return Reading(position, values + offset, values, values, read)


@pytest.fixture
def checked() -> Plausibility:
    plausibility = Plausibility(SPEC)
    assert plausibility.check(reading(), 0.0).valid.all()
    return plausibility


def test_a_single_impossible_position_keeps_what_was_read_before(checked: Plausibility) -> None:
    found = checked.check(reading(1.1 * FURTHEST), PERIOD)
    assert np.flatnonzero(~found.valid).tolist() == [1] and not found.faults
    np.testing.assert_array_equal(found.position, NEUTRAL)
    assert found.velocity[1] == 0.0 and found.velocity[0] == 1.1 * FURTHEST
    found = checked.check(reading(0.1), 2 * PERIOD)
    assert found.valid.all() and found.position[1] == NEUTRAL[1] + 0.1 and checked.misread == 1


def test_two_in_a_row_at_one_place_are_a_fault_and_believed(checked: Plausibility) -> None:
    checked.check(reading(-2 * np.pi), PERIOD)
    found = checked.check(reading(-2 * np.pi), 2 * PERIOD)
    assert found.valid.all() and found.position[1] == NEUTRAL[1] - 2 * np.pi
    (fault,) = found.faults
    assert fault == (
        "index_pip went from 0.200 to -6.083 in 0.020 s, allowed: 30.0 rad/s (max_reading_speed); "
        "its encoder, or a lost turn of its motor?"
    )
    assert not checked.check(reading(-2 * np.pi), 3 * PERIOD).faults


def test_two_in_a_row_at_different_places_are_both_misread(checked: Plausibility) -> None:
    for step, offset in enumerate((1.0, -1.0, 2.0, -2.0), start=1):
        found = checked.check(reading(offset), step * PERIOD)
        assert not found.valid[1] and found.position[1] == NEUTRAL[1] and not found.faults
    assert checked.misread == 4


@pytest.mark.parametrize("valid", [True, False])
def test_what_was_not_read_for_long_may_be_farther_away(checked: Plausibility, valid: bool) -> None:
    if not valid:
        assert not checked.check(reading(9.0, valid=False), PERIOD).valid[1]
    assert checked.check(reading(3.9 * FURTHEST), 4 * PERIOD).valid.all() and checked.misread == 0


def test_the_first_reading_is_believed_wherever_it_is(checked: Plausibility) -> None:
    checked.forget()
    assert checked.check(reading(1.5), PERIOD).valid.all()


class Misreading(RecordingHand):
    """Its next readings of joint 1 are off by this much, one after the other."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.offsets: list[float] = []

    def read(self) -> Reading:
        found = super().read()
        if not self.offsets:
            return found
        position = found.position.copy()
        position[1] += self.offsets.pop(0)
        return replace(found, position=position)


def rig_with(hand: Misreading) -> Rig:
    rig = Rig()
    hand.world = rig.world
    rig.hand = rig.driver.hand = hand
    return rig


def test_a_misread_position_disturbs_no_movement() -> None:
    hand = Misreading()
    rig = rig_with(hand)
    moving(rig)
    hand.offsets = [1.0, -1.0]
    for _ in range(2):
        assert rig.step().decision.mode is Mode.ACTIVE
        assert not rig.driver.reading.valid[1] and abs(rig.driver.reading.position[1] - NEUTRAL[1]) < 0.5
    assert rig.step().decision.mode is Mode.ACTIVE and rig.driver.reading.valid.all()
    assert rig.driver.counters["misread_positions"] == 2


def test_a_joint_that_is_never_where_it_can_be_is_not_read() -> None:
    hand = Misreading()
    rig = rig_with(hand)
    moving(rig)
    hand.offsets = [1.0, -1.0, 2.0, -2.0]
    outcome = rig.steps(SPEC.safety.read_failures + 1)
    assert (
        outcome.decision.mode is Mode.HOLD
        and "index_pip was not read 3 times in a row" in outcome.decision.faults
    )


def test_an_encoder_that_lost_its_place_stops_the_hand_and_does_not_draw_it_there() -> None:
    hand = Misreading()
    rig = rig_with(hand)
    moving(rig)
    before = rig.world.target.copy()
    hand.offsets = [-2 * np.pi] * 60
    outcome = rig.steps(3)
    assert outcome.decision.mode is Mode.HOLD and "index_pip went from" in outcome.decision.faults[0]
    with pytest.raises(Refusal, match=r"index_pip is at -\d\.\d+, more than 0\.5 beyond .*a lost turn"):
        rig.recover()
    rig.steps(20)
    assert np.abs(rig.world.target - before).max() < 0.2
    hand.offsets = []
    rig.recover()
    rig.steps(10)
    moving(rig)


def test_a_pose_that_the_next_reading_does_not_confirm_is_none_to_begin_from() -> None:
    hand = Misreading()
    rig = rig_with(hand)
    rig.driver.close()
    hand.offsets = [0.0, 0.7]
    with pytest.raises(OSError, match="the pose at the start is unknown: index_pip was not read"):
        rig.driver.start(rig.now)
    rig.driver.start(rig.now)
    np.testing.assert_allclose(rig.driver.safety.command, NEAR - 0.3, atol=1e-4)
