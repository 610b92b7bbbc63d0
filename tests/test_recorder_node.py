"""The recorder node and the real driver: a full disk stops the hand, a SIGKILL loses nothing, labels follow."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import EpisodeEvent, EpisodeSegment, HandHealth, Observation, RewardLabel
from softflow_msgs.srv import GetResumePoint, LabelEpisode, PushExperience, SetMode

from softflow_bringup.shm import owned_names, remove_dead
from softflow_learner.journal import Journal
from softflow_learner.messages import from_item
from softflow_node.messages import floats32, to_stamp
from softflow_node.node import latched, reliable, stream
from softflow_recorder.bag import episode_bags, read_episode, read_summary
from softflow_recorder.spool import read_spool
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TIMEOUT = 40.0
TASK = make_task("CubeRotation-v0")
CAMERA = "/hand0/wrist/image_raw/compressed"
RECORDER, DRIVER = "softflow_recorder.node", "hand_driver.node"


class Rig:
    """The two nodes as processes, and a node that plays all the others."""

    def __init__(self, context: Context, run: Path) -> None:
        self.run = run
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.node = Node("others", namespace="/hand0", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.events = self.node.create_publisher(EpisodeEvent, "episode_event", latched(100))
        self.observations = self.node.create_publisher(Observation, "observation", stream())
        self.rewards = self.node.create_publisher(RewardLabel, "reward_label", stream())
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.camera = self.node.create_publisher(CompressedImage, CAMERA, best_effort)
        self.label = self.node.create_client(LabelEpisode, "label_episode")
        self.set_mode = self.node.create_client(SetMode, "set_mode")
        self.health = HandHealth()
        self.status = DiagnosticStatus()
        self.node.create_subscription(HandHealth, "hand_health", self._on_health, latched())
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(10))
        self.rng = np.random.default_rng(0)
        self.image_bytes = 300

    def _on_health(self, health: HandHealth) -> None:
        self.health = health

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/hand0/recorder":
                self.status = status

    def start(self, module: str, **parameters: object) -> None:
        command = [sys.executable, "-m", module, "--ros-args", "-r", "__ns:=/hand0"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        self.processes[module] = subprocess.Popen(command)

    def start_recorder(self, **more: object) -> None:
        settings = {
            "ship": "true",
            "min_free_mb": 0,
            "flush_kb": 10,
            "flush_period": 0.1,
            "image_topics": CAMERA,
            **more,
        }
        self.start(RECORDER, directory=self.run / "bags", **settings)
        self.until(lambda: self.label.service_is_ready(), "the recorder is there")
        # Before the images are received, an episode would have to do without.
        self.until(
            lambda: min(p.get_subscription_count() for p in (self.camera, self.rewards, self.events)), "heard"
        )

        for stamp in range(1, 21):  # a camera runs before an episode begins
            self.show(stamp, b"before")
            time.sleep(0.02)

    def show(self, stamp: int, data: bytes) -> None:
        image = CompressedImage(format="jpeg", data=data)
        image.header.stamp = to_stamp(stamp)
        self.camera.publish(image)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"never: {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, client: Any, request: Any) -> Any:
        self.until(client.service_is_ready, "the service is there")
        future = client.call_async(request)
        self.until(future.done, "an answer")
        return future.result()

    def play(
        self, episode_id: str, steps: int, end: bool = True, until: Callable[[], Any] = lambda: False
    ) -> int:
        """Publish an episode; with `end` up to its end. Returns its observations."""
        about = {"episode_id": episode_id, "task": TASK.id}
        self.events.publish(EpisodeEvent(**about, kind=EpisodeEvent.START, mode="train", seed=1))
        for step in range(steps + 1):
            self.show((step + 1) * 50_000_000, b"\xff\xd8" + bytes(self.image_bytes) + b"%d" % step)
            observation = Observation(**about, step=step, layout_hash=TASK.layout.hash)
            observation.header.stamp = to_stamp((step + 1) * 50_000_000)
            observation.state = floats32(self.rng.uniform(-1, 1, TASK.layout.size))
            observation.applied_action = floats32(np.zeros(TASK.action_dim))
            observation.images = [f"{CAMERA}@{(step + 1) * 50_000_000}"]
            self.observations.publish(observation)
            if step:
                self.rewards.publish(
                    RewardLabel(episode_id=episode_id, start_step=step - 1, values=floats32([step]))
                )
            self.executor.spin_once(timeout_sec=0.0)
            time.sleep(0.002)
            if until():
                return step + 1
        if end:
            kind = EpisodeEvent.TRUNCATED
            self.events.publish(EpisodeEvent(**about, kind=kind, last_step=steps, mode="train", seed=1))
        return steps + 1

    def spooled(self) -> list[str]:
        """Episodes, and labels as episode:revision."""
        found = []
        for item in read_spool(self.run / "spool"):
            message = deserialize_message(item.payload(), RewardLabel if item.kind else EpisodeSegment)
            found.append(message.episode_id + (f":{message.revision}" if item.kind else ""))
        return found

    def bag(self, episode_id: str) -> Path:
        return next(p for p in episode_bags(self.run / "bags") if p.name.endswith(episode_id[:8]))

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(30.0)
        self.node.destroy_node()


class PlainLearner:
    """The learner's two services around a real journal."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder)
        self.boots: set[str] = set()
        rig.node.create_service(GetResumePoint, "/learner/get_resume_point", self._on_resume)
        rig.node.create_service(PushExperience, "/learner/push_experience", self._on_push)

    def lose(self) -> None:
        shutil.rmtree(self.folder)
        self.journal = Journal(self.folder)

    def episodes(self) -> list[str]:
        """Of the stored segments that begin one."""
        stored = [deserialize_message(s.payload, EpisodeSegment) for s in self.journal.stored()]
        return [segment.episode_id for segment in stored if segment.start_step == 0]

    def _on_resume(self, request: Any, response: Any) -> Any:
        response.acknowledged_seq, response.credits = (
            self.journal.acknowledged(request.robot, request.boot),
            8,
        )
        return response

    def _on_push(self, request: Any, response: Any) -> Any:
        self.boots.add(request.items[0].boot)
        error = self.journal.add([from_item(item) for item in request.items]).error
        response.errors = [error] if error else []
        return self._on_resume(request.items[0], response)


