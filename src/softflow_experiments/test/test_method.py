"""`./softflow bench method`: errors, cells in processes, the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from softflow_experiments import report
from softflow_experiments.matrix import Matrix, finished, run
from softflow_experiments.method import main
from softflow_experiments.tasks import TASKS
from softflow_experiments.trial import STAGES, Cell, OtherPlanError, Trial
from softflow_node.files import InUseError, lock_directory
from softflow_sim.dynamics import JOINTS, SHIFTED, DynamicCubeScene


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "sofflow"], ["--methods", "sofflow", "per_step"]),
        (["--tasks", "cub"], ["--tasks", "'cub'", "tool"]),
        (["--seeds", "-1"], ["--seeds", "'-1'", "[0, 80]"]),
        (["--seeds", "one"], ["--seeds", "'one'", "whole number"]),
        (["--workers", "0"], ["--workers", "'0'", "[1, 256]"]),
        (["--minutes", "nan"], ["--minutes", "'nan'", "[0, 10000]"]),
        (["--episodes", "0"], ["--episodes", "'0'", "[1, 10000]"]),
        (["--cell", "cube/foo/0"], ["--cell", "method 'foo'", "softflow"]),
        (["--cell", "cube"], ["--cell", "'cube'", "method ''"]),
        (["--cell", "cube/bc/x"], ["--cell", "'x'", "whole number"]),
        (["--colour"], ["--colour"]),
    ],
)
def test_bad_arguments_get_one_line_and_code_2(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.count("\n") == 1
    assert all(part in text for part in said), text


def test_two_processes_do_not_work_on_one_cell(tmp_path: Path) -> None:
    with (
        lock_directory(tmp_path),
        pytest.raises(InUseError, match="another process"),
        lock_directory(tmp_path),
    ):
        pass
    with lock_directory(tmp_path):  # The lock is gone with the one who had it.
        pass


def test_a_cell_that_fails_is_named_and_does_not_end_the_others(tmp_path: Path) -> None:
    matrix, said = Matrix(["cube"], ["bc"], [0, 1], tmp_path), []
    with lock_directory(tmp_path / "cube/bc/0"), lock_directory(tmp_path / "cube/bc/1"):
        failed = run(matrix, workers=1, stop=lambda: False, say=said.append)
    assert failed == matrix.cells() == matrix.unfinished()
    assert said[0] == "2 cells, 0 of them finished before"
    assert all(f"failed, see {tmp_path / 'cube/bc' / str(k) / 'log.txt'}" in said[1 + k] for k in (0, 1))
    assert "another process works there" in (tmp_path / "cube/bc/1/log.txt").read_text()


def test_repeated_names_are_one_cell_and_seeds_come_one_after_the_other(tmp_path: Path) -> None:
    cells = Matrix(["cube"], ["softflow", "bc", "softflow"], [1, 0, 1], tmp_path).cells()
    assert [(c.method, c.seed) for c in cells] == [("softflow", 1), ("bc", 1), ("softflow", 0), ("bc", 0)]


# -- The report, from results made up here: `value` at the end of the online stage


def result(method: str, seed: int, value: float) -> dict[str, Any]:
    episodes = [{"rotations_per_minute": value + 0.02 * k, "dropped": 0.25} for k in range(4)]
    curve = [[2.5, {"rotations_per_minute": value, "dropped": 0.0}]]
    return Cell("cube", method, seed).plan() | {
        "robot_minutes": 30.0,
        "teacher": {"rotations_per_minute": 3.0, "dropped": 0.0},
        "stages": dict.fromkeys(STAGES, episodes),
        "curve": curve,
        "skipped": 1,
        "machine": "2 x processor",
        "software": {"sources": "abc", "torch": "2"},
        "date": "2026-01-02",
    }


def write(out: Path, content: dict[str, Any]) -> Path:
    path = out / content["task"] / content["method"] / str(content["seed"]) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed in (0, 1, 10):
        write(tmp_path, result("softflow", seed, 10.0))
        write(tmp_path, result("bc", seed, 1.0))
        write(tmp_path, result("gaussian", seed, 5.0 + seed))
    return tmp_path


def test_few_seeds_and_episodes_that_are_all_alike_are_no_verdict() -> None:
    def found(seeds: int, value: float, alike: bool = False) -> list[dict[str, Any]]:
        made = [result("bc", seed, value) for seed in range(seeds)]
        if alike:
            for each in made:
                each["stages"] = dict.fromkeys(STAGES, [{"rotations_per_minute": value}] * 4)
        return made

    def told(*pair: list[dict[str, Any]]) -> str:
        return report.position(*pair, "online", "rotations_per_minute")

    assert told(found(3, 10.0), found(3, 1.0)) == "below"
    assert told(found(3, 1.0), found(3, 10.0)) == "above"
    assert told(found(3, 1.0), found(3, 1.01)) == "overlapping"
    assert told(found(3, 10.0), found(2, 1.0)) == told(found(1, 10.0), found(3, 1.0)) == "no verdict"
    assert told(found(3, 1.0, alike=True), found(3, 0.5)) == "no verdict"


def test_report_goes_between_the_markers(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = results / "benchmarks.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    arguments = [
        "--report",
        "--out",
        str(results),
        "--document",
        str(document),
        "--images",
        str(results / "images"),
    ]
    assert main(arguments) == 0
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    row = next(line for line in text.splitlines() if line.startswith("| softflow |"))
    assert "| 0, 1, 10 |" in row and "10.03 [" in row and "(n = 12)" in row and "0.25 [0.25, 0.25]" in row
    assert "below: bc" in text and "overlapping: gaussian" in text
    for part in ("2 x processor", "2026-01-02", "--seeds 0 1 10", "torch 2", "9 skipped updates"):
        assert part in text
    assert (results / "images" / "method_cube.png").stat().st_size > 1000
    again = document.read_bytes()
    assert main(arguments) == 0 and document.read_bytes() == again
    capsys.readouterr()


@pytest.mark.parametrize("text", ["", report.BEGIN, f"{report.END}{report.BEGIN}"])
def test_a_document_without_markers_is_named(
    results: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = results / "other.md"
    document.write_text(text)
    assert main(["--report", "--out", str(results), "--document", str(document)]) == 2
    assert "other.md" in capsys.readouterr().err and document.read_text() == text


def test_a_damaged_result_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "cube/bc/0/result.json").write_text('{"method": ')
    assert main(["--report", "--out", str(results)]) == 2
    assert "cube/bc/0/result.json: damaged" in capsys.readouterr().err


def test_a_result_of_another_plan_is_not_taken_for_this_one(results: Path) -> None:
    assert finished(results, Cell("cube", "bc", 0)) and not finished(results, Cell("cube", "bc", 2))
    with pytest.raises(OtherPlanError, match=r"planned_minutes is 30\.0 there, asked for is 6\.0"):
        Matrix(["cube"], ["bc"], [0], results, robot_minutes=6.0).unfinished()


def test_a_result_without_a_stage_is_shown_with_a_dash_and_run_again(results: Path) -> None:
    path = results / "cube/bc/0/result.json"
    old = json.loads(path.read_text())
    del old["stages"]["deployed"]
    path.write_text(json.dumps(old))
    rows = {r.split(" | ")[0]: r.split(" | ") for r in report.write_report(results).splitlines()}
    header = rows["| method"].index("deployed")
    assert rows["| bc"][header] == "-" and rows["| gaussian"][header] != "-"
    assert not finished(results, Cell("cube", "bc", 0)) and finished(results, Cell("cube", "bc", 1))


def test_every_task_has_the_metrics_that_it_reports() -> None:
    for task in TASKS.values():
        env = task.make_env()
        _, info = env.reset(seed=0)
        assert set(task.metrics) <= set(info), task.name
        env.close()


def test_what_failed_in_the_tool_task_is_there_for_the_critic_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = dataclasses.replace(TASKS["tool"], demonstrations=12)
    imitated, failed, _ = task.demonstrate(0)
    assert len(imitated) + len(failed) == 12 and imitated and failed
    assert all(e.info["success"] for e in imitated) and not any(e.info["success"] for e in failed)
    everything, none, _ = dataclasses.replace(task, successful_only=False).demonstrate(0)
    assert len(everything) == 12 and not none
    monkeypatch.setitem(TASKS, "tool", task)
    trial = Trial(Cell("tool", "softflow", 0, settings=(("holdout_every", 0),)), tmp_path)
    trial._demonstrations()
    assert trial.replay.size("offline") == sum(len(e.actions) for e in imitated)
    assert trial.replay.size("failed") == sum(len(e.actions) for e in failed)


def test_the_late_hand_is_the_shifted_one_but_calibrated() -> None:
    scene = TASKS["cube_late"].make_env().scene
    assert isinstance(scene, DynamicCubeScene)
    scene.reset(0)
    assert scene.dynamics == dataclasses.replace(SHIFTED, joint_offset=(0.0,) * JOINTS) != SHIFTED
    *_, rates = TASKS["cube_late"].demonstrate(3)
    assert 2.0 < rates["rotations_per_minute"] < 3.5, (
        "the teacher knows nothing of it, and still shows the way"
    )
