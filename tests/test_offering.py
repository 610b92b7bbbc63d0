"""What a learner announces: to late robots, after a restart, when a robot refuses, when the disk is full.

The real node, in this process.
"""

from __future__ import annotations

import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from softflow_msgs.msg import EpisodeSegment, PolicyManifest, PolicyReceipt

from softflow_learner.checkpoint import list_checkpoints
from softflow_learner.journal import SEGMENT, Journal, Pushed, Stored
from softflow_learner.node import LearnerNode
from softflow_learner.session import Session
from softflow_learner.shelf import Shelf
from softflow_node.node import latched
from softflow_policy.versions import State
from softflow_tasks import make_task

pytestmark = pytest.mark.ros
TASK = make_task("CubeRotation-v0")
CANDIDATE, ACTIVE, ROLLED_BACK = State


class Hall:
    """A learner node, and a robot that hears it and says what it is told to."""

    def __init__(self) -> None:
        self.learner = LearnerNode()
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.learner)
        self.robots: list[Node] = []
        self.join()

    def join(self) -> None:
        """A further robot, whose ears count from now on."""
        robot = Node("robot", namespace="/hand0")
        self.robots.append(robot)
        self.executor.add_node(robot)
        heard: list[tuple[State, int]] = []
        self.heard = heard
        self.reasons: dict[int, str] = {}
        self.receipts = robot.create_publisher(PolicyReceipt, "/learner/policy_receipt", latched(10))
        topic = "/learner/policy_manifest"

        def on_manifest(message: PolicyManifest) -> None:
            heard.append((State(message.state), message.version))
            self.reasons[message.version] = message.reason

        robot.create_subscription(PolicyManifest, topic, on_manifest, latched(100))

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + 30.0
        while not condition():
            assert time.monotonic() < end, f"never: {what}; heard {self.heard}"
            self.spin(0.05)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.learner.poll()
            self.executor.spin_once(timeout_sec=left)

    def says(
        self, outcome: int, version: int, sha256: str = "", robot: str = "/hand0", detail: str = ""
    ) -> None:
        entry = self.learner.session.shelf.entries.get(version)
        digest = sha256 or (entry.sha256 if entry else "")
        receipt = PolicyReceipt(robot=robot, version=version, sha256=digest, outcome=outcome, detail=detail)
        self.receipts.publish(receipt)

    def updates(self, count: int) -> None:
        for _ in range(count):
            self.learner.offering.after_update()


@contextmanager
def hall(run: Path, **parameters: object) -> Iterator[Hall]:
    """In a domain of its own."""
    arguments = ["--ros-args"]
    for name, value in {"run": run, **parameters}.items():
        arguments += ["-p", f"{name}:={value}"]
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        rclpy.init(args=arguments)
        try:
            made = Hall()
            try:
                yield made
            finally:  # Also after a failure: the next test may get this domain.
                made.executor.shutdown()
                for node in (*made.robots, made.learner):
                    node.destroy_node()
        finally:
            rclpy.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return with_two_versions(tmp_path)


def with_two_versions(run: Path) -> Path:
    """Versions 1 and 2 were in force."""
    session = Session(run, TASK, seed=0, settings={"width": 8, "critic_width": 8})
    session.stage = "offline"
    session.publish()
    session.finish_stage()
    session.close()
    return run


def test_a_rollback_outlives_the_learner_and_holds_what_comes_next(run: Path) -> None:
    with hall(run, publish_updates=3) as made:
        made.until(lambda: (ACTIVE, 2) in made.heard, "version 2")
        assert made.learner.offering.rollback(0, "it drops the cube") == 1
        made.until(lambda: (ACTIVE, 1) in made.heard, "version 1")
        assert made.heard == [(ACTIVE, 2), (ROLLED_BACK, 2), (ACTIVE, 1)]
        assert made.reasons[2] == "it drops the cube"
    with hall(run, publish_updates=3) as made:
        made.until(lambda: len(made.heard) == 2, "what is in force")
        assert set(made.heard) == {(ROLLED_BACK, 2), (ACTIVE, 1)}
        made.updates(3)
        made.spin(0.5)
        assert len(made.heard) == 2 and Shelf(run / "weights").candidate == 3
        made.learner.offering.promote(3, "looks good")
        made.updates(3)
        made.until(lambda: (ACTIVE, 4) in made.heard, "the next version, active at once")
        assert (ACTIVE, 3) in made.heard


def test_a_late_robot_hears_both_the_active_version_and_the_candidate(run: Path) -> None:
    with hall(run, canary_episodes=2, canary_period=1) as made:
        made.updates(1)
        made.until(lambda: (CANDIDATE, 3) in made.heard, "the candidate")
        made.updates(5)
        made.join()
        made.until(lambda: len(made.heard) == 2, "both")
        made.spin(0.3)
        assert sorted(made.heard) == [(CANDIDATE, 3), (ACTIVE, 2)]


def test_a_candidate_that_a_robot_refuses_is_withdrawn_with_the_robots_words(run: Path) -> None:
    with hall(run, canary_episodes=2, canary_period=1) as made:
        made.updates(1)
        made.says(PolicyReceipt.REFUSED, 3, detail="trial plan: not finite")
        made.until(lambda: (ROLLED_BACK, 3) in made.heard, "the end of the candidate")
        assert made.reasons[3] == "/hand0 refused version 3: trial plan: not finite"
        assert made.learner.counters["refused_weights"] == 1
        made.updates(1)
        made.until(lambda: (CANDIDATE, 4) in made.heard, "the next one")


