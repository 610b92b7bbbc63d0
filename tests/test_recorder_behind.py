"""A recorder that gets no processor: the simulated world waits for it, and no step is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import domain_coordinator
import pytest

from softflow_bringup.episodes import BagWatch
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_recorder.bag import episode_bags, read_messages

pytestmark = [pytest.mark.ros, pytest.mark.slow]
EPISODES = 20
STILL = 4.0
"""[s] that the recorder stands still: a dozen episodes, of more states than the middleware keeps for it."""
TIMEOUT = 120.0
PLAYED_ON = 500
"""Steps after the end until the teacher knows of it: a few, on a busy machine more; else thousands."""


def test_a_world_at_full_speed_waits_for_its_recorder(tmp_path: Path) -> None:
    arguments = {"task": "ToolCut-v0", "speed": "max", "run": str(tmp_path), "episodes": EPISODES}
    with domain_coordinator.domain_id() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        graph, bags = load_graph("record_demos", arguments), BagWatch(tmp_path / "bags")
        with Supervisor(graph, environment=environment, log_directory=tmp_path / "log") as supervisor:
            until = time.monotonic() + TIMEOUT
            while len(bags.summaries()) < 3:
                assert time.monotonic() < until
                time.sleep(0.05)
            recorder = supervisor.processes()["recorder"]
            os.kill(recorder, signal.SIGSTOP)
            time.sleep(STILL)
            os.kill(recorder, signal.SIGCONT)
            while not supervisor.finished:
                assert time.monotonic() < until
                time.sleep(0.05)
        assert supervisor.exit_code == 0
    assert len(bags.summaries()) == len(episode_bags(tmp_path / "bags")) == EPISODES
    for summary in bags.summaries():
        steps = [m.step for topic, _, m in read_messages(summary.path) if topic.endswith("/hand_state")]
        assert max(steps) <= summary.steps + PLAYED_ON
