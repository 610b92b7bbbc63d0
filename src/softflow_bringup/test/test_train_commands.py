"""`softflow train teacher` and `distill` reach their modules and refuse what is wrong in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from softflow_bringup.train import main


def test_teacher_names_the_setting_that_is_out_of_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3")
    assert main(["teacher", "--out", str(tmp_path), "--set", "width=1"]) == 2
    assert "'width' is 1, must be in [8, 1024]" in capsys.readouterr().err


def test_distill_names_the_teacher_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "--teacher", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "teacher.safetensors" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "softflow_experiments.teacher_ppo", raising=False)
    # What Python itself does with a package that was left out.
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert main(["teacher", "--out", "unused"]) == 2
    assert "the Python module 'stable_baselines3' is missing" in capsys.readouterr().err