@pytest.fixture
def context() -> Iterator[Context]:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        made = Context()
        rclpy.init(context=made, domain_id=domain)
        yield made
        rclpy.try_shutdown(context=made)


def test_a_killed_recorder_loses_nothing_that_it_wrote_and_labels_follow(
    context: Context, tmp_path: Path
) -> None:
    rig = Rig(context, tmp_path)
    try:
        rig.start_recorder()
        rig.play("aaaaaaaa1", 20)
        rig.until(lambda: rig.spooled() == ["aaaaaaaa1"], "the episode is in the spool")
        episode = read_episode(rig.bag("aaaaaaaa1"))
        assert [data[302:] for data in episode.images["wrist"]] == [b"%d" % step for step in range(21)]

        request = LabelEpisode.Request(
            episode_id="aaaaaaaa1", start_step=3, values=floats32([0.5]), source="human"
        )
        request.confidence = 1.0
        answer = rig.call(rig.label, request)
        assert answer.ok and answer.revision == 1
        assert read_episode(rig.bag("aaaaaaaa1")).rewards[3] == 0.5
        rig.until(lambda: rig.spooled() == ["aaaaaaaa1", "aaaaaaaa1:1"], "the label is in the spool")
        request.start_step = 20
        answer = rig.call(rig.label, request)
        assert not answer.ok and "start_step is 20 with 1 values, the episode has 20 steps" in answer.message

        rig.play("bbbbbbbb2", 60, end=False)
        file = next(rig.bag("bbbbbbbb2").glob("*.mcap"))
        rig.until(lambda: file.stat().st_size > 30_000, "some of it is flushed")
        segments = owned_names(rig.processes[RECORDER].pid)
        rig.processes[RECORDER].send_signal(signal.SIGKILL)
        rig.processes[RECORDER].wait()
        remove_dead(segments, ports=False)
        rig.start_recorder()
        rig.until(lambda: len(rig.spooled()) == 3, "what there is of it is in the spool")
        assert rig.spooled() == ["aaaaaaaa1", "aaaaaaaa1:1", "bbbbbbbb2"]
        summary = read_summary(
            next(p for p in episode_bags(tmp_path / "bags") if p.name.endswith("bbbbbbbb"))
        )
        assert summary is not None and summary.recovered and 20 <= summary.steps <= 60
    finally:
        rig.stop()


