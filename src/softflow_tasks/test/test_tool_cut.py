"""The tool task: layout, rewards in their order, every way to end, and the gantry's action."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softflow_tasks import HandSample, ObjectSample, ToolCut, gantry
from softflow_tasks.task import Outcome, Progress, StateVector
from softflow_tasks.tool_cut import REST_HEIGHT, TAPE_DISTANCE, TAPE_HEIGHT, TAPES

TASK = ToolCut()
OPEN, SHUT, BETWEEN = 0.10, -0.20, -0.15
"""[rad] of an arm from its half-open place: opening 22, 1 and 4.6 mm."""


def sample(place: tuple[float, float, float], turn: float = 0.0, tilt: float = 0.0) -> ObjectSample:
    """At a place, turned about y [rad]; a tilt [rad] is about x, of both arms alike."""
    quaternion = np.array([np.sin(tilt / 2), 0.0, 0.0, np.cos(tilt / 2)])
    if turn:
        quaternion = np.array([0.0, np.sin(turn / 2), 0.0, np.cos(turn / 2)])
    return ObjectSample(np.array(place), quaternion, np.zeros(3), np.zeros(3))


def state(
    place: tuple[float, float, float] = (0.0, 0.0, REST_HEIGHT),
    turn: float = OPEN,
    palm: tuple[float, float, float] | None = None,
    tilt: float = 0.0,
) -> StateVector:
    """The pivot at `place` [m], both arms turned by -+ `turn`, the palm above it."""
    joints = np.concatenate([palm or (place[0], place[1], 0.0), np.zeros(8)])
    hand = HandSample(joints, np.zeros(11), np.linspace(-0.6, 0.6, 7), joints + 0.001)
    tapes = {t: sample((0.0, s * TAPE_DISTANCE, TAPE_HEIGHT)) for t, s in zip(TAPES, (1, -1), strict=True)}
    arms = {
        "tool": sample(place, -turn if not tilt else 0.0, tilt),
        "tool_arm": sample(place, turn if not tilt else 0.0, tilt),
    }
    return TASK.observe(hand, tapes | arms)


def play(*states: StateVector) -> tuple[list[Outcome], Progress]:
    progress = TASK.begin()
    return [TASK.advance(progress, a, b) for a, b in itertools.pairwise(states)], progress


LIFTED = state((0.0, 0.0, REST_HEIGHT + 0.035))


def at_tape(side: int, across: float = 0.0, turn: float = OPEN, height: float = 0.070) -> StateVector:
    return state((across, side * TAPE_DISTANCE, height), turn)


def test_layout_is_gapless_and_as_large_as_it_says() -> None:
    slices = list(TASK.layout.slices().values())
    assert slices[0].start == 0 and slices[-1].stop == TASK.layout.size == 31 == state().size
    assert all(a.stop == b.start for a, b in itertools.pairwise(slices)) and TASK.action_dim == 7


def test_blocks_hold_what_they_are_named_after() -> None:
    vector = state((0.01, 0.02, 0.06), palm=(0.004, 0.016, -0.02))
    expected = {
        "gantry_position": (0.004, 0.016, -0.02),
        "gantry_ahead": (0.001, 0.001, 0.001),
        "tool_position": (0.01, 0.02, 0.06),
        "tool_in_hand": (0.006, 0.004),
        "last_closure": np.linspace(-0.6, 0.6, 7)[3:],
        "jaw_to_tapes": (0.01, 0.01),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(TASK.block(vector, name), values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("side", [1, -1])
def test_lift_then_cut_is_rewarded_once_each(side: int) -> None:
    outcomes, progress = play(
        state(), LIFTED, state(), LIFTED, at_tape(side), at_tape(side, turn=BETWEEN), at_tape(side, turn=SHUT)
    )
    assert [o.reward for o in outcomes] == pytest.approx([0.3, 0, 0, 0, 0, 1.0])
    assert [o.terminated for o in outcomes] == [False] * 5 + [True] and outcomes[-1].cause == "cut"
    assert TASK.success(progress) and TASK.metrics(progress) == {"cut": 1.0, "grasped": 1.0, "steps": 6.0}


@pytest.mark.parametrize(
    "last",
    [
        [state((0.0, 0.0, 0.080), SHUT)],
        [at_tape(1, across=0.012), at_tape(1, 0.012, SHUT)],
        [at_tape(1, height=0.085), at_tape(1, height=0.085, turn=SHUT)],
        [at_tape(1, turn=BETWEEN), at_tape(1, turn=SHUT)],
    ],
    ids=["in the air", "beside the tape", "above the tape", "came with nearly closed blades"],
)
def test_blades_that_close_on_nothing_spend_the_attempt(last: list[StateVector]) -> None:
    outcomes, progress = play(state(), LIFTED, *last)
    assert outcomes[-1].terminated and outcomes[-1].cause == "spent" and outcomes[-1].reward == 0.0
    assert not TASK.success(progress) and TASK.metrics(progress)["grasped"] == 1.0


def test_squeezing_the_tool_in_its_case_spends_nothing() -> None:
    outcomes, _ = play(state(), state(turn=SHUT), state())
    assert not any(o.terminated for o in outcomes)


@pytest.mark.parametrize(
    ("lifted", "lost"),
    [
        (False, state((0.0, 0.0, REST_HEIGHT - 0.031))),
        (False, state((0.04, 0.04, REST_HEIGHT))),
        (True, state((0.0, 0.0, REST_HEIGHT - 0.013))),
        (True, state((0.0, 0.0, 0.08), palm=(0.031, 0.0, 0.0))),
        (True, state((0.0, 0.0, 0.08), tilt=1.0)),
    ],
)
def test_each_way_to_lose_the_tool(lifted: bool, lost: StateVector) -> None:
    outcomes, _ = play(state(), *([LIFTED] if lifted else []), lost)
    assert outcomes[-1].terminated and outcomes[-1].cause == "dropped" and outcomes[-1].reward == 0.0


def test_the_time_limit_truncates() -> None:
    outcomes, _ = play(*[state()] * 181)
    assert not any(o.terminated or o.truncated for o in outcomes[:-1])
    assert outcomes[-1].truncated and not outcomes[-1].terminated and outcomes[-1].cause == "time_limit"


BOX = arrays(np.float64, 7, elements=st.floats(-1.0, 1.0))


@given(BOX, arrays(np.float64, 3, elements=st.floats(0.0, 1.0)))
def test_every_action_keeps_joints_inside_the_limits_and_the_speed(
    action: np.ndarray, share: np.ndarray
) -> None:
    command = np.zeros(11)
    command[:3] = gantry.WORKSPACE_LOWER + share * (gantry.WORKSPACE_UPPER - gantry.WORKSPACE_LOWER)
    joints = TASK.action_to_joints(action, command)
    assert (joints >= gantry.HAND.lower).all() and (joints <= gantry.HAND.upper).all()
    assert (np.abs(joints - command)[:3] <= gantry.MAX_SPEED / TASK.control_hz + 1e-12).all()
    assert (gantry.HAND.max_velocity[:3] > gantry.MAX_SPEED).all()
