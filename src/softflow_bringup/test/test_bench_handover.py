"""The benchmark of the hand-over: images and all, from published messages to a learner's batch, through real nodes."""

from __future__ import annotations

from pathlib import Path

import domain_coordinator
import pytest

from softflow_bringup.bench.experience import CAMERAS, STEPS
from softflow_bringup.bench.handover import Heard, measure
from softflow_learner.journal import read_journal
from softflow_learner.messages import add_payload
from softflow_learner.replay import Replay
from softflow_recorder.bag import episode_bags, read_episode


def test_lines_of_the_learner_are_understood_and_others_passed_over() -> None:
    heard = Heard()
    for node, line in (
        ("learner", "handled 0.25"),
        ("learner", "stored ab 3.5"),
        ("recorder", "stored cd 4.5"),
        ("learner", "[INFO] stored"),
        ("learner", ""),
    ):
        heard.listen(node, line)
    assert heard.stored == {"ab": 3.5} and heard.handled == [0.25]


@pytest.mark.ros
@pytest.mark.slow
def test_every_step_and_image_that_was_played_arrives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        measure(tmp_path, 1, CAMERAS)
    assert "0 episodes did not arrive" in capsys.readouterr().out
    bags = [read_episode(path) for path in episode_bags(tmp_path / "robot" / "bags")]
    into = Replay(100, 8, 5, 0.99, cameras=CAMERAS)
    for stored in read_journal(tmp_path / "learner" / "experience"):
        add_payload(into, stored.payload, bags[0].layout_hash)
    assert into.size() == 2 * STEPS
    for bag in bags:
        kept = into.episode(bag.episode_id)
        assert kept.states.tobytes() == bag.states[:-1].tobytes()
        assert kept.rewards.tobytes() == bag.rewards.tobytes()
        assert {name: tuple(track) for name, track in kept.images.items()} == bag.images
