"""Canary episodes through the whole graph: played in turn, judged by the learner, rolled back by hand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import domain_coordinator
import pytest

from softflow_bringup.episodes import BagWatch
from softflow_bringup.graph import GraphDescription, load_graph
from softflow_bringup.policy import main as policy_command
from softflow_bringup.supervisor import Supervisor
from softflow_learner.session import Session
from softflow_learner.shelf import Entry, read_entries
from softflow_policy.versions import State
from softflow_recorder.bag import read_episode
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TIMEOUT = 150.0
EPISODES = 2
SMALL = (
    "width=16,critic_width=16,batch_size=16,online_min_steps=20,online_critic_only_steps=0,update_to_data=2"
)
LEARNER = {"canary_episodes": EPISODES, "canary_period": 10, "canary_margin_absolute": 1e6}


def with_parameters(graph: GraphDescription, name: str, **values: object) -> GraphDescription:
    nodes = [replace(n, parameters={**n.parameters, **values}) if n.name == name else n for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.2)


def entries(run: Path, state: State) -> list[Entry]:
    return [e for e in read_entries(run / "weights").values() if e.state is state]


def in_force(run: Path) -> int:
    return max(e.version for e in entries(run, State.ACTIVE))


def episode_versions(run: Path) -> list[set[int]]:
    """Of each complete episode, without steps that had no chunk."""
    bags = (read_episode(s.path) for s in BagWatch(run / "bags").summaries())
    return [{int(v) for v in bag.policy_versions if v} for bag in bags]


def test_a_candidate_is_played_judged_promoted_and_rolled_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, learner = tmp_path / "run", tmp_path / "learner"
    task = make_task("CubeRotation-v0")
    settings = {"width": 16, "critic_width": 16}
    session = Session(learner, task, seed=0, settings=settings)
    session.stage = "offline"
    weights = session.finish_stage()
    session.close()
    # Slow enough for a busy machine: the learner comes after the control loop there.
    arguments = {"speed": "2", "lock_step": "true", "settings": SMALL}
    arguments |= {"run": str(run), "learner_run": str(learner), "weights": str(weights)}
    graph = load_graph("online_rl", arguments)
    graph = with_parameters(graph, "learner", **LEARNER)
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("OMP_NUM_THREADS", "1")
        with Supervisor(graph, environment=dict(os.environ), log_directory=tmp_path / "log") as supervisor:
            until(lambda: in_force(learner) > 1, "a candidate promoted")
            promoted = in_force(learner)
            assert policy_command(["rollback", "1", "--reason", "a look at the hand"]) == 0
            until(
                lambda: f"policy version {1} (" in last_active(tmp_path / "log" / "policy.log"),
                "version 1 again",
            )
            assert not supervisor.finished
    judged = read_entries(learner / "weights")[promoted]
    assert judged.state is State.ROLLED_BACK and judged.reason == "a look at the hand" and judged.acted
    log = (tmp_path / "log" / "learner.log").read_text()
    assert f"version {promoted} over {EPISODES} episodes" in log and "at least" in log

    played = episode_versions(run)
    first = min(e.version for e in read_entries(learner / "weights").values() if e.version > 1)
    # Until the second episode of the candidate is over nothing can have been judged.
    start = played.index({first})
    tried = [versions for versions in played[start : start + 2 * EPISODES - 1] if first in versions]
    assert len(tried) >= EPISODES and all(versions == {first} for versions in tried)
    assert {1} in played

    assert policy_command(["list", "--run", str(learner)]) == 0
    table = capsys.readouterr().out
    assert "a look at the hand" in table and "rolled back" in table


def last_active(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if "is active" in line] if log.exists() else []
    return lines[-1] if lines else ""
