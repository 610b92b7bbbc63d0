"""Trajectories: what is accepted, where they go, and that whatever they ask for the safety core's bounds hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hand_driver.safety import Refusal
from hand_driver.safety_lease import Priority
from hand_driver.trajectory import Trajectory, checked_trajectory, with_targets

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import SPEC, Rig

NAMES = list(SPEC.joint_names)
LOWER, UPPER, NEUTRAL = SPEC.values("lower"), SPEC.values("upper"), SPEC.values("neutral")


def made(names: list[str], times: list[float], positions: Any, velocities: Any = None) -> Trajectory:
    rows = [np.array(p, dtype=np.float64) for p in positions]
    slopes = [np.array(v, dtype=np.float64) for v in velocities or [[]] * len(rows)]
    return checked_trajectory(names, times, rows, slopes, SPEC)


TWO = NAMES[:2]


@pytest.mark.parametrize(
    ("names", "times", "positions", "velocities", "words"),
    [
        ([], [1.0], [[]], None, "joint_names is empty"),
        (["nose"], [1.0], [[0.0]], None, r"joint_names\[0\] is 'nose', must be one of index_mcp"),
        ([NAMES[0], NAMES[0]], [1.0], [[0.0, 0.0]], None, r"joint_names\[1\] is 'index_mcp', comes twice"),
        (TWO, [], [], None, "points is empty"),
        (TWO, [1.0], [[0.0]], None, r"points\[0\].positions has 1 values, joint_names has 2"),
        (
            TWO,
            [1.0, 1.0],
            [[0.0, 0.0]] * 2,
            None,
            r"points\[1\].time_from_start is 1.0 s, must be after 1.0 s",
        ),
        (TWO, [-1.0], [[0.0, 0.0]], None, r"points\[0\].time_from_start is -1.0 s, must be after 0.0 s"),
        (
            TWO,
            [1.0],
            [[0.0, np.nan]],
            None,
            r"points\[0\].positions\[1\] \(index_pip\) is nan, must be finite",
        ),
        (TWO, [1.0], [[0.0, 57.3]], None, r"positions\[1\] \(index_pip\) is 57.3, must be in \[-0.4, 1.6\]"),
        (
            TWO,
            [1.0],
            [[0.0, 0.0]],
            [[9.0, 0.0]],
            r"velocities\[0\] \(index_mcp\) is 9, must be in \[-4.0, 4.0\]",
        ),
        (TWO, [1.0], [[0.0, 0.0]], [[np.inf, 0.0]], r"velocities\[0\] \(index_mcp\) is inf, must be finite"),
        (
            TWO,
            [1.0, 2.0],
            [[0.0, 0.0]] * 2,
            [[0.0, 0.0], []],
            r"points\[1\].velocities has 0 values, must have 2",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    names: list[str], times: list[float], positions: Any, velocities: Any, words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        made(names, times, positions, velocities)


@pytest.mark.parametrize(
    ("names", "values", "words"),
    [
        ([], [], "name is empty"),
        (["thumb_mcp", "nose"], [0.0, 0.0], r"name\[1\] is 'nose'"),
        (["thumb_mcp", "thumb_mcp"], [0.0, 0.0], r"name\[1\] is 'thumb_mcp', comes twice"),
        (["thumb_mcp"], [0.0, 0.0], "position has 2 values, name has 1"),
        (["thumb_mcp"], [np.nan], r"position\[0\] \(thumb_mcp\) is nan, must be finite"),
    ],
)
def test_targets_that_cannot_be_followed_are_refused_by_name(
    names: list[str], values: list[float], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        with_targets(names, np.array(values), NAMES, NEUTRAL)


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(len(NAMES))), st.integers(1, len(NAMES)))
def test_targets_come_in_any_order_and_the_others_stay(order: list[int], count: int) -> None:
    chosen = order[:count]
    values = np.arange(len(NAMES)) / 10.0
    targets = with_targets([NAMES[i] for i in chosen], values[chosen], NAMES, NEUTRAL)
    for i in range(len(NAMES)):
        assert targets[i] == (values[i] if i in chosen else NEUTRAL[i])


def cubic(t: float) -> float:
    return 0.1 + 0.2 * t - 0.3 * t**2 + 0.1 * t**3


def slope(t: float) -> float:
    return 0.2 - 0.6 * t + 0.3 * t**2


def test_a_cubic_is_followed_exactly_where_knots_have_velocities() -> None:
    times = [0.5, 1.0, 2.0]
    t = made([NAMES[0]], times, [[cubic(x)] for x in times], [[slope(x)] for x in times])
    for x in np.linspace(0.5, 2.0, 31):
        np.testing.assert_allclose(t.sample(x, 0.0, np.array([9.0]))[0], cubic(x), atol=1e-12)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(-0.4, 1.6)), min_size=1, max_size=6),
    st.booleans(),
    st.floats(0.0, 3.0),
)
def test_it_goes_through_its_knots_from_where_the_hand_is_and_never_jumps(
    steps: list[tuple[float, float]], smooth: bool, begin: float
) -> None:
    times = np.cumsum([s for s, _ in steps]).tolist()
    values = [[v] for _, v in steps]
    t = made([NAMES[0]], times, values, [[0.0]] * len(values) if smooth else None)
    pose = np.array([0.3])
    assert t.sample(begin, begin, pose)[0] == (0.3 if begin < t.end else values[-1][0])
    for time, value in zip(times, values, strict=True):
        if time > begin:
            np.testing.assert_allclose(t.sample(time, begin, pose), value, atol=1e-9)
    if begin < t.end:
        fine = np.linspace(begin, t.end + 0.1, 400)
        path = np.array([t.sample(x, begin, pose)[0] for x in fine])
        # A cubic between two resting knots is at most 1.5 times as steep as the line.
        knots = [begin, *(x for x in times if x > begin)]
        spans = np.diff([0.3, *(v[0] for x, v in zip(times, values, strict=True) if x > begin)]) / np.diff(
            knots
        )
        assert np.abs(np.diff(path)).max() <= 1.5 * np.abs(spans).max() * (fine[1] - fine[0]) + 1e-9
        assert path.min() >= -0.4 - 1e-9 and path.max() <= 1.6 + 1e-9
    assert t.sample(t.end + 1.0, begin, pose)[0] == values[-1][0]


def follow(rig: Rig, trajectory: Trajectory, start: float = 0.0) -> int:
    """Until it is over, with every bound checked; returns the periods that took."""
    run = rig.driver.follow(trajectory, start, rig.now)
    for periods in range(2000):
        if run.over:
            assert not run.failure
            return periods
        rig.step()
    raise AssertionError("never over")


def test_the_driver_follows_it_in_time_and_lets_go() -> None:
    rig = Rig()
    goal = NEUTRAL[[2, 0]] + [0.4, -0.3]
    periods = follow(rig, made([NAMES[2], NAMES[0]], [0.5, 1.0], [NEUTRAL[[2, 0]], goal]))
    np.testing.assert_allclose(rig.last[[2, 0]], goal, atol=1e-6)
    others = [1, 3, 4, 5]
    np.testing.assert_allclose(rig.last[others], NEUTRAL[others], atol=1e-5)
    assert abs(periods * SPEC.period - 1.0) <= 5 * SPEC.period
    rig.step()
    assert rig.driver.safety.lease.current(rig.now) == "" and rig.driver.at.source == ""


def test_one_that_asks_for_too_much_speed_is_followed_at_the_limits() -> None:
    rig = Rig()
    goal = np.minimum(NEUTRAL + 0.9, UPPER - 0.2)
    follow(rig, made(NAMES, [0.05], [goal]))
    matrix, bounds = SPEC.pair_matrix
    assert (matrix @ rig.last <= bounds + 1e-9).all()
    np.testing.assert_allclose(rig.last[1:4], goal[1:4], atol=1e-6)


def test_a_jump_ends_it_and_a_new_one_takes_its_place() -> None:
    rig = Rig()
    run = rig.driver.follow(made([NAMES[0]], [0.0], [[NEUTRAL[0] + 0.9]]), 0.0, rig.now)
    rig.step()
    assert run.over and "0.900 from where it was; allowed: 0.5" in run.failure
    assert rig.driver.counters["refused_targets"] == 1
    first = rig.driver.follow(made([NAMES[0]], [1.0], [[0.5]]), 0.0, rig.now)
    rig.steps(10)
    second = rig.driver.follow(made([NAMES[1]], [1.0], [[0.5]]), 0.0, rig.now)
    rig.steps(300)
    assert first.over and "took its place" in first.failure and second.over and not second.failure


@pytest.mark.parametrize(("stamp", "words"), [(10.0, "ahead of the robot clock"), (0.05, "it ended before")])
def test_stamps_far_from_now_are_refused(stamp: float, words: str) -> None:
    rig = Rig()
    rig.steps(100)
    with pytest.raises(Refusal, match=words):
        rig.driver.follow(made([NAMES[0]], [0.5], [[0.5]]), stamp, rig.now)


def test_it_begins_when_its_stamp_says() -> None:
    rig = Rig()
    rig.steps(100)
    run = rig.driver.follow(made([NAMES[0]], [0.5], [[0.5]]), rig.driver.robot_time + 1.0, rig.now)
    rig.steps(95)
    np.testing.assert_allclose(rig.last, NEUTRAL, atol=1e-5)
    rig.steps(110)
    assert run.over and rig.last[0] == pytest.approx(0.5)


@pytest.mark.parametrize("what", ["estop", "fault", "hold", "teleop holds", "episode"])
def test_it_ends_when_the_hand_may_not_be_moved(what: str) -> None:
    rig = Rig()
    trajectory = made([NAMES[0]], [1.0], [[1.2]])
    if what == "teleop holds":
        rig.driver.stream("teleop", NEUTRAL, rig.now)
        with pytest.raises(Refusal, match="the hand is held by 'teleop'"):
            rig.driver.follow(trajectory, 0.0, rig.now)
        return
    run = rig.driver.follow(trajectory, 0.0, rig.now)
    rig.steps(20)
    if what == "estop":
        rig.driver.safety.estop("button")
    elif what == "fault":
        rig.world.alarms = {1: "overload"}
        rig.step()
    elif what == "hold":
        rig.driver.safety.hold("coffee")
    else:
        rig.begin("another")
    rig.steps(2)
    assert run.over and run.failure
    rig.steps(10)
    held = rig.last.copy()
    rig.steps(30)
    np.testing.assert_array_equal(rig.last, held)
    if rig.driver.safety.blocked:
        with pytest.raises(Refusal, match=r"estop: button|fault: |hold: coffee"):
            rig.driver.follow(trajectory, 0.0, rig.now)


def test_the_holder_of_a_policy_loses_the_hand_to_it_and_gets_it_back() -> None:
    rig = Rig()
    rig.driver.safety.lease.acquire("policy", Priority.POLICY, rig.now)
    rig.offer(NEUTRAL, steps=10)
    rig.steps(3)
    run = rig.driver.follow(made([NAMES[0]], [0.2], [[0.4]]), 0.0, rig.now)
    outcome = rig.step()
    assert outcome.stopped is not None and rig.driver.at.source == "trajectory"
    with pytest.raises(Refusal, match="held by 'trajectory'"):
        rig.offer(NEUTRAL)
    while not run.over:
        rig.step()
    assert rig.offer(rig.last)
