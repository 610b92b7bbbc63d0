"""A short campaign of SIGKILLs over a whole graph; the long one is `softflow bench faults`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import sleep

import domain_coordinator
import pytest

from softflow_bringup.bench.faults import Outcome, campaign, report
from softflow_bringup.bench.system import PATIENT, impatient, until
from softflow_bringup.episodes import BagWatch
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor

pytestmark = [pytest.mark.ros, pytest.mark.slow]
KILLS = 12

EPISODES = 4


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run = tmp_path_factory.mktemp("faults")
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        found = campaign(run, KILLS, pause=1.5, seed=1, speed="2", seconds=120.0)
    print(report(found))
    return found


def test_every_killed_node_does_its_work_again(outcome: Outcome) -> None:
    assert outcome.kills.total() == KILLS and len(outcome.kills) >= 4
    assert outcome.not_recovered == [] and outcome.died == []


def test_what_was_acknowledged_is_stored_once_as_it_was_recorded(outcome: Outcome) -> None:
    audit = outcome.audit
    assert audit.faults == []
    assert audit.episodes >= 1 and audit.transitions > 0


def test_nothing_waits_after_the_drain(outcome: Outcome) -> None:
    assert outcome.drained and outcome.audit.waiting == 0


def test_the_hand_moves_as_it_may_and_holds_without_a_chunk(outcome: Outcome) -> None:
    assert outcome.violations == []
    assert outcome.states > 100 and 0.0 < outcome.largest_step <= 1.0


def test_killed_nodes_leave_no_shared_memory(outcome: Outcome) -> None:
    assert outcome.left_in_memory == []


def test_a_killed_episode_manager_goes_on_counting(tmp_path: Path) -> None:
    """Every index comes once, however often the node that counts is killed; the graph ends by itself."""
    watch = BagWatch(tmp_path / "bags")
    arguments = {"speed": "max", "run": tmp_path, "episodes": EPISODES}
    killed: list[int] = []
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        graph = impatient(load_graph("record_demos", arguments))
        with Supervisor(graph, log_directory=tmp_path / "log", limits=PATIENT) as supervisor:
            while not supervisor.finished:
                if len(killed) < 2 and len(watch.summaries()) > len(killed):
                    killed.append(supervisor.processes()["episode_manager"])
                    os.kill(killed[-1], signal.SIGKILL)
                    until(
                        lambda: supervisor.processes().get("episode_manager", killed[-1]) != killed[-1], 60.0
                    )
                sleep(0.1)
    assert supervisor.exit_code == 0 and len(set(killed)) == 2
    # An episode that was complete when its manager died, but not counted yet, comes again under its index.
    indices = [summary.index for summary in watch.summaries()]
    assert sorted(set(indices)) == list(range(EPISODES))
    assert len(indices) <= EPISODES + len(killed)
