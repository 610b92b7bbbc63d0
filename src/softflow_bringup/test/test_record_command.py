"""What `softflow record` and `softflow teleop` ask for."""

from __future__ import annotations

import argparse
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from softflow_bringup.cameras import add_pictures
from softflow_bringup.episodes import check_same_arguments
from softflow_bringup.graph import load_graph
from softflow_bringup.record import graph_arguments
from softflow_bringup.record import main as record
from softflow_bringup.teleop import node_arguments


def options(**changes: Any) -> Namespace:
    return Namespace(
        **{
            "task": "ToolCut-v0",
            "seed": 3,
            "source": "teacher",
            "speed": None,
            "lock_step": None,
            "pictures": "",
        }
        | changes
    )


@pytest.mark.parametrize(
    ("changes", "speed", "lock_step"),
    [
        ({}, "max", "auto"),
        ({"speed": "2"}, "2", "auto"),
        ({"source": "teleop"}, "1", "true"),
        ({"source": "teleop", "lock_step": "false"}, "1", "false"),
        ({"source": "teleop", "speed": "0.5"}, "0.5", "true"),
    ],
)
def test_a_human_has_time(changes: dict[str, Any], speed: str, lock_step: str) -> None:
    given = graph_arguments(options(**changes))
    driver = load_graph("record_demos", given).node("hand_driver").parameters
    assert (driver["speed"], driver["lock_step"], driver["task"]) == (speed, lock_step, "ToolCut-v0")


def test_pictures_on_request() -> None:
    for wanted in ("", "front", "front+wrist"):
        graph = load_graph("record_demos", graph_arguments(options(pictures=wanted)))
        cameras = [n.name for n in graph.nodes if n.executable == "camera_node"]
        assert cameras == [f"camera_{name}" for name in wanted.split("+") if name]


def test_the_option_for_pictures_names_cameras() -> None:
    parser = argparse.ArgumentParser()
    add_pictures(parser, "for a test")
    for given, wanted in (([], ""), (["--pictures"], "front"), (["--pictures", "wrist"], "wrist")):
        assert parser.parse_args(given).pictures == wanted


def test_the_keyboard_is_the_robots() -> None:
    assert node_arguments("/left", "")[-2:] == ["-r", "__ns:=/left"]
    assert node_arguments("/left", "mine.yaml")[-2:] == ["-p", "devices:=mine.yaml"]


def begin(run: Path, name: str = "record_demos", **arguments: Any) -> None:
    check_same_arguments(name, arguments, run, begun=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "its episodes have seed '3', not '4'; choose another --run"),
        ({"task": "CubeRotation-v0"}, "have task 'ToolCut-v0', not 'CubeRotation-v0'"),
        ({"eyes": "camera"}, "have eyes 'none', not 'camera'"),
    ],
)
def test_episodes_of_other_arguments_are_not_taken_for_these(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    asked = {"task": "ToolCut-v0", "seed": 3, "speed": "max"}
    begin(tmp_path, **asked)
    check_same_arguments("record_demos", asked | {"speed": "1", "run": tmp_path}, tmp_path, begun=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_arguments("record_demos", asked | changes, tmp_path, begun=True)
    check_same_arguments("record_demos", asked | changes, tmp_path, begun=False)  # nothing is there yet


def test_weights_are_known_by_what_is_in_the_file(tmp_path: Path) -> None:
    first, copy, other = (tmp_path / name for name in ("a", "b", "c"))
    first.write_bytes(b"one")
    copy.write_bytes(b"one")
    other.write_bytes(b"two")
    begin(tmp_path / "run", "inference", weights=first)
    check_same_arguments("inference", {"weights": copy}, tmp_path / "run", begun=True)
    with pytest.raises(ValueError, match="its episodes have weights 'sha256 "):
        check_same_arguments("inference", {"weights": other}, tmp_path / "run", begun=True)


def test_a_damaged_file_of_arguments_is_named(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "arguments.json").write_text("{")
    with pytest.raises(ValueError, match=r"arguments\.json: damaged"):
        check_same_arguments("record_demos", {}, tmp_path, begun=True)


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "²"])
def test_the_number_of_episodes_is_checked(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        record(["--episodes", count])
    assert f"--episodes: is {count!r}, must be a whole number in [1, 1000000]" in capsys.readouterr().err
