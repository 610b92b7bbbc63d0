"""An episode that a classifier rewards: order of observations and verdicts, the first success, ends that protect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow_tasks import CubeRotation, ToolCut
from softflow_tasks.cube_rotation import REST_HEIGHT
from softflow_tasks.episode import CLASSIFIER, SUCCESS, TASK, Episode, OutOfOrderError, Verdict
from softflow_tasks.task import HandSample, ObjectSample, StateVector, Task
from softflow_tasks.tool_cut import METRES, OFFSETS, TAPE_DISTANCE

CUBE, TOOL = CubeRotation(), ToolCut()
THRESHOLD, REWARD = 0.8, 5.0
OPEN, SHUT = 0.010, 0.001
"""[m] between the blades."""


def cube(x: float = 0.0) -> StateVector:
    """The cube at x [m] beside its axis."""
    hand = HandSample(np.zeros(12), np.zeros(12), np.zeros(8), np.zeros(12))
    place = np.array([x, 0.0, REST_HEIGHT])
    return CUBE.observe(
        hand, {"cube": ObjectSample(place, np.array([0.0, 0, 0, 1]), np.zeros(3), np.zeros(3))}
    )


def tool(opening: float, y: float = TAPE_DISTANCE) -> StateVector:
    """Lifted out of the case, a tape's height between the blades [m]."""
    state, blocks = np.zeros(TOOL.layout.size, np.float32), TOOL.layout.slices()
    state[blocks["tool_position"]] = np.array([0.0, y, 0.080]) * METRES
    state[blocks["jaw_opening"]] = opening * OFFSETS
    state[blocks["jaw_place"]] = np.array([y, -0.01]) * OFFSETS
    return state


def verdict(step: int, probability: float = 0.1) -> Verdict:
    return Verdict(step, probability, THRESHOLD, REWARD)


def episode(task: Task = CUBE, reward: str = CLASSIFIER) -> Episode:
    return Episode(task, "e", 0, seed=1, reward=reward)


def play(states: Sequence[StateVector], success: int = 0, task: Task = CUBE) -> Episode:
    """With a verdict on each state; that of step `success` says yes."""
    judged = episode(task)
    for step, state in enumerate(states):
        judged.observe(step, state)
        judged.hear(verdict(step, 0.9 if step == success > 0 else 0.1))
    return judged


@given(st.permutations([True] * 9 + [False] * 9))
def test_whichever_is_first_observation_or_verdict_the_episode_is_the_same(turns: list[bool]) -> None:
    judged, observed, told = episode(), 0, 0
    for is_observation in turns:
        if is_observation:
            judged.observe(observed, cube())
            observed += 1
        else:
            judged.hear(verdict(told, 0.9 if told in (5, 7) else 0.1))
            told += 1
        assert judged.steps == min(max(0, observed - 1), max(0, told - 1), 5)
    assert judged.rewards == [0.0] * 4 + [REWARD]
    assert judged.outcome is not None and judged.outcome.terminated and judged.outcome.cause == SUCCESS
    assert judged.confidences == pytest.approx([0.9] * 5) and judged.success


@pytest.mark.parametrize("seen", [0, 3])
def test_observations_wait_for_their_verdicts_and_a_missing_one_is_named(seen: int) -> None:
    judged = episode()
    for step in range(6):
        assert judged.observe(step, cube()) is None
    for step in range(1, seen + 1):
        assert judged.hear(verdict(step)) is not None
    assert (judged.steps, judged.waits, judged.outcome) == (seen, 5 - seen, None)
    with pytest.raises(OutOfOrderError, match=f"verdict on step {seen + 2} came, {seen + 1} was expected"):
        judged.hear(verdict(seen + 2))
    assert judged.hear(verdict(seen + 1)) is not None and judged.steps == seen + 1


def test_the_first_verdict_on_a_step_holds_and_repeated_ones_change_nothing() -> None:
    judged = episode()
    judged.observe(0, cube())
    judged.hear(verdict(1))
    judged.hear(verdict(1, 0.99))
    judged.observe(1, cube())
    for repeated in (0, 1):
        assert judged.hear(verdict(repeated, 0.99)) is None
        assert judged.observe(repeated, cube()) is None
    assert judged.rewards == [0.0] and judged.outcome is None and not judged.success


def test_nothing_follows_a_success() -> None:
    judged = play([cube()] * 6, success=2)
    assert judged.rewards == [0.0, REWARD] and judged.steps == 2 and judged.waits == 0
    assert judged.progress.step == 2


def test_the_start_of_an_episode_cannot_be_its_success() -> None:
    judged = episode()
    judged.observe(0, cube())
    assert judged.hear(verdict(0, 0.99)) is None and judged.outcome is None


def test_a_drop_still_ends_the_episode_and_costs_nothing() -> None:
    judged = play([cube(), cube(), cube(0.1), cube()])
    assert judged.outcome is not None and judged.outcome.terminated and judged.outcome.cause == "dropped"
    assert judged.rewards == [0.0, 0.0] and not judged.success


CUTTING = [tool(OPEN), tool(OPEN), tool(SHUT), tool(SHUT), tool(OPEN)]


def test_a_cut_that_only_the_task_sees_ends_nothing_but_is_measured() -> None:
    seen = Episode(TOOL, "e", 0, seed=1)
    for step, state in enumerate(CUTTING):
        seen.observe(step, state)
    assert seen.outcome is not None and seen.outcome.cause == "cut" and sum(seen.rewards) > 1.0
    unseen = play(CUTTING, task=TOOL)
    assert unseen.outcome is None and unseen.rewards == [0.0] * 4 and not unseen.success
    assert TOOL.metrics(unseen.progress)["cut"] == 1.0
    later = play(CUTTING, success=4, task=TOOL)
    assert later.rewards == [0.0, 0.0, 0.0, REWARD] and later.success


def test_after_an_unseen_cut_blades_that_close_on_nothing_are_spent() -> None:
    judged = play([*CUTTING[:3], tool(SHUT, y=0.0)], task=TOOL)
    assert judged.outcome is not None and judged.outcome.terminated and judged.outcome.cause == "spent"
    assert judged.rewards == [0.0] * 3 and not judged.success


def test_an_unseen_cut_in_the_last_step_is_a_time_limit() -> None:
    judged = play([tool(OPEN)] * TOOL.horizon + [tool(SHUT)] * 2, task=TOOL)
    assert judged.steps == TOOL.horizon and judged.outcome is not None
    assert judged.outcome.truncated and not judged.outcome.terminated and judged.outcome.cause == "time_limit"


def test_a_task_that_rewards_itself_needs_no_verdict_and_takes_none() -> None:
    plain, told = episode(TOOL, TASK), episode(TOOL, TASK)
    for step, state in enumerate(CUTTING):
        plain.observe(step, state)
        told.hear(verdict(step, 0.99))
        told.observe(step, state)
    assert plain.rewards == told.rewards and plain.outcome == told.outcome and told.success
    assert set(told.confidences) == {1.0}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((3, 1.5, 0.5, 1.0), r"probability of step 3 is 1.5, must be in \[0, 1\]"),
        ((3, float("nan"), 0.5, 1.0), "probability of step 3 is nan"),
        ((3, 0.5, -0.1, 1.0), r"threshold of step 3 is -0.1, must be in \[0, 1\]"),
        ((3, 0.5, 0.5, float("inf")), "success_reward of step 3 is inf, must be finite"),
    ],
)
def test_a_verdict_out_of_bounds_is_named(values: tuple[int, float, float, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Verdict(*values)
