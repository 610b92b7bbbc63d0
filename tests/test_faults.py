"""A short campaign of SIGKILLs over a whole graph; the long one is `softflow bench faults`."""

from __future__ import annotations

import domain_coordinator
import pytest

from softflow_bringup.bench.faults import Outcome, campaign, report

pytestmark = [pytest.mark.ros, pytest.mark.slow]
KILLS = 12


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
    assert outcome.not_recovered == []


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
