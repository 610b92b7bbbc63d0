"""Parts of the demo: progress, state, report."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from softflow_bringup.demo.plan import QUICK, Plan
from softflow_bringup.demo.progress import Progress
from softflow_bringup.demo.report import table
from softflow_bringup.demo.state import DemoState
from softflow_bringup.episodes import gaps
from softflow_experiments.statistics import Estimate


def test_state_survives_and_refuses_another_seed(tmp_path: Path) -> None:
    state = DemoState.open(tmp_path / "demo.json", QUICK, seed=3)
    state.add_wall("teacher", 2.0)
    state.add_wall("teacher", 3.0)
    state.add_stage("teacher", "rotations_per_minute", Estimate(1.0, 0.5, 1.5, 4), 0.25, 2.0)
    again = DemoState.open(tmp_path / "demo.json", QUICK, seed=3)
    assert again.stages == state.stages and again.stages["teacher"]["wall_s"] == 5.0
    with pytest.raises(ValueError, match="another plan or seed"):
        DemoState.open(tmp_path / "demo.json", QUICK, seed=4)
    with pytest.raises(ValueError, match="another plan or seed"):
        DemoState.open(tmp_path / "demo.json", Plan(), seed=3)


def test_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"plan": ')
    with pytest.raises(ValueError, match=r"demo\.json: damaged"):
        DemoState.open(tmp_path / "demo.json", QUICK, seed=0)


def test_progress_without_a_terminal_prints_plain_lines() -> None:
    out = io.StringIO()
    progress = Progress({"a": 60.0, "b": 120.0}, out)
    progress.begin("a")
    progress.end("fine")
    progress.skip("b")
    text = out.getvalue()
    assert "about 3 min left" in text and "fine" in text and "\x1b" not in text and "\r" not in text


def test_every_part_of_the_plan_has_an_expected_duration() -> None:
    expected = Plan().expected_seconds()
    assert sum(expected.values()) <= 15 * 60
    assert sum(QUICK.expected_seconds().values()) < sum(expected.values()) / 3


def test_table_shows_what_the_report_holds(tmp_path: Path) -> None:
    stage = {"stage": "online", "mean": 9.87, "ci95": [9.5, 10.25], "success": 0.9, "n": 20}
    stage |= {"robot_minutes": 40.0, "wall_s": 412.0}
    text = table([json.loads(json.dumps(stage))], "turns")
    assert all(
        word in text for word in ("turns", "online", "9.87", "[9.50, 10.25]", "90 %", "20", "40.0", "412")
    )


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (set(), [(0, 5)]),
        ({0, 1, 2, 3, 4}, []),
        ({0, 1, 3}, [(2, 1), (4, 1)]),
        ({2, 7}, [(0, 2), (3, 2)]),
    ],
)
def test_gaps_are_what_is_not_done(done: set[int], expected: list[tuple[int, int]]) -> None:
    assert gaps(done, 5) == expected