def test_a_full_disk_holds_the_hand_until_somebody_says_go(
    context: Context, small_disk: Path, fill: Callable[[int], Path]
) -> None:
    rig = Rig(context, small_disk)
    try:
        rig.start(DRIVER)
        rig.start_recorder()
        rig.until(lambda: rig.health.mode == HandHealth.MODE_ACTIVE, "the hand is active")
        rig.play("aaaaaaaa1", 20)
        rig.until(lambda: rig.spooled() == ["aaaaaaaa1"], "the episode is in the spool")

        filler = fill(120_000)
        rig.play("bbbbbbbb2", 1000, until=lambda: rig.health.mode == HandHealth.MODE_HOLD)
        assert rig.health.mode == HandHealth.MODE_HOLD and "No space left" in rig.health.reason
        rig.until(lambda: rig.status.level == DiagnosticStatus.ERROR, "an error on /diagnostics")
        assert "nothing is recorded" in rig.status.message

        go = SetMode.Request(mode=HandHealth.MODE_ACTIVE, reason="too early")
        assert rig.call(rig.set_mode, go).ok
        rig.until(
            lambda: rig.health.mode == HandHealth.MODE_HOLD and "recorder" in rig.health.reason, "held again"
        )
        filler.unlink()
        rig.until(
            lambda: "bbbbbbbb2" in rig.spooled(), "what there is of the episode is kept and handed over"
        )
        assert rig.health.mode == HandHealth.MODE_HOLD
        assert read_episode(rig.bag("bbbbbbbb2"), recovered=True).steps > 20

        assert rig.call(rig.set_mode, SetMode.Request(mode=HandHealth.MODE_ACTIVE, reason="made room")).ok
        rig.until(lambda: rig.status.level != DiagnosticStatus.ERROR, "no error any more")
        rig.play("cccccccc3", 20)
        rig.until(lambda: rig.spooled() == ["aaaaaaaa1", "bbbbbbbb2", "cccccccc3"], "it records again")
        assert rig.health.mode == HandHealth.MODE_ACTIVE
    finally:
        rig.stop()


def test_a_full_spool_is_an_error_and_a_learner_without_its_journal_gets_everything(
    context: Context, tmp_path: Path
) -> None:
    rig = Rig(context, tmp_path)
    rig.image_bytes = 30_000
    names = ["aaaaaaaa1", "bbbbbbbb2", "cccccccc3"]
    try:
        rig.start_recorder(spool_limit_mb=1)
        for name in names:
            rig.play(name, 20)
        full = "may have 1000000 bytes; 2 bags wait"
        rig.until(lambda: full in rig.status.message, "the reason on /diagnostics")
        assert rig.status.level == DiagnosticStatus.ERROR
        assert rig.spooled() == names[:1]

        learner = PlainLearner(rig, tmp_path / "journal")
        rig.until(lambda: learner.episodes() == names, "the learner has everything, in order")
        rig.until(lambda: rig.status.level != DiagnosticStatus.ERROR, "no error any more")
        assert len(learner.boots) == 1

        learner.lose()
        rig.play("dddddddd4", 20)
        rig.until(lambda: len(learner.episodes()) == 4, "the learner has everything again")
        assert learner.episodes() == [*names, "dddddddd4"]
        assert len(learner.boots) == 2
    finally:
        rig.stop()
