"""What `softflow record` and `softflow teleop` ask for."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import Any

import pytest

from softflow_bringup.cameras import add_pictures
from softflow_bringup.graph import load_graph
from softflow_bringup.record import graph_arguments
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
