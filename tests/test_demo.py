"""The quick demo as a user runs it: interrupted by Ctrl-C, gone on, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.ros, pytest.mark.slow]

STAGES = ["teacher", "imitation", "warmup", "offline", "online"]
FIELDS = {"stage", "metric", "mean", "ci95", "n", "robot_minutes", "wall_s"}


def start(run: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "softflow_bringup.cli", "demo", "--quick", "--run", str(run), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    )


def interrupt_at(process: subprocess.Popen[str], part: str) -> str:
    """Send SIGINT when the demo begins a part; returns all that it printed."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.split()[: len(part.split())] == part.split() and "starting" in line:
            process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    return "".join(lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was interrupted twice."""
    run = tmp_path_factory.mktemp("demo") / "run"
    for part in ("imitation evaluation", "online"):
        process = start(run)
        output = interrupt_at(process, part)
        assert process.returncode == 130, output
        assert "the same command goes on" in output
    process = start(run)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    (run / "output.txt").write_text(output)
    return run


def test_what_was_done_is_not_done_again(run: Path) -> None:
    output = (run / "output.txt").read_text()
    parts = {line.split("  ")[1].strip() for line in output.splitlines() if line.startswith("  ")}
    assert "online" in parts and not parts & {"teacher", "imitation", "warmup", "offline"}


def test_report_has_every_stage(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["task"] == "CubeRotation-v0" and report["seed"] == 0
    assert [s["stage"] for s in report["stages"]] == STAGES
    for stage in report["stages"]:
        assert set(stage) >= FIELDS
        assert stage["ci95"][0] <= stage["mean"] <= stage["ci95"][1]
        assert stage["wall_s"] > 0
    assert report["stages"][-1]["robot_minutes"] > 0


def test_table_and_folder_are_printed(run: Path) -> None:
    output = (run / "output.txt").read_text()
    assert all(stage in output for stage in STAGES)
    assert str(run) in output and "min left" in output and "updates/s" in output


def test_pictures_and_logs_are_left(run: Path) -> None:
    with Image.open(run / "learning_curve.png") as curve:
        assert curve.size[0] > 500
    with Image.open(run / "before_after.gif") as video:
        assert video.n_frames > 1
    assert list((run / "learner" / "tensorboard").glob("events*"))


def test_another_seed_in_the_same_folder_is_refused(run: Path) -> None:
    process = start(run, "--seed", "1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "demo.json" in output and "another plan or seed" in output


def test_demo_left_no_process(run: Path) -> None:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = (entry / "cmdline").read_bytes().decode()
                if str(run) in command:
                    found.append(command)
        except OSError:
            continue
    assert not found
