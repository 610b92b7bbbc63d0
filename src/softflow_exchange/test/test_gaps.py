"""Episodes in which an input was missing for a while: what the pieces are worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from softflow_exchange.cli import main
from softflow_recorder.bag import episode_bags, read_episode
from softflow_recorder.episode import EpisodeData
from softflow_tasks import ToolCut

sys.path.insert(0, str(Path(__file__).parent))

from exchange_toy import BEGIN, SECOND, Lab, LabBag, layout, run, write_lab_bag


def test_what_a_gap_ended_is_no_success_and_not_terminated(tmp_path: Path) -> None:
    bag = write_lab_bag(tmp_path / "bag", lost=(2.0, 2.3))
    first, second = run(
        tmp_path, bag, reward={"by": "sparse"}, success={"by": "always"}, terminated="success"
    )
    assert not first.success and first.truncated and not first.terminated and first.cause == "gap"
    assert not first.rewards.any()
    assert (
        second.success and second.terminated and second.rewards.tolist() == [0.0] * (second.steps - 1) + [1.0]
    )


def test_an_input_that_does_not_come_back_is_no_gap(tmp_path: Path) -> None:
    """The operator let go a second before the recording ended."""
    lab, bag = Lab(), LabBag(tmp_path / "bag")
    for time, position, target, yaw in zip(
        lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True
    ):
        bag.joints(time, position, time)
        bag.cube(time, yaw, time)
        if time < BEGIN + 3 * SECOND:
            bag.glove(time, target, time)
    bag.success(lab.times[-1], True)
    bag.close()
    (found,) = run(tmp_path, tmp_path / "bag", reward={"by": "sparse"}, terminated="success")
    assert found.success and found.terminated and found.rewards[-1] == 1.0


def test_a_success_that_was_told_before_a_gap_is_the_last_pieces(tmp_path: Path) -> None:
    lab, bag = Lab(), LabBag(tmp_path / "bag")
    for time, position, target, yaw in zip(
        lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True
    ):
        t = (time - BEGIN) / SECOND
        bag.joints(time, position, time)
        if not 2.0 <= t < 2.5:
            bag.cube(time, yaw, time)
        bag.glove(time, target, time)
        bag.success(int(time), 0.5 <= t < 1.0)
    bag.close()
    found = run(tmp_path, tmp_path / "bag", success={"by": "input", "input": "done", "at": "any"})
    assert [episode.success for episode in found] == [False, True]


def write_tool(path: Path, heights: dict[float, float]) -> Path:
    """Three seconds at the task's rate; the tool's height [m] from each time on; nobody sees it from 1 s to 1.5 s."""
    task, bag = ToolCut(), LabBag(path)
    slices, state, due = task.layout.slices(), np.zeros(task.layout.size), dict(heights)
    state[slices["tool_position"]] = (0.0, 0.0, 0.04 * 20.0)
    state[slices["jaw_opening"]] = 2.0
    for i in range(61):
        t, time = i / 20.0, BEGIN + i * 50_000_000
        for when in [when for when in due if when <= t]:
            state[slices["tool_position"].stop - 1] = due.pop(when) * 20.0
        data = {"layout": layout(bag), "data": np.zeros(7)}
        bag.write("/u", "std_msgs/msg/Float64MultiArray", time, **data)
        if not 1.0 < t < 1.5:
            bag.write("/s", "std_msgs/msg/Float64MultiArray", time, **{**data, "data": state})
    bag.close()
    return path


def run_tool(tmp_path: Path, heights: dict[float, float], **changes: Any) -> list[EpisodeData]:
    mapping = {
        "task": "ToolCut-v0",
        "time": "receive",
        "inputs": {
            "u": {"topic": "/u", "field": "data"},
            "s": {"topic": "/s", "field": "data", "max_age": 0.01},
        },
        "state": {"vector": "s"},
        "action": {"normalised": "u"},
        **changes,
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    bag, out = write_tool(tmp_path / "bag", heights), tmp_path / "out"
    assert main(["import", "--mapping", str(tmp_path / "mapping.yaml"), "--out", str(out), str(bag)]) == 0
    return [read_episode(path) for path in episode_bags(out)]


@pytest.mark.parametrize(
    ("heights", "wanted"),
    [
        ({0.5: 0.12}, [[9], []]),  # lifted before the gap: once is enough
        ({1.2: 0.12}, [[], []]),  # in the gap: none of the steps did it
        ({2.0: 0.12}, [[], [9]]),
    ],
)
def test_a_task_knows_what_came_before_a_gap(
    tmp_path: Path, heights: dict[float, float], wanted: list[list[int]]
) -> None:
    found = run_tool(tmp_path, heights)
    assert [np.flatnonzero(episode.rewards).tolist() for episode in found] == wanted
    assert [episode.steps for episode in found] == [20, 30] and [e.metrics["steps"] for e in found] == [
        20.0,
        30.0,
    ]
    assert found[1].metrics["grasped"] == 1.0 and all(episode.truncated for episode in found)


def test_a_task_sees_what_is_too_short_to_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = run_tool(tmp_path, {0.5: 0.12}, episodes={"min_steps": 25})
    assert found.steps == 30 and not found.rewards.any()
    assert "1 pieces of fewer than 25 steps are left out" in capsys.readouterr().out


@pytest.mark.parametrize(("fall", "ended"), [(0.75, True), (1.2, False)])
def test_nothing_follows_where_the_task_has_ended_the_episode(
    tmp_path: Path, fall: float, ended: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tool is dropped before the gap, or in it."""
    (found,) = run_tool(tmp_path, {0.5: 0.12, fall: 0.0})
    assert (found.terminated, found.cause) == ((True, "dropped") if ended else (False, "gap"))
    assert found.steps == (15 if ended else 20)
    text = "30 steps after a gap are left out: the task had ended the episode (dropped)"
    assert text in capsys.readouterr().out