def segment(index: int, version: int, reward: float) -> bytes:
    size, actions = TASK.layout.size, TASK.action_dim
    message = EpisodeSegment(
        robot="/hand0", episode_id=f"episode{index}", task=TASK.id, layout_hash=TASK.layout.hash
    )
    message.source, message.mode, message.steps = "policy", "train", 2
    message.state_dim, message.action_dim = size, actions
    message.states, message.actions = array("f", [0.0] * 3 * size), array("f", [0.0] * 2 * actions)
    message.rewards, message.policy_versions = array("f", [reward] * 2), array("Q", [version] * 2)
    message.interventions, message.final, message.truncated = [False] * 2, True, True
    return bytes(serialize_message(message))


def store(run: Path, episodes: list[bytes]) -> None:
    journal = Journal(run / "experience")
    first = journal.acknowledged("/hand0", "boot") + 1
    for seq, payload in enumerate(episodes, start=first):
        journal.add([Pushed("/hand0", "boot", seq, zlib.crc32(payload), payload)])


@pytest.mark.parametrize(("reward", "end"), [(0.95, ACTIVE), (0.5, ROLLED_BACK)])
def test_a_canary_goes_on_after_a_restart_with_the_episodes_that_were_stored(
    run: Path, reward: float, end: State
) -> None:
    canary = {"canary_episodes": 2, "canary_period": 1, "settings": "online_min_steps=1000"}
    with hall(run, **canary) as made:
        made.updates(1)
        made.until(lambda: (CANDIDATE, 3) in made.heard, "the candidate")
    store(run, [segment(0, 3, reward), segment(1, 2, 1.0), segment(2, 3, reward)])
    with hall(run, **canary) as made:
        made.until(lambda: (CANDIDATE, 3) in made.heard, "the candidate again")
        assert made.learner.offering.canary is not None
        made.learner._learn_from(Stored(SEGMENT, segment(3, 2, 1.0)))
        made.until(lambda: (end, 3) in made.heard, "the verdict")
        assert f"mean return {2 * reward:.4g} of version 3 over 2 episodes" in made.reasons[3]
        assert made.learner.session.shelf.active == (3 if end is ACTIVE else 2)


@pytest.mark.parametrize(("reward", "end"), [(0.95, ACTIVE), (0.5, ROLLED_BACK)])
def test_a_verdict_that_cannot_be_written_is_announced_when_it_is(
    run: Path, reward: float, end: State
) -> None:
    with hall(run, canary_episodes=1, canary_period=1, settings="online_min_steps=1000") as made:
        made.updates(1)
        made.until(lambda: (CANDIDATE, 3) in made.heard, "the candidate")
        in_the_way = run / "weights" / "versions.json.tmp"
        in_the_way.mkdir()
        for payload in (segment(0, 3, reward), segment(1, 2, 1.0)):
            made.learner._learn_from(Stored(SEGMENT, payload))
        made.until(made.learner.fault, "a fault")
        assert made.learner.fault().startswith("weights not written") and (end, 3) not in made.heard
        assert made.learner.session.shelf.active == 2, "robots have heard of no other"
        in_the_way.rmdir()
        made.until(lambda: (end, 3) in made.heard, "the verdict")
        assert made.learner.fault() == "" and made.learner.counters["failed_writes"] >= 1


def test_on_a_full_disk_it_learns_on_and_writes_what_it_could_not_when_there_is_room(
    small_disk: Path, fill: Callable[[int], Path]
) -> None:
    run = with_two_versions(small_disk / "run")
    store(run, [segment(index, 2, 1.0) for index in range(20)])
    settings = "online_min_steps=4,offline_fraction=0,batch_size=8,update_to_data=100"
    with hall(run, publish_updates=20, checkpoint_period=1.0, settings=settings) as made:
        learner = made.learner
        made.until(lambda: learner.session.agent.gradient_step > 0, "an update")
        filler = fill(0)
        parts = ("checkpoint", "weights", "status.json")
        made.until(lambda: all(f"{part} not written" in learner.fault() for part in parts), "every fault")
        assert "No space left" in learner.fault()
        known, step = learner.session.version, learner.session.agent.gradient_step
        assert known == max(version for _, version in made.heard) == Shelf(run / "weights").newest
        made.until(lambda: learner.session.agent.gradient_step > step + 5, "more updates")
        assert learner.session.version == known

        filler.unlink()
        made.until(lambda: not any(part in learner.fault() for part in parts), "no such fault any more")
        made.until(lambda: (ACTIVE, known + 1) in made.heard, "the next version")
        assert list_checkpoints(run / "checkpoints")[0].name > f"checkpoint_{step:012d}"

        fill(0)
        learner.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            learner.journal.add([])


def test_a_robot_that_joins_with_foreign_weights_gets_newer_ones_and_one_that_leaves_ends_the_learner(
    run: Path,
) -> None:
    with hall(run) as made:
        made.says(PolicyReceipt.ACTIVE, 2)
        made.says(PolicyReceipt.ACTIVE, 90, "f" * 64, robot="/hand1")
        made.until(lambda: (ACTIVE, 91) in made.heard, "a version beyond the other robot's")
        assert not made.learner.finished
        made.says(PolicyReceipt.ACTIVE, 92, "e" * 64)
        made.until(lambda: made.learner.finished, "the end of a learner that another one has followed")
        assert made.learner.counters["refused_other_learner"] == 1 and made.learner.exit_code == 0
        assert made.learner.offering.next_state() is CANDIDATE
