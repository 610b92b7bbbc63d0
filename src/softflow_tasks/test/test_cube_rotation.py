"""The cube rotation task: layout, reward, drop, time limit, and the hand's kinematics."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softflow_tasks import CubeRotation, HandSample, ObjectSample, make_task, palmdown, task_ids
from softflow_tasks.cube_rotation import REST_HEIGHT
from softflow_tasks.task import Layout, StateVector, register

TASK = CubeRotation()
ZERO3 = np.zeros(3)


def state(
    yaw: float = 0.0, x: float = 0.0, y: float = 0.0, z: float = REST_HEIGHT, tilt: float = 0.0
) -> StateVector:
    """A state with the cube turned by `yaw` about the vertical, after a tilt about x [rad]."""
    cy, sy, ct, st_ = np.cos(yaw / 2), np.sin(yaw / 2), np.cos(tilt / 2), np.sin(tilt / 2)
    quaternion = np.array([cy * st_, sy * st_, sy * ct, cy * ct])
    hand = HandSample(np.arange(12.0) / 10, np.zeros(12), np.arange(8.0) / 8, np.zeros(12))
    cube = ObjectSample(np.array([x, y, z]), quaternion, ZERO3 + 0.5, ZERO3 + 2.0)
    return TASK.observe(hand, {"cube": cube})


def test_layout_is_gapless_and_as_large_as_it_says() -> None:
    slices = list(TASK.layout.slices().values())
    assert slices[0].start == 0 and slices[-1].stop == TASK.layout.size == 34
    assert all(a.stop == b.start for a, b in itertools.pairwise(slices))
    assert state().shape == (34,) and state().dtype == np.float32


def test_blocks_hold_what_they_are_named_after() -> None:
    vector, slices = state(yaw=0.1, x=0.01, tilt=0.3), TASK.layout.slices()
    np.testing.assert_allclose(vector[slices["joint_position"]], np.arange(12) / 10, rtol=1e-6)
    np.testing.assert_allclose(vector[slices["last_action"]], np.arange(8) / 8)
    np.testing.assert_allclose(vector[slices["cube_offset"]], [0.5, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(vector[slices["cube_up"]][2], np.cos(0.3), rtol=1e-6)
    np.testing.assert_allclose(vector[slices["cube_linear_velocity"]], 1.0)
    np.testing.assert_allclose(vector[slices["cube_angular_velocity"]], 0.4, rtol=1e-6)


def test_layout_hash_changes_with_everything_that_changes_the_meaning() -> None:
    base = Layout("t", (("a", 2, "rad"), ("b", 3, "m")))
    others = [
        Layout("u", base.blocks),
        Layout("t", (("b", 3, "m"), ("a", 2, "rad"))),
        Layout("t", (("a", 2, "rad"), ("b", 3, "m * 2"))),
        Layout("t", (("a", 3, "rad"), ("b", 2, "m"))),
        Layout("t", (("c", 2, "rad"), ("b", 3, "m"))),
    ]
    assert len({layout.hash for layout in [base, *others]}) == 6
    assert Layout("t", base.blocks).hash == base.hash


def test_layout_hash_is_the_one_that_recorded_data_carry() -> None:
    # A change here makes all recorded bags and weights unusable: it needs a new task id.
    assert TASK.layout.hash == "aa3e5c39275acd634053b10c5e071948c506f94bef8d78158268d72de1a1feb3"


@given(st.floats(-np.pi, np.pi), st.floats(-0.7, 0.7))
def test_turn_is_the_change_of_yaw_also_across_the_wrap(yaw: float, change: float) -> None:
    assert TASK.turn(state(yaw), state(yaw + change)) == pytest.approx(change, abs=1e-5)


@given(st.floats(-np.pi, np.pi), st.floats(-0.7, 0.7))
def test_reward_is_the_turn_clipped(yaw: float, change: float) -> None:
    outcome = TASK.advance(TASK.begin(), state(yaw), state(yaw + change))
    assert outcome.reward == pytest.approx(float(np.clip(change, -0.3, 0.3)), abs=1e-5)
    assert not outcome.terminated and not outcome.truncated and outcome.cause == ""


def test_counterclockwise_from_above_is_rewarded() -> None:
    assert TASK.advance(TASK.begin(), state(0.0), state(0.1)).reward > 0.09
    assert TASK.advance(TASK.begin(), state(0.1), state(0.0)).reward < -0.09


TILT = float(np.arccos(TASK.DROP_TILT))


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"z": REST_HEIGHT - 0.0099}, {"z": REST_HEIGHT - 0.0101}),
        ({"tilt": TILT - 0.01}, {"tilt": TILT + 0.01}),
        ({"tilt": -TILT + 0.01}, {"tilt": -TILT - 0.01}),
        ({"x": 0.0249}, {"x": 0.0251}),
        ({"y": -0.0249}, {"y": -0.0251}),
        ({"x": 0.017, "y": 0.017}, {"x": 0.018, "y": 0.018}),
    ],
)
def test_each_way_to_drop_the_cube(inside: dict[str, float], outside: dict[str, float]) -> None:
    held = TASK.advance(TASK.begin(), state(), state(**inside))
    dropped = TASK.advance(TASK.begin(), state(), state(**outside))
    assert not held.terminated
    assert dropped.terminated and not dropped.truncated and dropped.cause == "dropped"
    assert dropped.reward == pytest.approx(-TASK.DROP_PENALTY, abs=1e-5)


def test_a_cube_held_higher_than_at_rest_is_not_dropped() -> None:
    assert not TASK.dropped(state(z=REST_HEIGHT + 0.05))


def test_the_time_limit_truncates_and_does_not_terminate() -> None:
    progress = TASK.begin()
    outcomes = [TASK.advance(progress, state(), state()) for _ in range(TASK.horizon)]
    assert not any(o.truncated or o.terminated for o in outcomes[:-1])
    assert outcomes[-1].truncated and not outcomes[-1].terminated and outcomes[-1].cause == "time_limit"


def test_a_drop_at_the_time_limit_terminates() -> None:
    progress = TASK.begin()
    for _ in range(TASK.horizon - 1):
        TASK.advance(progress, state(), state())
    last = TASK.advance(progress, state(), state(x=0.1))
    assert last.terminated and not last.truncated


def test_metric_counts_turns_before_a_drop_over_the_whole_time_limit() -> None:
    progress = TASK.begin()
    for i in range(10):
        TASK.advance(progress, state(0.1 * i), state(0.1 * (i + 1)))
    TASK.advance(progress, state(1.0), state(1.2, x=0.1))
    turns, minutes = 1.0 / (2 * np.pi), 400 / 20 / 60
    assert TASK.metrics(progress)[TASK.metric] == pytest.approx(turns / minutes, abs=1e-4)
    assert TASK.metrics(progress)["steps"] == 11


@pytest.mark.parametrize(("rpm", "success"), [(6.0, False), (6.5, True)])
def test_success_needs_the_speed_and_the_whole_episode(rpm: float, success: bool) -> None:
    progress = TASK.begin()
    step = rpm * 2 * np.pi / 60 / 20
    for i in range(TASK.horizon - 1):
        TASK.advance(progress, state(step * i), state(step * (i + 1)))
    assert not TASK.success(progress)
    TASK.advance(progress, state(0.0), state(step))
    assert TASK.success(progress) is success


def test_check_state_names_size_and_entry() -> None:
    TASK.check_state(state())
    with pytest.raises(ValueError, match=r"\(33,\).*\(34,\)"):
        TASK.check_state(state()[:-1])
    broken = state()
    broken[TASK.layout.slices()["cube_up"].start + 1] = np.inf
    with pytest.raises(ValueError, match=r"cube_up.*inf.*finite"):
        TASK.check_state(broken)


def test_registry_knows_the_task_and_names_what_it_does_not() -> None:
    assert isinstance(make_task("CubeRotation-v0"), CubeRotation) and "CubeRotation-v0" in task_ids()
    with pytest.raises(ValueError, match=r"'CubeRotation-v9'.*CubeRotation-v0"):
        make_task("CubeRotation-v9")
    with pytest.raises(ValueError, match="taken"):
        register("CubeRotation-v0", CubeRotation)


@given(arrays(np.float64, 8, elements=st.floats(-1.0, 1.0)))
def test_every_action_gives_joints_inside_the_limits(action: np.ndarray) -> None:
    joints = TASK.action_to_joints(action, np.zeros(12))
    assert joints.shape == (12,)
    assert (joints >= palmdown.JOINT_LOWER).all() and (joints <= palmdown.JOINT_UPPER).all()


@given(st.floats(-0.025, 0.025), st.floats(0.03, 0.055), st.floats(palmdown.GRASP_HEIGHT, 0.09))
def test_inverse_kinematics_reach_the_point(tangential: float, radial: float, height: float) -> None:
    abduction, mcp, pip = palmdown.inverse_kinematics(tangential, radial, height)
    inward = palmdown.PROXIMAL * np.sin(mcp) + palmdown.DISTAL * np.sin(mcp + pip)
    depth = palmdown.PROXIMAL * np.cos(mcp) + palmdown.DISTAL * np.cos(mcp + pip)
    reached = (
        depth * np.sin(abduction),
        palmdown.BASE_RADIUS - inward,
        palmdown.BASE_HEIGHT - depth * np.cos(abduction),
    )
    np.testing.assert_allclose(reached, (tangential, radial, height), atol=1e-9)


def test_a_synergy_that_closes_outwards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.05.*0\.04"):
        palmdown.ClosureSynergy(open_radius=0.04, closed_radius=0.05)
