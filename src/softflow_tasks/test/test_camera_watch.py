"""What keeps episodes from being played while a camera is down."""

from __future__ import annotations

import pytest

from softflow_tasks.camera_watch import CameraWatch, why_blind


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        ({}, ""),
        ({"camera front": ""}, ""),
        ({"camera front": "", "camera right": "frozen"}, "camera right: frozen"),
        ({"camera front": "silent", "camera right": "frozen"}, "camera front: silent (and 1 more)"),
    ],
)
def test_the_cause_names_the_camera(faults: dict[str, str], why: str) -> None:
    assert why_blind(faults) == why


def test_a_camera_that_goes_down_is_counted_once() -> None:
    watch = CameraWatch()
    assert watch.text() == "" and not watch.look("", 0.0)
    assert watch.look("camera front: frozen", 1.0)
    assert not watch.look("camera front: its end", 2.0), "another reason, the same pause"
    assert watch.text() == "a camera is down: camera front: its end; episodes go on when it is well again"
    assert watch.stops == 1
    assert "no episode for 31 s: a camera is down" in watch.reminder(32.0)
    watch.look("", 33.0)
    assert watch.text() == watch.reminder(100.0) == ""
    assert watch.look("camera front: frozen", 101.0) and watch.stops == 2
