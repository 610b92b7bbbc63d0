"""The cube as a camera sees it: the graph with eyes, and a camera that goes wrong."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import domain_coordinator
import numpy as np
import pytest
import rclpy
from softflow_msgs.msg import HandState

from softflow_bringup.bench.eyes.video import scene
from softflow_bringup.episodes import BagWatch, run_graph
from softflow_node.messages import from_stamp, to_stamp
from softflow_node.pictures import encode_jpeg
from softflow_perception.camera.messages import to_camera_info, to_camera_pose, to_image
from softflow_perception.pose.node import STATE_LIMIT, PoseNode
from softflow_recorder.bag import read_episode, read_messages
from softflow_tasks.cube_rotation import CubeRotation

pytestmark = [pytest.mark.ros, pytest.mark.slow]
PERIOD = 50_000_000
"""[ns]"""


def test_a_picture_that_is_faster_than_its_state_is_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the border of two episodes, where the cube is somewhere else all at once."""
    (picture,), model = scene(1)
    with domain_coordinator.domain_id() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        rclpy.init()
        node = PoseNode()
        said: list[tuple[str, int, int]] = []
        monkeypatch.setattr(
            node.pub, "publish", lambda m: said.append((m.episode_id, m.step, from_stamp(m.header.stamp)))
        )
        node._on_info("front", to_camera_info(model))
        node._on_place("front", to_camera_pose(model))

        def state(k: int, episode: str, step: int) -> None:
            message = HandState(episode_id=episode, step=step)
            message.header.stamp = to_stamp(k * PERIOD)
            node._on_hand(message)

        def show(stamp: int) -> None:
            node._on_image("front", to_image("front", encode_jpeg(picture, 90), stamp))

        for k in (1, 2, 3):
            state(k, "e", k)
            show(k * PERIOD)
        show(4 * PERIOD)
        assert said == [("e", k, k * PERIOD) for k in (1, 2, 3)]
        state(4, "f", 0)
        assert said[3:] == [("f", 0, 4 * PERIOD)]
        show(4 * PERIOD + PERIOD // 2)  # Between two states: nothing to wait for.
        assert said[4:] == [("f", 0, 4 * PERIOD + PERIOD // 2)]
        show(5 * PERIOD)
        node._complete_at -= 2 * STATE_LIMIT
        node.poll()  # The state is lost.
        show(6 * PERIOD)
        show(7 * PERIOD)
        assert said[5:] == [("f", 0, 5 * PERIOD), ("f", 0, 6 * PERIOD)]
        assert node.counters["instants_without_state"] == 2 and not node.counters["incomplete_instants"]
        node.destroy_node()
        rclpy.shutdown()


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
