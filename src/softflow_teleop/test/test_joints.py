"""Joint targets by name, a pose that keys and sticks move, and when the hand is the human's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from softflow_teleop.joints import HandLimits, Jog, TargetError, merge_targets
from softflow_teleop.takeover import Takeover

LIMITS = HandLimits(("a", "b", "c"), np.array([-1.0, 0.0, -2.0]), np.array([1.0, 2.0, 0.0]), np.full(3, 1.0))
POSE = np.array([0.1, 0.2, -0.3])


def test_names_come_in_any_order_and_need_not_be_all() -> None:
    np.testing.assert_array_equal(merge_targets(LIMITS, POSE, ["c", "a"], [-1.0, 0.5]), [0.5, 0.2, -1.0])
    np.testing.assert_array_equal(merge_targets(LIMITS, POSE, ["b"], [9.0]), [0.1, 2.0, -0.3])
    np.testing.assert_array_equal(POSE, [0.1, 0.2, -0.3])


@pytest.mark.parametrize(
    ("names", "positions", "text"),
    [
        ([], [], "name has 0 entries and position 0"),
        (["a"], [], "name has 1 entries and position 0"),
        (["a", "b"], [0.0], "name has 2 entries and position 1"),
        (["a", "a"], [0.0, 0.1], "name 'a' comes twice"),
        (["d"], [0.0], "joint 'd' is unknown; known: a, b, c"),
        (["a", "b"], [0.0, math.nan], "position of 'b' is nan, must be finite"),
        (["a"], [math.inf], "position of 'a' is inf, must be finite"),
    ],
)
def test_targets_that_are_refused(names: list[str], positions: list[float], text: str) -> None:
    with pytest.raises(TargetError, match=text):
        merge_targets(LIMITS, POSE, names, positions)


def test_joints_and_synergies_move_within_the_range() -> None:
    jog = Jog(LIMITS, {"grasp": {"a": 1.0, "c": -2.0}}, POSE)
    jog.joint("b", 0.25)
    np.testing.assert_allclose(jog.pose, [0.1, 0.7, -0.3])
    jog.synergy("grasp", 0.5)
    np.testing.assert_allclose(jog.pose, [0.6, 0.7, -1.3])
    jog.synergy("grasp", 10.0)
    np.testing.assert_allclose(jog.pose, [1.0, 0.7, -2.0])
    with pytest.raises(TargetError, match="synergy 'spread' is unknown; known: grasp"):
        jog.synergy("spread", 0.1)
    with pytest.raises(TargetError, match="joint 'z' is unknown"):
        Jog(LIMITS, {"grasp": {"z": 1.0}}, POSE)


def test_targets_take_the_hand_and_silence_gives_it_back() -> None:
    takeover = Takeover(silence=0.5, by_targets=True)
    assert not takeover.look(0.0)
    assert takeover.heard(1.0) and takeover.look(1.5) and takeover.heard(1.5)
    assert takeover.look(2.0) and not takeover.look(2.1)
    assert takeover.heard(3.0) and takeover.taken == 2


def test_a_device_that_goes_on_after_it_was_sent_away_does_not_take_the_hand_again() -> None:
    takeover = Takeover(silence=0.5, by_targets=True)
    assert takeover.heard(1.0)
    takeover.give()
    assert not takeover.heard(1.1) and not takeover.heard(1.4) and not takeover.look(1.4)
    takeover.take(1.5)
    assert takeover.heard(1.6)
    takeover.give()
    assert takeover.heard(2.5), "a pause, and then a human who means it"


def test_by_command_alone_targets_take_nothing() -> None:
    takeover = Takeover(silence=0.5, by_targets=False)
    assert not takeover.heard(1.0)
    takeover.take(1.1)
    assert takeover.heard(1.2) and takeover.look(1.6) and not takeover.look(1.8)
    assert not takeover.heard(1.9), "a device that fell silent must be given the hand anew"
