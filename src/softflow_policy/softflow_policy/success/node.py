"""The success node: the pictures of each observation -> what a classifier sees in them."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import Observation, SuccessVerdict

from softflow_node.messages import from_stamp
from softflow_node.node import SoftflowNode, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_node.pictures import FrameError, RGBImage
from softflow_policy.sight import Sight
from softflow_policy.success.file import Classifier, ClassifierError, load_classifier
from softflow_policy.success.messages import to_verdict
from softflow_tasks import make_task, task_ids

READY_PERIOD = 0.2
"""[s] between two signs that the node is there, and before the first: who publishes pictures then hears of it too."""


@dataclass(frozen=True)
class SuccessParameters:
    """Parameters of the success node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids())
    classifier: str = bounded("", doc="file made by ./softflow classifier train")
    image_topics: str = bounded("", doc="CompressedImage topics of its cameras, with commas between them")
    threads: int = bounded(1, low=1, high=16, doc="of PyTorch")


class SuccessNode(SoftflowNode[SuccessParameters]):
    """Answers each observation of an episode with one verdict, in order.

    An observation whose pictures are not here yet is waited for, and so are those after it. One that cannot be judged
    gets no verdict: whoever relies on it gives the episode up.
    """

    def __init__(self) -> None:
        super().__init__("success", SuccessParameters)
        torch.set_num_threads(self.params.threads)
        self.task = make_task(self.params.task)
        self.classifier = self._load()
        self._sources: list[Subscription] = []
        self._sight = self._watch()
        self._waiting: deque[Observation] = deque()
        self._last: SuccessVerdict | None = None
        self._fault = ""
        self.verdict_pub = self.create_recorded_publisher(SuccessVerdict, "success_verdict")
        self._hear(Observation, "observation", self._on_observation)
        self._ready_due = 0.0

    def _hear(self, kind: Any, topic: str, callback: Callable[[Any], None]) -> None:
        self._sources.append(self.create_subscription(kind, topic, callback, stream()))

    def poll(self) -> float:
        """Say that episodes may begin: what is published before a reader is known does not reach it."""
        now = time.monotonic()
        if not all(source.get_publisher_count() for source in self._sources):
            self._ready_due = now + READY_PERIOD
        elif now >= self._ready_due:
            self._ready_due = now + READY_PERIOD
            self.verdict_pub.publish(SuccessVerdict())
        return READY_PERIOD

    def fault(self) -> str:
        """Why the newest observation was not judged."""
        return self._fault

    def _load(self) -> Classifier:
        where, path = f"{self.get_name()}: parameter 'classifier'", self.params.classifier
        if not path:
            raise ParameterError(f"{where} is '', must be a file made by ./softflow classifier train")
        try:
            classifier = load_classifier(Path(path))
        except (ClassifierError, OSError) as error:
            raise ParameterError(f"{where} is {path!r}: {error}") from error
        if classifier.info.layout_hash != self.task.layout.hash:
            raise ParameterError(
                f"{where} is {path!r}: layout_hash is {classifier.info.layout_hash!r}, "
                f"task {self.task.id} has {self.task.layout.hash!r}"
            )
        return classifier

    def _watch(self) -> Sight:
        topics = self.image_topics(self.params.image_topics)
        sight, wanted = Sight(topics, self.classifier.sizes), self.classifier.net.spec.camera_names
        for camera in wanted:
            if camera not in sight.cameras:
                raise ParameterError(
                    f"{self.get_name()}: parameter 'image_topics' is {self.params.image_topics!r}, must have one "
                    f"of each camera of the classifier ({', '.join(wanted)}); {camera!r} is missing"
                )
        for topic in topics:
            self._hear(CompressedImage, topic, partial(self._on_image, topic))
        return sight

    def _on_image(self, topic: str, message: CompressedImage) -> None:
        try:
            self._sight.add(topic, from_stamp(message.header.stamp), message.format, memoryview(message.data))
        except FrameError as error:
            self.refuse("image", error)
        self._judge()

    def _on_observation(self, message: Observation) -> None:
        if not message.episode_id:
            return
        last = self._last
        if last is not None and last.episode_id == message.episode_id and message.step <= last.step:
            # A world that waits repeats its state.
            if message.step == last.step:
                self.verdict_pub.publish(last)
            return
        if self._waiting and self._waiting[-1].episode_id != message.episode_id:
            self.counters["observations_given_up"] += len(self._waiting)
            self._waiting.clear()
        if not self._waiting or message.step > self._waiting[-1].step:
            self._waiting.append(message)
        self._judge()

    def _judge(self) -> None:
        """All whose pictures are here, in order."""
        while self._waiting:
            message = self._waiting[0]
            try:
                pictures = self._look(message)
            except ValueError as error:
                self._fault = f"observation of step {message.step} cannot be judged: {error}"
                self.refuse("observation", error)
                self._waiting.popleft()
                continue
            if pictures is None:
                self.counters["waits_for_pictures"] += 1
                return
            self._waiting.popleft()
            self._say(message, pictures)

    def _look(self, message: Observation) -> dict[str, RGBImage] | None:
        """Its thumbnails; None while one is not here yet. Raises ValueError."""
        info, spec = self.classifier.info, self.classifier.net.spec
        if message.layout_hash != info.layout_hash:
            raise ValueError(
                f"layout_hash is {message.layout_hash!r}, the classifier has {info.layout_hash!r}"
            )
        return self._sight.look(message.images, spec.camera_names, spec.image_size)

    def _say(self, message: Observation, pictures: dict[str, RGBImage]) -> None:
        one = {camera: picture[None] for camera, picture in pictures.items()}
        probability = float(self.classifier.probabilities(one)[0])
        self._last, self._fault = to_verdict(message, probability, self.classifier.info), ""
        self.verdict_pub.publish(self._last)
        self.counters["verdicts"] += 1
        self.counters["successes"] += probability >= self.classifier.info.threshold


def main() -> None:
    """Entry point of `success_node`."""
    sys.exit(run_node(SuccessNode))


if __name__ == "__main__":
    main()
