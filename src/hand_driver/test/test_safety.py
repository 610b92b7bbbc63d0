"""Clamps never let anything beyond limits or speed; the pacer keeps its grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hand_driver.device import Description
from hand_driver.pacing import Pacer, parse_speed
from hand_driver.safety import Refusal, check_finite, clamp_action, clamp_targets

LOWER, UPPER = np.array([-1.0, -0.5, 0.0]), np.array([1.0, 0.5, 2.0])
DESCRIPTION = Description(
    hand="toy",
    backend="toy",
    joint_names=("a", "b", "c"),
    lower=LOWER,
    upper=UPPER,
    max_velocity=np.array([1.0, 2.0, 10.0]),
    action_names=("x",),
    control_rate=20.0,
)
WILD = st.floats(-1e6, 1e6)


@given(arrays(np.float64, 8, elements=WILD))
def test_an_action_ends_in_the_box_and_inside_nothing_changes(action: np.ndarray) -> None:
    clamped = clamp_action(action)
    inside = np.abs(action) <= 1.0
    assert (np.abs(clamped.value) <= 1.0).all()
    np.testing.assert_array_equal(clamped.value[inside], action[inside])
    np.testing.assert_array_equal(clamped.value[~inside], np.sign(action[~inside]))
    assert clamped.changed == np.count_nonzero(~inside)


@given(
    arrays(np.float64, 3, elements=WILD),
    arrays(np.float64, 3, elements=st.floats(0.0, 1.0)),
    st.floats(0.001, 1.0),
)
def test_targets_never_exceed_limits_nor_speed(targets: np.ndarray, share: np.ndarray, period: float) -> None:
    previous = LOWER + share * (UPPER - LOWER)
    value = clamp_targets(targets, DESCRIPTION, previous, period).value
    assert (value >= LOWER).all() and (value <= UPPER).all()
    assert (np.abs(value - previous) <= DESCRIPTION.max_velocity * period + 1e-12).all()
    # As near to the target as the two limits allow: never on the wrong side, never past it.
    reachable = np.clip(targets, LOWER, UPPER)
    assert ((value - previous) * (reachable - previous) >= 0).all()
    assert (np.abs(value - previous) <= np.abs(reachable - previous) + 1e-12).all()


@given(arrays(np.float64, 3, elements=WILD), arrays(np.float64, 3, elements=WILD))
def test_the_joint_limits_hold_even_after_a_reading_outside_them(
    targets: np.ndarray, previous: np.ndarray
) -> None:
    value = clamp_targets(targets, DESCRIPTION, previous, 0.05).value
    assert (value >= LOWER).all() and (value <= UPPER).all()


def test_targets_in_reach_are_not_touched_and_changes_are_counted() -> None:
    near = clamp_targets(np.array([0.01, 0.0, 1.0]), DESCRIPTION, np.array([0.0, 0.0, 1.0]), 0.05)
    assert near.changed == 0 and near.value.tolist() == [0.01, 0.0, 1.0]
    far = clamp_targets(np.array([0.5, 0.0, 9.0]), DESCRIPTION, np.array([0.0, 0.0, 1.8]), 0.05)
    assert far.changed == 2
    np.testing.assert_allclose(far.value, [0.05, 0.0, 2.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_not_finite_is_named(value: float) -> None:
    check_finite("targets", np.zeros(4))
    with pytest.raises(Refusal, match=rf"targets\[2\] is {value}, must be finite"):
        check_finite("targets", np.array([0.0, 1.0, value, value]))


@pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("0.25", 0.25), ("1000", 1000.0), ("max", math.inf)])
def test_speeds(text: str, speed: float) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "fast", "", "nan", "inf", "1001", "Max"])
def test_bad_speeds_name_value_and_bound(text: str) -> None:
    with pytest.raises(ValueError, match=rf"speed is '{text}', must be 'max' or a number in \(0, 1000\]"):
        parse_speed(text)


def test_steps_in_time_stay_on_the_grid() -> None:
    pacer = Pacer(0.05)
    pacer.start(10.0)
    for i in range(100):
        assert pacer.due == pytest.approx(10.0 + 0.05 * i)
        assert pacer.advance(pacer.due + 0.01) == pytest.approx(0.01)


def test_a_step_that_is_a_bit_late_is_caught_up_on_the_same_grid() -> None:
    pacer = Pacer(0.05)
    pacer.start(0.0)
    assert pacer.advance(0.08) == pytest.approx(0.08)
    assert pacer.due == pytest.approx(0.05)
    pacer.advance(0.08)
    assert pacer.due == pytest.approx(0.10)


def test_after_a_long_stall_there_is_no_burst_of_steps() -> None:
    pacer = Pacer(0.05)
    pacer.start(0.0)
    assert pacer.advance(10.0) == pytest.approx(10.0)
    assert pacer.due == 10.0
    pacer.advance(10.0)
    assert pacer.due == pytest.approx(10.05)


@given(st.lists(st.floats(0.0, 0.5), max_size=30))
def test_no_step_is_due_more_than_a_period_ago_after_any_delays(delays: list[float]) -> None:
    pacer = Pacer(0.05)
    pacer.start(0.0)
    now = 0.0
    for delay in delays:
        now = max(now, pacer.due) + delay
        before = pacer.due
        pacer.advance(now)
        assert now - 0.05 - 1e-9 <= pacer.due and pacer.due > before


def test_as_fast_as_possible_is_always_due() -> None:
    pacer = Pacer(0.0)
    pacer.start(1.0)
    for now in (1.0, 1.2, 1.3):
        pacer.advance(now)
        assert pacer.due <= now
