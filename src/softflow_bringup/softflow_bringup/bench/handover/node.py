"""The robot's side of the benchmark, and a learner for a task of as many values as are played."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import EpisodeEvent, Observation
from softflow_msgs.srv import PushExperience

from softflow_bringup.bench.experience import ACTION, CAMERAS, SIZE, STATE, STEPS
from softflow_bringup.bench.handover import HANDLED, STORED
from softflow_bringup.bench.messages import LAYOUT, ROBOT, Received, make_messages
from softflow_bringup.bench.system import TINY
from softflow_learner.node import LearnerNode
from softflow_learner.replay import Replay
from softflow_learner.session import Session
from softflow_node.node import latched, reliable, run_node, stream
from softflow_tasks import CubeRotation, Layout

STRETCH = 40
"""Observations that are sent at once; the recorder has to have taken the stretch before the last one."""


class PlainLayout(Layout):
    """Numbers without a meaning."""

    @property
    def hash(self) -> str:
        """As the messages that are played name it."""
        return LAYOUT


class PlainTask(CubeRotation):
    """A task by its sizes only; nobody acts in it."""

    layout = PlainLayout("bench", (("values", STATE, "1"),))

    def __init__(self) -> None:
        """Nothing of the cube is looked for."""


class QuietLearner(LearnerNode):
    """Takes experience as the learner does and says when; there is nothing to learn before 10^8 steps."""

    def _open_session(self) -> Session:
        run = Path(self.params.run)
        session = Session(run, PlainTask(), 0, {**TINY, "online_min_steps": 10**8, "regulariser": "none"})
        session.agent.fit_normalizer(np.random.default_rng(0).normal(size=(256, STATE)).astype(np.float32))
        cameras = [name for name in CAMERAS if name in sys.argv]
        session.replay = Replay(STATE, ACTION, session.agent.spec.horizon, 0.99, cameras=cameras)
        session.stage = "online"
        return session

    def _on_push(
        self, request: PushExperience.Request, response: PushExperience.Response
    ) -> PushExperience.Response:
        began, known = time.monotonic(), self._whole()
        answer = super()._on_push(request, response)
        now = time.monotonic()
        print(f"{HANDLED} {now - began:.6f}", flush=True)
        for episode in self.session.replay.episodes()[known : self._whole()]:
            print(f"{STORED} {episode} {now:.6f}", flush=True)
        return answer

    def _whole(self) -> int:
        """Episodes that are there from start to end: they come one after the other."""
        return self.session.replay.size() // STEPS


class Player:
    """Publishes episodes stretch by stretch, as fast as the recorder takes them."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node("player", namespace=ROBOT, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._cameras = cameras
        first = make_messages(0, 1, STATE, ACTION, cameras, SIZE)
        kinds = {topic: kind for topic, kind, _ in first}
        self._publishers = {
            topic: self._node.create_publisher(k, topic, _qos(k)) for topic, k in kinds.items()
        }
        # A service that every node has: its answer comes after the messages that arrived before the question.
        self._asking = self._node.create_client(GetParameters, f"{ROBOT}/recorder/get_parameters")

    def wait_for_recorder(self, seconds: float) -> bool:
        """Until it listens to everything."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            heard = all(p.get_subscription_count() for p in self._publishers.values())
            if heard and self._asking.wait_for_service(0.5):
                return True
            time.sleep(0.1)
        return False

    def prepare(self, seed: int) -> Sequence[Received]:
        """The messages of an episode."""
        return make_messages(seed, STEPS, STATE, ACTION, self._cameras, SIZE)

    def play(self, messages: Sequence[Received]) -> float:
        """Publish an episode; returns when it ended [s, monotonic]."""
        waiting: list[Future] = []
        for stretch in _stretches(messages):
            for topic, _, data in stretch:
                self._publishers[topic].publish(data)
            waiting.append(self._asking.call_async(GetParameters.Request(names=["ship"])))
            if len(waiting) > 1:
                self._executor.spin_until_future_complete(waiting.pop(0), timeout_sec=10.0)
        ended = time.monotonic()
        self._executor.spin_until_future_complete(waiting.pop(), timeout_sec=10.0)
        return ended

    def close(self) -> None:
        """Free the node."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


def _qos(kind: type) -> object:
    return latched(100) if kind is EpisodeEvent else reliable(100) if kind is CompressedImage else stream()


def _stretches(messages: Sequence[Received]) -> list[list[Received]]:
    found: list[list[Received]] = [[]]
    observations = 0
    for message in messages:
        found[-1].append(message)
        observations += message[1] is Observation
        if observations == STRETCH:
            found.append([])
            observations = 0
    return found


def main() -> None:
    """Entry point of the learner's process."""
    sys.exit(run_node(QuietLearner))


if __name__ == "__main__":
    main()
