"""The cube as a camera sees it: the graph with eyes, and a camera that goes wrong."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import domain_coordinator
import numpy as np
import pytest

from softflow_bringup.episodes import BagWatch, run_graph
from softflow_recorder.bag import read_episode, read_messages
from softflow_tasks.cube_rotation import CubeRotation

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_a_teacher_turns_the_cube_by_sight(tmp_path: Path) -> None:
    """The observation comes from the pictures, and stays close to what the simulation knows."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        arguments = {"speed": "max", "run": tmp_path, "episodes": 1, "eyes": "camera"}
        run_graph("record_demos", arguments, tmp_path / "log", lambda: True, sleep)
    (summary,) = BagWatch(tmp_path / "bags").summaries()
    episode = read_episode(summary.path)
    truth = {
        m.step: m
        for topic, _, m in read_messages(summary.path)
        if topic.endswith("/object_state") and m.step > 0
    }
    seen = [m for topic, _, m in read_messages(summary.path) if topic.endswith("/object_seen") and m.valid]
    assert len(seen) >= 0.95 * episode.steps
    assert {m.source for m in seen} == {"fiducial"} and {m.source for m in truth.values()} == {"simulation"}
    place = CubeRotation.layout.slices()["cube_offset"]
    errors = []
    for message in seen:
        if message.step in truth:
            p, q = message.pose.position, truth[message.step].pose.position
            errors.append(np.linalg.norm([p.x - q.x, p.y - q.y, p.z - q.z]))
            # No hidden way for the truth into the observation.
            assert episode.states[message.step][place][0] == pytest.approx(p.x * 50.0, abs=1e-5)
    assert np.median(errors) < 0.002
    assert any(error > 0 for error in errors)
