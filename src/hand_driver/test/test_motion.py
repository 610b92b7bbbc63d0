"""Targets on their way: they arrive, never beyond speed and acceleration, never past range or goal, never together."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hand_driver.hand_file import load_hand
from hand_driver.hand_spec import HandSpec, Joint, Pair
from hand_driver.safety_motion import MotionLimiter

MOCK = load_hand("mock")
ONE = np.ones(len(MOCK.joints))
LOWER, UPPER = MOCK.values("lower"), MOCK.values("upper")
SPEED = MOCK.values("max_velocity") * MOCK.period
CHANGE = MOCK.values("max_acceleration") * MOCK.period**2


def walk(limiter: MotionLimiter, goals: list[np.ndarray], each: int) -> np.ndarray:
    """Targets (N + 1, J) of `each` steps towards every goal."""
    rows = [limiter.command]
    for goal in goals:
        rows += [limiter.step(goal, ONE).copy() for _ in range(each)]
    return np.array(rows)


def at(pose: np.ndarray, spec: HandSpec = MOCK) -> MotionLimiter:
    limiter = MotionLimiter(spec)
    limiter.start(pose)
    return limiter


goals = st.lists(arrays(np.float64, len(MOCK.joints), elements=st.floats(-3, 3)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(goals, st.integers(1, 30))
def test_speed_acceleration_and_range_hold_however_the_goal_moves(goals: list[np.ndarray], each: int) -> None:
    rows = walk(at(MOCK.values("neutral")), goals, each)
    moves = np.diff(rows, axis=0, prepend=rows[:1])
    assert (rows >= LOWER).all() and (rows <= UPPER).all()
    assert (np.abs(moves) <= SPEED + 1e-12).all()
    assert (np.abs(np.diff(moves, axis=0)) <= CHANGE + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, len(MOCK.joints), elements=st.floats(0, 1)))
def test_a_goal_that_rests_is_reached_without_passing_it_and_in_good_time(share: np.ndarray) -> None:
    spec = dataclasses.replace(MOCK, pairs=())
    start, goal = spec.values("neutral"), LOWER + share * (UPPER - LOWER)
    limiter = at(start, spec)
    rows = walk(limiter, [goal], 80)
    assert np.abs(rows[-1] - goal).max() < 1e-9
    way = (rows - start) * np.sign(goal - start)
    assert (np.diff(way, axis=0) >= -1e-12).all() and (way <= np.abs(goal - start) + 1e-12).all()
    # A trapezoid takes distance / speed + speed / acceleration; one period more for the grid, twice.
    best = np.abs(goal - start).max() / SPEED[0] + SPEED[0] / CHANGE[0]
    assert np.abs(rows[int(np.ceil(best)) + 2 if best < 77 else 80] - goal).max() < 1e-9


def test_from_out_of_range_a_joint_comes_back_slowly_and_never_goes_further_out() -> None:
    limiter = at(UPPER + 0.3)
    rows = walk(limiter, [UPPER + 1.0], 60)
    assert (np.diff(rows, axis=0) <= 1e-12).all() and (np.abs(np.diff(rows, axis=0)) <= SPEED + 1e-12).all()
    np.testing.assert_allclose(rows[-1], UPPER, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(goals, st.integers(1, 30))
def test_pairs_are_kept_apart_with_braking_distance_to_spare(goals: list[np.ndarray], each: int) -> None:
    pairs = (
        *MOCK.pairs,
        Pair((("index_mcp", 1.0), ("middle_mcp", -1.0)), 0.5),
        Pair((("index_pip", -1.0),), -0.1),
    )
    spec = dataclasses.replace(MOCK, pairs=pairs)
    rows = walk(at(spec.values("neutral"), spec), goals, each)
    matrix, bounds = spec.pair_matrix
    assert (rows @ matrix.T <= bounds + 1e-9).all()
    moves = np.diff(rows, axis=0, prepend=rows[:1])
    assert (np.abs(np.diff(moves, axis=0)) <= CHANGE + 1e-12).all()


def test_a_pair_lets_the_hand_come_close_and_then_open_again() -> None:
    thumb, index = MOCK.joint_names.index("thumb_abd"), MOCK.joint_names.index("index_mcp")
    goal = MOCK.values("neutral")
    goal[[thumb, index]] = 0.8, 1.6  # 2.4; allowed are 1.8
    limiter = at(MOCK.values("neutral"))
    closed = walk(limiter, [goal], 200)[-1]
    assert 1.75 < closed[thumb] + closed[index] <= 1.8 + 1e-9
    opened = walk(limiter, [MOCK.values("neutral")], 100)[-1]
    np.testing.assert_allclose(opened, MOCK.values("neutral"), atol=1e-9)


def test_from_a_pose_in_which_fingers_touch_only_opening_is_possible() -> None:
    pose = MOCK.values("neutral")
    thumb, index = MOCK.joint_names.index("thumb_abd"), MOCK.joint_names.index("index_mcp")
    pose[[thumb, index]] = 0.7, 1.5
    limiter = at(pose)
    goal = pose.copy()
    goal[[thumb, index]] = 0.8, 1.4
    rows = walk(limiter, [goal], 60)
    assert (rows[:, thumb] == 0.7).all() and abs(rows[-1, index] - 1.4) < 1e-9


def test_what_did_not_reach_the_hand_is_taken_back() -> None:
    limiter = at(MOCK.values("neutral"))
    walk(limiter, [UPPER], 5)
    before = limiter.command.copy()
    limiter.step(UPPER, ONE)
    limiter.undo()
    np.testing.assert_array_equal(limiter.command, before)
    assert (np.abs(limiter.step(UPPER, ONE) - before) <= CHANGE + 1e-12).all()  # from rest


def test_a_wide_acceleration_leaves_the_numbers_of_the_plain_clamp() -> None:
    joint = Joint("a", -1.0, 1.0, 0.0, "revolute", 3.0, 1e6, 1.0, 2.0, 1.0, 2.0)
    spec = HandSpec("one", "mock", 20.0, (joint,))
    limiter = at(np.zeros(1), spec)
    step = 3.0 * spec.period
    for wanted in (0.1, 0.1 + step * 0.999, -1.0, 0.3, 5.0, 0.123456789):
        previous = limiter.command
        expected = np.clip(np.clip(wanted, previous - step, previous + step), -1.0, 1.0)
        assert limiter.step(np.array([wanted]), np.ones(1)).tobytes() == expected.tobytes()
