"""A human, scripted, takes the hand in the real graph: while a policy plays, and to record demonstrations."""

from __future__ import annotations

import dataclasses
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from ros_permissions import allowed, used
from sensor_msgs.msg import JointState
from softflow_msgs.msg import EpisodeSegment, HandHealth, HandState
from std_srvs.srv import SetBool, Trigger

from hand_driver.hand_file import hands_directory
from softflow_bringup.bench.system import ONLINE, impatient, prepare_learner, until
from softflow_bringup.episodes import BagWatch, run_episodes
from softflow_bringup.graph import GraphDescription, load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_learner.bags import load_bags
from softflow_learner.journal import read_journal
from softflow_learner.messages import add_payload
from softflow_learner.session import new_agent, new_replay
from softflow_node.node import latched, reliable, stream
from softflow_recorder.bag import BagError, read_episode, read_messages
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labelling import find_bag
from softflow_recorder.labels import Label, read_labels
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TASK = make_task("CubeRotation-v0")
GRASP = TASK.action_to_joints(np.tile([0.0, 0.6], 4), np.zeros(12))
OPEN = TASK.action_to_joints(np.tile([0.0, -1.0], 4), np.zeros(12))
FAST = 3.0
"""[rad/s] of the joints of a hand whose limit binds: a random policy would go faster."""


class Human:
    """Sends joint targets like a glove, and sees the hand; everything in one thread of its own."""

    def __init__(self, context: Context) -> None:
        self.node = Node("glove", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.state = HandState()
        self.pub = self.node.create_publisher(JointState, "/hand0/teleop/joint_targets", reliable(2))
        self.health = HandHealth()
        self.node.create_subscription(HandHealth, "/hand0/hand_health", self._on_health, latched())
        self.node.create_subscription(HandState, "/hand0/hand_state", self._on_state, stream())

    def _on_state(self, message: HandState) -> None:
        self.state = message

    def _on_health(self, message: HandHealth) -> None:
        self.health = message

    def show(self, joints: np.ndarray) -> None:
        """Joint targets, in an order of the device's own."""
        pairs = sorted(zip(TASK.joint_names, joints.tolist(), strict=True), reverse=True)
        self.pub.publish(JointState(name=[n for n, _ in pairs], position=[p for _, p in pairs]))

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, f"/hand0/teleop/{name}")
        assert until(client.service_is_ready, 20.0, lambda _: self.spin(0.05))
        future = client.call_async(request)
        assert until(future.done, 20.0, lambda _: self.spin(0.01))
        return future.result()


@pytest.fixture
def human() -> Iterator[Human]:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        context = Context()
        rclpy.init(context=context)
        found = Human(context)
        yield found
        found.node.destroy_node()
        rclpy.shutdown(context=context)


def slow_hand(folder: Path) -> Path:
    """The task's hand with a speed limit that binds."""
    values = yaml.safe_load((hands_directory() / "palmdown4.yaml").read_text())
    for joint in values["joints"].values():
        joint["max_velocity"] = FAST
    path = folder / "slow.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def with_hand(graph: GraphDescription, hand: Path) -> GraphDescription:
    nodes = (
        dataclasses.replace(n, parameters={**n.parameters, "hand": str(hand)})
        if n.name == "hand_driver"
        else n
        for n in graph.nodes
    )
    return dataclasses.replace(graph, nodes=tuple(nodes))


def take_over(human: Human, steps: int = 16) -> str:
    """Wait for an episode that the policy plays, hold the hand for some steps, give it back; the episode's id."""

    def policy_plays() -> bool:
        return human.state.source == "policy" and 6 <= human.state.step <= 20

    assert until(policy_plays, 60.0, lambda _: human.spin(0.01)), "the policy plays"
    episode_id, first = human.state.episode_id, human.state.step
    while human.state.episode_id == episode_id and human.state.step < first + steps:
        human.show(GRASP)
        human.spin(0.02)
    assert human.call(SetBool, "take", SetBool.Request(data=False)).success
    return episode_id


def applied_by_human(bag: Path, steps: int) -> np.ndarray:
    """(n,) by the numbers alone: the applied action is one that the human's chunks asked for, and was not held over."""
    messages = [(topic.rsplit("/", 1)[-1], m) for topic, _, m in read_messages(bag)]
    asked = {
        row.tobytes()
        for topic, m in messages
        if topic == "action_chunk" and m.source == "teleop"
        for row in np.array(m.actions, dtype=np.float32).reshape(m.horizon, -1)
    }
    states = {m.step: m for topic, m in messages if topic == "hand_state"}
    led = [states[i + 1] for i in range(steps)]
    return np.array(
        [not s.starved and np.array(s.applied_action, np.float32).tobytes() in asked for s in led]
    )


def largest_step(bag: Path) -> float:
    """[rad] that a joint target moved in one control step, at most."""
    states = {m.step: m for topic, _, m in read_messages(bag) if topic.endswith("/hand_state")}
    commands = np.array([states[i].command for i in sorted(states)])
    return float(np.abs(np.diff(commands, axis=0)).max())


