"""Pictures in the observation: the graph with `pictures:=true`, and a camera that goes away."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import domain_coordinator
import numpy as np
import pytest

from softflow_bringup.episodes import BagWatch, run_graph
from softflow_node.messages import from_stamp
from softflow_node.pictures import decode
from softflow_recorder.bag import read_episode, read_messages

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TOPIC = "/hand0/camera/front/image/compressed"


def test_each_state_of_an_episode_has_its_own_picture(tmp_path: Path) -> None:
    """In lock step: one drawn from just that state, named in the observation and kept in the bag, once."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        arguments = {"task": "ToolCut-v0", "speed": "max", "run": tmp_path, "episodes": 1, "pictures": True}
        run_graph("record_demos", arguments, tmp_path / "log", lambda: True, sleep)
    (summary,) = BagWatch(tmp_path / "bags").summaries()
    episode = read_episode(summary.path)
    pictures = episode.images["front"]
    assert len(pictures) == episode.steps + 1 and set(map(len, map(np.shape, map(decode, pictures)))) == {3}
    recorded: dict[int, bytes] = {}
    named: dict[int, tuple[int, list[str]]] = {}
    states: dict[int, int] = {}
    for topic, _, m in read_messages(summary.path):
        if topic == TOPIC:
            stamp = from_stamp(m.header.stamp)
            assert stamp not in recorded
            recorded[stamp] = bytes(m.data)
        elif topic == "/hand0/observation":
            assert list(m.sensor_names) == [
                "hand_state",
                "tool",
                "tool_arm",
                "tape_left",
                "tape_right",
                "front",
            ]
            assert len({from_stamp(s) for s in m.sensor_stamps}) == 1
            named[m.step] = from_stamp(m.header.stamp), list(m.images)
        elif topic == "/hand0/hand_state":
            states[m.step] = from_stamp(m.header.stamp)
    assert set(named) == set(range(episode.steps + 1))
    for step, (stamp, images) in named.items():
        assert stamp == states[step] and images == [f"{TOPIC}@{stamp}"]
        assert pictures[step] == recorded[stamp]
    assert len(set(pictures)) == len(pictures)
