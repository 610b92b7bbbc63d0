"""The perception node: hand state + object states + stamps of pictures -> observation."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import HandState, ObjectState, Observation

from softflow_node.messages import from_stamp, to_stamp
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_node.topics import camera_names
from softflow_perception.alignment import Aligned, Aligner, Patience
from softflow_perception.camera.messages import to_health
from softflow_perception.camera.onlooker import Onlooker
from softflow_perception.messages import to_hand_sample, to_object_sample, to_observation
from softflow_tasks import make_task, task_ids

HAND = "hand_state"
PICTURES = "/image/compressed"
"""How the topic of a camera node's pictures ends."""
OBJECT_TOPICS = {"none": "object_state", "camera": "object_seen"}
"""Where objects come from."""


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the perception node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids(), doc="whose observation layout is built")
    eyes: str = bounded(
        "none",
        choices=tuple(OBJECT_TOPICS),
        doc="none: objects as the simulation knows them; camera: as the cameras see them",
    )
    max_skew: float = bounded(
        0.025, low=1e-4, high=1.0, unit="s", doc="between the sensors of one observation"
    )
    image_topics: str = bounded(
        "", doc="CompressedImage topics that each observation names a picture of, separated by commas"
    )
    image_skew: float = bounded(
        0.025,
        low=1e-4,
        high=1.0,
        unit="s",
        doc="between a hand state and its pictures; below half a control period a simulated one has its own",
    )


class PerceptionNode(SoftflowNode[PerceptionParameters]):
    """Publishes one observation for each hand state that has a partner from every other sensor.

    An object that is out of sight keeps its last known numbers, and the observation says so: control goes on, and
    whoever judges the episode decides how long that may last. A state without a picture of every camera is left out.
    """

    def __init__(self) -> None:
        super().__init__("perception", PerceptionParameters)
        self.task = make_task(self.params.task)
        self._topics = self._find_cameras()
        self.aligner: Aligner[object] = Aligner(
            HAND,
            (*self.task.objects, *self._topics),
            self.params.max_skew,
            skews=dict.fromkeys(self._topics, self.params.image_skew),
        )
        self.patience, self._said = Patience(HAND), False
        self._obs_id = 0
        self.pub = self.create_recorded_publisher(Observation, "observation")
        self.create_subscription(HandState, HAND, self._on_hand, stream())
        self.create_subscription(ObjectState, OBJECT_TOPICS[self.params.eyes], self._on_object, stream())
        for name, topic in self._topics.items():
            self.create_subscription(CompressedImage, topic, partial(self._on_image, name), stream())
        # With eyes the pose node watches the cameras.
        self.onlooker = Onlooker(self._topics) if self._topics and self.params.eyes == "none" else None
        self._robot = 0
        self._told: dict[str, str] = {}
        if self.onlooker is not None:
            self.health_pub = self.create_publisher(DiagnosticArray, "camera_health", latched())
            for name, topic in self._topics.items():
                # Of our own camera node; another driver's has none.
                health, callback = (
                    topic.removesuffix(PICTURES) + "/health",
                    partial(self._on_own_health, name),
                )
                self.create_subscription(DiagnosticStatus, health, callback, latched())

    def _find_cameras(self) -> dict[str, str]:
        """Name of a camera -> its topic, in full as the recorder has it."""
        topics = self.image_topics(self.params.image_topics)
        found = {name: topic for topic, name in camera_names(topics).items()}
        if taken := found.keys() & {HAND, *self.task.objects}:
            raise ParameterError(
                f"{self.get_name()}: parameter 'image_topics' is {self.params.image_topics!r}: "
                f"{min(taken)!r} is the name of another sensor"
            )
        return found

    def poll(self) -> float:
        """Say once who keeps the others waiting."""
        fault, said = self.fault(), self._said
        self._said = bool(fault)
        if fault and not said:
            self.get_logger().error(fault)
        elif said and not fault:
            self.get_logger().info("observations go on")
        if self.onlooker is not None:
            if self._robot:
                self.onlooker.look(self._robot, time.monotonic())
            self._say_health(self.onlooker.why())
        return 0.2

    def fault(self) -> str:
        """Which camera must not be relied on, which sensor is missing, and since when."""
        down = [f"camera {name}: {why}" for name, why in self._told.items() if why]
        late = self.patience.fault(self.aligner.missing(), time.monotonic())
        return "; ".join([*down, late] if late else down)

    def _say_health(self, why: dict[str, str]) -> None:
        """For whoever lets the policy act and learn, and for those who come later."""
        before, self._told = self._told, why
        if why == before:
            return
        for name, text in why.items():
            self.counters[f"faults_{name}"] += bool(text and not before.get(name))
        message = DiagnosticArray(status=[to_health(name, text) for name, text in why.items()])
        message.header.stamp = to_stamp(self._robot)
        self.health_pub.publish(message)

    def _on_own_health(self, name: str, message: DiagnosticStatus) -> None:
        if self.onlooker is not None:
            self.onlooker.own(name, message.message if message.level != DiagnosticStatus.OK else "")

    def _on_hand(self, message: HandState) -> None:
        self._robot = from_stamp(message.header.stamp)
        self._add(HAND, self._robot, message)

    def _on_object(self, message: ObjectState) -> None:
        self.counters["object_out_of_sight"] += not message.valid
        if message.object_name not in self.task.objects:
            self.counters["objects_of_no_use"] += 1
        else:
            self._add(message.object_name, from_stamp(message.header.stamp), message)

    def _on_image(self, name: str, message: CompressedImage) -> None:
        stamp = from_stamp(message.header.stamp)
        if self.onlooker is not None:
            data = memoryview(message.data)
            if fault := self.onlooker.picture(name, stamp, message.format, data, time.monotonic()):
                self.refuse("image", f"camera {name}: {fault}")
                return
        # Its stamp is enough here: the picture itself goes to whoever wants to see it.
        self.counters["pictures"] += 1
        self._add(name, stamp, None)

    def _add(self, sensor: str, stamp: int, sample: HandState | ObjectState | None) -> None:
        self.patience.heard(sensor, time.monotonic())
        for aligned in self.aligner.add(sensor, stamp, sample):
            self.patience.paired()
            self._observe(aligned)
        self.counters["given_up"] = self.aligner.given_up
        for name, count in self.aligner.late.items():
            self.counters[f"late_{name}"] = count

    def _observe(self, aligned: Aligned[object]) -> None:
        hand = aligned.samples[HAND]
        assert isinstance(hand, HandState)
        found = {name: aligned.samples[name] for name in self.task.objects}
        objects = {n: to_object_sample(o) for n, o in found.items() if isinstance(o, ObjectState)}
        unseen = [name for name, o in found.items() if isinstance(o, ObjectState) and not o.valid]
        images = [f"{topic}@{aligned.stamps[name]}" for name, topic in self._topics.items()]
        try:
            sample = to_hand_sample(hand, len(self.task.joint_names), self.task.action_dim)
            state = self.task.observe(sample, objects)
            self.task.check_state(state)
        except ValueError as error:
            self.refuse(HAND, error)
            return
        self._obs_id += 1
        self.pub.publish(to_observation(self.task, state, hand, aligned, self._obs_id, unseen, images))


def main() -> None:
    """Entry point of `perception_node`."""
    sys.exit(run_node(PerceptionNode))


if __name__ == "__main__":
    main()