def taken_over(human: Human, run: Path) -> tuple[Path, EpisodeData]:
    """Let the human act until there is an episode in which the policy came before and after; its bag."""
    watch = BagWatch(run / "bags")
    for _ in range(
        8
    ):  # a policy that knows nothing may drop the cube before the human has it, or just afterwards
        episode_id = take_over(human)
        human.call(Trigger, "reward", Trigger.Request())

        def bag_of(wanted: str) -> list[Path]:
            return [s.path for s in watch.summaries() if read_episode(s.path).episode_id == wanted]

        def is_there(wanted: str = episode_id) -> bool:
            return bool(bag_of(wanted))

        # The first episode of a world that does not wait may lack what was said before the recorder was found.
        if not until(is_there, 30.0, lambda _: human.spin(0.2)):
            continue
        (bag,) = bag_of(episode_id)
        episode = read_episode(bag)
        marks = [m for topic, _, m in read_messages(bag) if topic.endswith("/reward_label")]
        who = episode.interventions
        if who.sum() >= 5 and not who[0] and not who[-1] and any(m.source == "human" for m in marks):
            return bag, episode
    raise AssertionError("no episode with a human in its middle")


def check_takeover(bag: Path, episode: EpisodeData) -> None:
    """The data tell the human's steps from the others; no joint target went faster than it may."""
    who = episode.interventions
    np.testing.assert_array_equal(who, applied_by_human(bag, episode.steps))
    assert episode.source == "policy"
    assert (episode.policy_versions[who] == 0).all()
    assert (episode.policy_versions[np.flatnonzero(who)[-1] + 1 :] > 0).any(), "the policy goes on"
    assert largest_step(bag) <= FAST / TASK.control_hz + 1e-5
    assert largest_step(bag) > 0.5 * FAST / TASK.control_hz, "the limit binds, so that the test can fail"
    marks = [m for topic, _, m in read_messages(bag) if topic.endswith("/reward_label")]
    marked = next(m.start_step for m in marks if m.source == "human")
    assert episode.rewards[marked] == 1.0


def test_a_human_takes_the_hand_in_online_learning_and_gives_it_back(human: Human, tmp_path: Path) -> None:
    arguments = {
        "speed": "4",
        "lock_step": "true",  # without gaps, however busy the machine is
        "teleop": "true",
        "run": tmp_path / "robot",
        "learner_run": tmp_path / "learner",
        "weights": prepare_learner(tmp_path / "learner"),
        "settings": ONLINE,
    }
    graph = with_hand(impatient(load_graph("online_rl", arguments)), slow_hand(tmp_path))
    replay = new_replay(new_agent(TASK, {}))
    journal = tmp_path / "learner" / "experience"
    with Supervisor(graph, log_directory=tmp_path / "log"):
        bag, episode = taken_over(human, tmp_path / "robot")

        def handed_over() -> bool:
            items = (
                [item.payload for item in read_journal(journal)] if (journal / "journal").is_file() else []
            )
            found = [
                p for p in items if deserialize_message(p, EpisodeSegment).episode_id == episode.episode_id
            ]
            return bool(found) and add_payload(replay, found[0], TASK.layout.hash) == episode.steps

        assert until(handed_over, 120.0, lambda _: human.spin(1.0)), "the episode is handed over"
    check_takeover(bag, episode)
    assert [who for who, _ in groupby(episode.interventions.tolist())] == [False, True, False]
    # In the learner: what the human did throughout is a demonstration.
    np.testing.assert_array_equal(replay.episode(episode.episode_id).interventions, episode.interventions)
    assert replay.sampleable("offline") == episode.interventions.sum() - 4 and replay.sampleable("online") > 0


def test_a_hand_that_does_not_wait_is_taken_and_given_back(human: Human, tmp_path: Path) -> None:
    """As a real one: time goes on while nobody commands it, and such steps are nobody's."""
    weights = prepare_learner(tmp_path / "learner")
    arguments = {"speed": "1", "teleop": "true", "run": tmp_path / "robot", "weights": weights}
    graph = with_hand(load_graph("inference", arguments), slow_hand(tmp_path))
    with Supervisor(graph, log_directory=tmp_path / "log"):
        bag, episode = taken_over(human, tmp_path / "robot")
    check_takeover(bag, episode)


