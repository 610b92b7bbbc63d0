"""Several robots and one learner; a learner on another host, cut off, replaced and found again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest

from softflow_bringup.bench import hosts
from softflow_bringup.bench.ledger import Audit, audit
from softflow_bringup.bench.node import tapping
from softflow_bringup.bench.partition import Robot, partition, stored_items, up
from softflow_bringup.bench.system import (
    ONLINE,
    closed_bags,
    impatient,
    message_definitions,
    prepare_learner,
    spool_items,
    until,
)
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_recorder.bag import read_messages

pytestmark = [pytest.mark.ros, pytest.mark.slow]
needs_hosts = pytest.mark.skipif(bool(hosts.why_not()), reason=hosts.why_not() or "-")
PATIENCE = 120.0
"""[s] until something must have happened, on a busy machine."""


def examine(robots: list[Path], learner: Path) -> Audit:
    return audit(robots, learner / "experience", message_definitions())


# -- Three hands

ROBOTS = ("hand0", "hand1", "hand2")
EPISODES = 2


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three simulated hands play two episodes each for one learner; what was seen meanwhile."""
    run = tmp_path_factory.mktemp("three")
    prepare_learner(run / "learner")
    arguments = {
        "robots": len(ROBOTS),
        "episodes": EPISODES,
        "run": run,
        "learner_run": run / "learner",
        "settings": ONLINE,
        "speed": "2",
        "lock_step": "false",
    }
    graph = impatient(load_graph("online_rl", arguments))
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        topics: set[str] = set()
        rest, log = [*(f"{name}.recorder" for name in ROBOTS), "learner"], run / "log"
        with tapping({f"{name}.": f"/{name}" for name in ROBOTS}) as tap:
            with Supervisor(graph, log_directory=log) as supervisor:
                while not supervisor.finished:
                    tap.spin(0.5)
                    topics |= tap.topics()
                code = supervisor.exit_code
            with Supervisor(graph.only(rest), log_directory=log):

                def drained() -> bool:
                    told = set(tap.status.robots) if tap.status else set()
                    waiting = sum(spool_items(run / name) for name in ROBOTS)
                    return waiting == 0 and told == {f"/{name}" for name in ROBOTS}

                def told_all() -> bool:
                    return sum(tap.status.robot_items) == EPISODES * len(ROBOTS)

                assert until(drained, PATIENCE, tap.spin)
                until(told_all, PATIENCE, tap.spin)  # A status a second, and later on a machine that is busy.
    return {"run": run, "code": code, "topics": topics, "status": tap.status, "motion": tap.motion}


def test_the_graph_ends_when_every_robot_has_its_episodes(three: dict[str, Any]) -> None:
    assert three["code"] == 0
    for name in ROBOTS:
        assert json.loads((three["run"] / name / "episodes.json").read_text())["next"] == EPISODES


def test_the_learner_has_every_episode_of_every_robot_once(three: dict[str, Any]) -> None:
    found = examine([three["run"] / name for name in ROBOTS], three["run"] / "learner")
    assert found.faults == [] and found.waiting == 0
    assert found.by_robot == dict.fromkeys(ROBOTS, EPISODES)


def test_the_learner_tells_what_each_robot_has_handed_over(three: dict[str, Any]) -> None:
    status = three["status"]
    told = dict(zip(status.robots, status.robot_items, strict=True))
    assert told == {f"/{name}": EPISODES for name in ROBOTS}


def test_weights_reach_every_robot(three: dict[str, Any]) -> None:
    """None had a file to begin with, and no episode was played without."""
    for name in ROBOTS:
        log = (three["run"] / "log" / f"{name}.policy.log").read_text()
        assert len(re.findall(r"policy version \d+ .*is active", log)) >= 1
        bags = [path.parent for path in (three["run"] / name / "bags").glob("*/metadata.yaml")]
        played = [
            [m for topic, _, m in read_messages(bag) if topic.endswith("/action_chunk")] for bag in bags
        ]
        # More than those where a busy machine made the robot begin one anew.
        assert sum(len(chunks) > 0 for chunks in played) >= EPISODES
        assert all(chunk.policy_version > 0 for chunks in played for chunk in chunks)


def test_every_hand_has_its_own_clock_and_moves_as_it_may(three: dict[str, Any]) -> None:
    clocks = {topic for topic in three["topics"] if topic.endswith("clock")}
    assert clocks == {f"/{name}/clock" for name in ROBOTS}
    for check in three["motion"].values():
        assert check.states > 0 and check.violations == []


# -- Another host


