"""The tool's teacher: without errors it always cuts, with a human's it often fails, and it uses both tapes."""

from __future__ import annotations

import numpy as np
import pytest

from softflow_sim.demonstrations import collect, demonstrate
from softflow_sim.tool_env import ToolCutEnv
from softflow_sim.tool_teacher import ToolTeacher, ToolTeacherStyle


def exact(seed: int) -> ToolTeacher:
    rng = np.random.default_rng(seed)
    return ToolTeacher(seed, ToolTeacherStyle.draw(rng, noise=0.0, grasp_error=0.0, cut_error=0.0))


def test_without_errors_every_attempt_cuts_at_either_tape() -> None:
    got = collect(ToolCutEnv(), exact, attempts=8)
    assert got.rate("cut") == got.rate("grasped") == 1.0
    env = ToolCutEnv()
    sides = {np.sign(env.task.block(d.states[-1], "jaw_place")[0]) for d in got.attempts}
    assert sides == {-1.0, 1.0}
    assert all(d.rewards.sum() == pytest.approx(1.3) and d.terminated for d in got.attempts)


def test_with_a_humans_errors_it_grasps_more_often_than_it_cuts() -> None:
    got = collect(ToolCutEnv(), ToolTeacher, attempts=30)
    assert 0.5 < got.rate("grasped") < 0.95 and 0.1 < got.rate("cut") < 0.7
    assert len(got.successful) == round(30 * got.rate("cut"))
    assert all(d.info["cut"] == 1.0 for d in got.successful)


def test_equal_seeds_give_equal_demonstrations() -> None:
    first, second = (demonstrate(ToolCutEnv(), ToolTeacher(3), 4) for _ in range(2))
    assert first.states.tobytes() == second.states.tobytes()
    assert first.actions.tobytes() == second.actions.tobytes() and np.abs(first.actions).max() <= 1.0


def test_a_teacher_that_has_seen_nothing_does_not_act() -> None:
    with pytest.raises(RuntimeError, match="0 observations"):
        ToolTeacher(0)()
