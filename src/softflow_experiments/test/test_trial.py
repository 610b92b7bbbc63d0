"""A trial ends with the same bits, however often it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from softflow_experiments.trial import (
    EVALUATION_SEED,
    MAX_SEED,
    STAGES,
    InterruptedTrialError,
    OtherPlanError,
    Trial,
)

sys.path.insert(0, str(Path(__file__).parent))
import experiments_tiny as tiny


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    tiny.register(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a trial that nobody interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        tiny.register(patch)
        return tiny.run(tmp_path_factory.mktemp("whole"))


class _StopIn:
    """Says stop at the n-th time that it is asked within a stage."""

    def __init__(self, stage: str, asked: int) -> None:
        self._stage, self._left = stage, asked
        self.trial: Trial | None = None

    def __call__(self) -> bool:
        assert self.trial is not None
        done = len(self.trial.state["done"])
        self._left -= done < len(STAGES) and STAGES[done] == self._stage
        return self._left < 0


def _interrupt(directory: Path, stage: str, asked: int, save_every: float) -> Trial:
    stop = _StopIn(stage, asked)
    stop.trial = Trial(tiny.cell(), directory, stop=stop, log=lambda _: None, save_every=save_every)
    with pytest.raises(InterruptedTrialError):
        stop.trial.run()
    return stop.trial


def test_interrupted_in_every_stage_it_ends_with_the_same_weights(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    for stage in STAGES:
        # The last one learns nothing: it asks once before its evaluation and once in it.
        trial = _interrupt(tmp_path, stage, asked=1 if stage == "deployed" else 5, save_every=0.0)
        assert trial.state["done"] == list(STAGES[: STAGES.index(stage)])
        assert not (tmp_path / "result.json").exists()
    assert trial.state["episodes"] > 1 and trial.state["rounds"] > 0
    result = tiny.run(tmp_path)
    for name in ("weights_sha256", "stages", "curve", "updates", "robot_minutes", "teacher", "skipped"):
        assert result[name] == whole[name], name


def test_a_stop_between_two_saves_and_within_a_round_of_updates(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    trial = _interrupt(tmp_path, "online", asked=4, save_every=1e9)
    assert trial.agent.gradient_step > sum(whole["updates"][s] for s in STAGES[:3])
    assert tiny.run(tmp_path)["weights_sha256"] == whole["weights_sha256"]


def test_the_result_holds_what_a_reader_asks_for(tmp_path: Path, whole: dict[str, Any]) -> None:
    assert whole == json.loads(json.dumps(whole))
    assert whole["seed"] == 0 and whole["settings"]["width"] == 16 and whole["method"] == "softflow"
    assert {len(whole["stages"][s]) for s in STAGES} == {1}
    assert set(whole["stages"]["online"][0]) == {"rotations_per_minute", "dropped"}
    assert whole["robot_minutes"] >= 0.4 and all(whole["seconds"][s] > 0 for s in (*STAGES, "evaluation"))
    assert whole["updates"]["imitation"] == 8 and whole["updates"]["offline"] == 2 * 6


def test_another_seed_learns_other_weights(tmp_path: Path, whole: dict[str, Any]) -> None:
    other = tiny.run(tmp_path, tiny.cell(seed=1))
    assert other["weights_sha256"] != whole["weights_sha256"]
    assert other["teacher"] != whole["teacher"]


def test_imitation_alone_makes_no_further_updates(tmp_path: Path) -> None:
    result = tiny.run(tmp_path, tiny.cell("bc"))
    assert result["updates"] == {"imitation": 8} | dict.fromkeys(STAGES[1:], 0)
    assert result["robot_minutes"] == 0.0


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    _interrupt(tmp_path, "warmup", asked=1, save_every=0.0)
    with pytest.raises(OtherPlanError, match="seed is 0 there, asked for is 1"):
        Trial(tiny.cell(seed=1), tmp_path)


def test_evaluation_has_start_states_of_its_own() -> None:
    assert 10_000_000 * (1 + MAX_SEED) + 10_000_000 <= EVALUATION_SEED


def test_a_process_that_is_told_to_end_can_be_run_again(tmp_path: Path, whole: dict[str, Any]) -> None:
    code = (
        "import sys, pytest, experiments_tiny as tiny; tiny.register(pytest.MonkeyPatch());"
        "from softflow_experiments.method import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--cell",
        "tiny/softflow/0",
        "--episodes",
        "1",
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    directory = tmp_path / "tiny/softflow/0"
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None and not (directory / "checkpoints").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 130 and not (directory / "result.json").exists()
    assert tiny.run(directory)["weights_sha256"] == whole["weights_sha256"]