@needs_hosts
@pytest.mark.parametrize("way", ["peers", "discovery_server"])
def test_a_policy_finds_its_learner_on_another_host(way: str, tmp_path: Path) -> None:
    prepare_learner(tmp_path / "learner")
    with hosts.Network(["robot", "learner"]) as network:
        robot, learner = network.hosts["robot"], network.hosts["learner"]
        if way == "peers":
            near, far = {"peers": learner.address}, {}  # one side has to know the other
        else:
            server = ["fast-discovery-server", "-i", "0", "-l", learner.address, "-p", "11811"]
            learner.start(server, tmp_path / "server.log")
            near = far = {"discovery_server": f"{learner.address}:11811"}
        up(
            learner,
            "learner",
            {"run": str(tmp_path / "learner"), "settings": ONLINE, **far},
            tmp_path / "far",
        )
        log = tmp_path / "near"
        up(robot, "robot", {"run": str(tmp_path / "robot"), **near}, log, "--only", "policy")
        assert until(lambda: log.exists() and "is active" in log.read_text(), PATIENCE), log.read_text()


@needs_hosts
def test_containers_with_a_network_in_common_and_no_shared_memory_use_udp(tmp_path: Path) -> None:
    prepare_learner(tmp_path / "learner")
    with hosts.Network(["one"]) as network:
        host = network.hosts["one"]
        far = {"run": str(tmp_path / "learner"), "settings": ONLINE, "transport": "udp"}
        up(host, "learner", far, tmp_path / "far")
        log = tmp_path / "near"
        command = [sys.executable, "-m", "softflow_bringup.cli", "up", "robot", "transport:=udp"]
        command += [f"run:={tmp_path / 'robot'}", "--only", "policy"]
        private = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
        host.start([*private, *command], log, {"ROS_DOMAIN_ID": "0"})
        assert until(lambda: log.exists() and "is active" in log.read_text(), PATIENCE), log.read_text()


# -- A bad link


@needs_hosts
def test_a_cut_and_a_bad_link_lose_and_double_nothing(tmp_path: Path) -> None:
    outcome = partition(tmp_path, 6.0, speed="2")
    before, cut, bad, _ = outcome.phases
    assert outcome.audit.faults == [] and outcome.audit.waiting == 0
    assert outcome.audit.episodes >= 4
    # The robot went on, and nothing came through the cut.
    assert cut.bags > 0 and cut.stored == 0 and cut.frames[0] == 0
    assert 0 < bad.frames[1] < bad.frames[0]
    assert before.stored > 0
    assert outcome.back == outcome.back, "the robot has not found its learner again"
    assert outcome.drain == outcome.drain, "never drained"


# -- Another learner


@needs_hosts
@pytest.mark.parametrize("taken_along", ["everything", "checkpoints"])
def test_another_learner_takes_over(taken_along: str, tmp_path: Path) -> None:
    """Learner A is killed; B goes on elsewhere, from a copy of A's run or of its checkpoints alone.

    Without A's journal B gets everything again from the robot's bags.
    """
    first, second = tmp_path / "a", tmp_path / "b"
    weights = prepare_learner(first)
    with hosts.Network(["robot", "a", "b"]) as network:
        near = {"weights": str(weights), "speed": "2", "lock_step": "false", "run": f"{tmp_path}/robot"}
        near["peers"] = ",".join(network.hosts[name].address for name in ("a", "b"))
        robot = Robot(network.hosts["robot"], tmp_path, near)
        learner = up(
            network.hosts["a"], "learner", {"run": str(first), "settings": ONLINE}, tmp_path / "a.log"
        )
        assert until(lambda: stored_items(first) >= 3, PATIENCE)
        os.killpg(learner.pid, signal.SIGKILL)
        kill_nodes(tmp_path / "a.log")
        shutil.copytree(first if taken_along == "everything" else first / "checkpoints",
                        second if taken_along == "everything" else second / "checkpoints")  # fmt: skip
        stored = stored_items(first)
        bags = closed_bags(robot.directory)
        assert until(lambda: closed_bags(robot.directory) >= bags + 2, PATIENCE), "the robot does not go on"
        assert stored_items(first) == stored
        up(network.hosts["b"], "learner", {"run": str(second), "settings": ONLINE}, tmp_path / "b.log")
        assert until(lambda: stored_items(second) > stored, PATIENCE), (tmp_path / "b.log").read_text()[
            -2000:
        ]
        drain = robot.finish()
    assert drain == drain, "never drained"
    found = examine([robot.directory], second)
    assert found.faults == [] and found.waiting == 0
    steps = json.loads((second / "status.json").read_text())["online_steps"]
    assert steps == found.transitions > 0


def kill_nodes(log: Path) -> None:
    """Kill what a supervisor that was killed has left."""
    for pid in re.findall(r"started \(process (\d+)\)", log.read_text()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
