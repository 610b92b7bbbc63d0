"""The policy node: observation -> action chunk, and new weights at a chunk border."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import ActionChunk, EpisodeEvent, Observation

from softflow_node.messages import from_stamp, numpy32
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import bounded
from softflow_node.pictures import FrameError, RGBImage
from softflow_policy.alternation import Alternation
from softflow_policy.loaded import LoadedPolicy
from softflow_policy.messages import to_chunk
from softflow_policy.policy import chunk_noise
from softflow_policy.sight import Sight
from softflow_policy.updates.node import WeightsUpdates
from softflow_tasks import make_task, task_ids

SWITCH_INTERVAL = 0.0005
"""[s] after which the thread that checks weights makes way for the one that plans; Python's default is 5 ms."""


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids())
    weights: str = bounded("", doc="weights file to start with; empty = wait for the learner")
    learner: str = bounded("/learner", doc="namespace of the learner's services")
    cache: str = bounded("", doc="directory for the weights last in force; empty = none")
    seed: int = bounded(0, low=0, high=2**31 - 1, doc="of the policy's noise")
    best_of: int = bounded(
        0, low=0, high=64, doc="chunks among which the critic chooses; 0 = as the weights say"
    )
    temperature: float = bounded(
        1.0, low=0.0, high=2.0, doc="of the chunks' noise: 1 = as learned, to explore; lower = safer, surer"
    )
    execute_steps: int = bounded(0, low=0, high=64, doc="steps of a chunk that are played; 0 = all")
    expiry: float = bounded(0.1, low=0.01, high=10.0, unit="s", doc="a chunk is not started later than this")
    image_topics: str = bounded(
        "", doc="CompressedImage topics of the cameras that the policy may see, with commas between them"
    )
    threads: int = bounded(1, low=1, high=16, doc="of PyTorch")
    key_file: str = bounded(
        "", doc="key shared with the learner, a file made by ./softflow key; empty = none"
    )


class PolicyNode(SoftflowNode[PolicyParameters]):
    """Plans at each observation at which the chunk queue is empty, until the episode ends: then the hand holds."""

    def __init__(self) -> None:
        super().__init__("policy", PolicyParameters)
        torch.set_num_threads(self.params.threads)
        self.task = make_task(self.params.task)
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._alternation = Alternation()
        self._last: ActionChunk | None = None
        self._times: deque[float] = deque(maxlen=2000)
        self.chunk_pub = self.create_recorded_publisher(ActionChunk, "action_chunk")
        self.updates = WeightsUpdates(
            self, self.task, self.params.learner, self.params.cache, self.open_guard(self.params.key_file)
        )
        self.updates.start(self.params.weights)
        self._sight = self._watch()
        self._waiting: Observation | None = None
        self._ended = ""
        self.create_subscription(EpisodeEvent, "episode_event", self._on_event, latched())
        self.create_subscription(Observation, "observation", self._on_observation, stream())

    def poll(self) -> float:
        """Look after new weights."""
        self.updates.poll()
        return 0.1

    def _watch(self) -> Sight:
        topics = self.image_topics(self.params.image_topics)
        for topic in topics:
            self.create_subscription(
                CompressedImage, topic, lambda m, topic=topic: self._on_image(topic, m), stream()
            )
        return Sight(topics)

    def _on_image(self, topic: str, message: CompressedImage) -> None:
        stamp = from_stamp(message.header.stamp)
        try:
            self._sight.add(topic, stamp, message.format, memoryview(message.data))
        except FrameError as error:
            self.refuse("image", error)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._on_observation(waiting)

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind != EpisodeEvent.START:
            self._ended = message.episode_id

    def _on_observation(self, message: Observation) -> None:
        if message.steps_left > 0 or message.episode_id == self._ended:
            return
        if self._last is not None and self._is_repetition(self._last, message):
            self.chunk_pub.publish(self._last)
            return
        active = self.updates.active
        if active is None:
            self.counters["observations_without_weights"] += 1
            return
        start = time.perf_counter()
        acting = self._alternation.choose(message.episode_id, active, self.updates.candidate)
        try:
            planned = self._plan(acting, message)
        except ValueError as error:
            self.refuse("observation", error)
            return
        if planned is None:
            self._waiting = message
            self.counters["waits_for_pictures"] += 1
            return
        self._last = planned
        self.chunk_pub.publish(self._last)
        self._times.append(time.perf_counter() - start)
        self.counters["chunks"] += 1
        if self.updates.at_border():
            self._count_times()

    @staticmethod
    def _is_repetition(last: ActionChunk, message: Observation) -> bool:
        return bool(last.episode_id == message.episode_id and last.obs_step == message.step)

    def _plan(self, acting: LoadedPolicy, message: Observation) -> ActionChunk | None:
        """The chunk; None while a picture that the observation names is not here yet."""
        if message.layout_hash != acting.info.layout_hash:
            raise ValueError(
                f"layout_hash is {message.layout_hash!r}, the weights have {acting.info.layout_hash!r}"
            )
        state = numpy32(message.state)
        self.task.check_state(state)
        spec = acting.policy.spec
        pictures: dict[str, RGBImage] | None = {}
        if spec.cameras:
            pictures = self._sight.look(message.images, spec.camera_names, spec.image_size)
        if pictures is None:
            return None
        count = self.params.best_of or acting.info.best_of
        # The seed of the episode, not its id, so that a run in lock step repeats.
        key = str(message.seed)
        noise = chunk_noise(
            self.params.seed,
            key,
            message.step,
            count,
            spec.horizon,
            spec.action_dim,
            self.params.temperature,
        )
        planned = acting.policy.plan(state, noise, pictures)
        dt = 1.0 / self.task.control_hz
        return to_chunk(planned, message, acting, dt, self.params.execute_steps, self.params.expiry)

    def _count_times(self) -> None:
        p50, p99 = np.percentile(self._times, (50, 99))
        self.counters["plan_p50_us"], self.counters["plan_p99_us"] = round(1e6 * p50), round(1e6 * p99)

    def close(self) -> None:
        """Finish what is being written."""
        self.updates.close()


def main() -> None:
    """Entry point of `policy_node`."""
    sys.exit(run_node(PolicyNode))


if __name__ == "__main__":
    main()