def test_demonstrations_by_teleoperation(human: Human, tmp_path: Path) -> None:
    """A simulated world waits for the human; what was recorded trains like any demonstration."""
    done = threading.Event()

    def show() -> None:
        while not done.is_set():
            human.spin(0.01)
            swing = np.tile([0.1 * np.sin(human.state.step / 4.0), 0.0, 0.0], 4)
            human.show(GRASP + swing if human.state.step < 25 else OPEN)

    hands = threading.Thread(target=show)
    hands.start()
    try:
        arguments = {"source": "teleop", "speed": "4", "lock_step": "true"}
        summaries = run_episodes("record_demos", arguments, tmp_path, 2, lambda _: None, time.sleep)
    finally:
        done.set()
        hands.join()
    for summary in summaries:
        episode = read_episode(summary.path)
        assert (episode.source, episode.mode) == ("teleop", "demo")
        assert episode.interventions.all() and episode.steps > 25
        np.testing.assert_array_equal(episode.interventions, applied_by_human(summary.path, episode.steps))
    replay = new_replay(new_agent(TASK, {}))
    _, refused = load_bags(replay, tmp_path / "bags", TASK.layout.hash, successful_only=False)
    assert not refused and replay.size("offline") > 0 and replay.size("online") == 0
    command = [sys.executable, "-m", "softflow_learner.cli", "imitation", "--run", str(tmp_path / "learner")]
    command += ["--demos", str(tmp_path / "bags"), "--set", "imitation_updates=10"]
    subprocess.run(command, check=True, timeout=120)
    assert (tmp_path / "learner" / "policies" / "imitation.safetensors").is_file()


def labels_of(bags: Path, episode_id: str) -> list[Label]:
    try:
        return read_labels(find_bag(bags, episode_id))
    except BagError:
        return []  # not closed yet


def test_the_keyboard_takes_no_hand_that_has_not_said_where_it_is(human: Human, tmp_path: Path) -> None:
    asked = []

    def take(request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        asked.append(request.data)
        response.success = True
        return response

    human.node.create_service(SetBool, "/hand0/teleop/take", take)
    ours, theirs = pty.openpty()
    shown = tmp_path / "shown"
    with shown.open("wb") as out:
        command = [sys.executable, "-m", "softflow_bringup.cli", "teleop"]
        keyboard = subprocess.Popen(command, stdin=theirs, stdout=out, stderr=subprocess.STDOUT)

    def refused() -> bool:
        os.write(ours, b"t")
        human.spin(0.5)
        return "take: the hand has not said yet what and where it is" in shown.read_text()

    try:
        assert until(refused, 60.0, lambda _: None), shown.read_text()
        human.spin(1.0)
        assert not asked
    finally:
        keyboard.kill()
        keyboard.wait()
        os.close(ours)
        os.close(theirs)


def test_the_keys_of_a_terminal_move_judge_and_stop_the_hand(human: Human, tmp_path: Path) -> None:
    arguments = {"source": "teleop", "speed": "1", "lock_step": "true", "run": tmp_path / "run"}
    ours, theirs = pty.openpty()
    shown = tmp_path / "shown"
    keyboard = None
    try:
        with Supervisor(load_graph("record_demos", arguments), log_directory=tmp_path / "log"):
            command = [sys.executable, "-m", "softflow_bringup.cli", "teleop"]
            with shown.open("wb") as out:
                keyboard = subprocess.Popen(command, stdin=theirs, stdout=out, stderr=subprocess.STDOUT)
            assert until(lambda: bool(human.state.episode_id), 60.0, lambda _: human.spin(0.05)), "an episode"

            def taken() -> bool:
                os.write(ours, b"t")
                human.spin(0.5)
                # A hand that was taken and lost again, because the answer came late, goes on for a few steps only.
                return human.state.step > 25

            assert until(taken, 30.0, lambda _: None), "the world goes on with a human's chunks"
            name = "/hand0/keyboard"
            assert until(lambda: allowed(name) == used(human.node, name), 20.0), "what its enclave allows"
            joint = TASK.joint_names.index("finger0_mcp")
            before = human.state.command[joint]
            os.write(ours, b"\x1b[C" * joint + b"\x1b[A" * 2)
            assert until(lambda: human.state.command[joint] > before + 0.02, 20.0, lambda _: human.spin(0.05))
            judged = human.state.episode_id
            os.write(ours, b"ny")  # a human may think better of it
            os.write(ours, b" ")  # which ends the episode
            assert until(
                lambda: "keyboard" in human.health.reason and human.health.mode == HandHealth.MODE_ESTOP,
                20.0,
                lambda _: human.spin(0.05),
            )
            bags = tmp_path / "run" / "bags"
            assert until(lambda: bool(labels_of(bags, judged)), 20.0, lambda _: human.spin(0.1)), "labelled"
            # Whoever quits does not wait for an answer, which may come after the label is written.
            assert until(lambda: "success of episode" in shown.read_text(), 20.0), "answered"
            os.write(ours, b"q")
            assert keyboard.wait(timeout=20.0) == 0
    finally:
        if keyboard is not None and keyboard.poll() is None:
            keyboard.kill()
        os.close(ours)
        os.close(theirs)
    said = shown.read_text()
    assert "the hand is yours" in said and "EMERGENCY STOP: stopped" in said
    [label] = labels_of(bags, judged)
    episode = read_episode(find_bag(bags, judged))
    assert (label.start, label.values, label.source) == (episode.steps - 1, (1.0,), "human")
    assert episode.rewards[-1] == 1.0 and episode.reward_sources[-1] == "human"
    assert f"success of episode {judged[:8]}: revision {label.revision}" in said
