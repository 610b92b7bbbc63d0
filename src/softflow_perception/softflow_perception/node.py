"""The perception node: hand state + object states -> observation."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from softflow_msgs.msg import HandState, ObjectState, Observation

from softflow_node.messages import from_stamp
from softflow_node.node import SoftflowNode, run_node, stream
from softflow_node.parameters import bounded
from softflow_perception.alignment import Aligner
from softflow_perception.messages import to_hand_sample, to_object_sample, to_observation
from softflow_tasks import make_task, task_ids

HAND = "hand_state"
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


class PerceptionNode(SoftflowNode[PerceptionParameters]):
    """Publishes one observation for each hand state that has a partner from every other sensor.

    An object that is out of sight keeps its last known numbers, and the observation says so: control goes on, and
    whoever judges the episode decides how long that may last.
    """

    def __init__(self) -> None:
        super().__init__("perception", PerceptionParameters)
        self.task = make_task(self.params.task)
        self.aligner: Aligner[object] = Aligner(HAND, self.task.objects, self.params.max_skew)
        self._obs_id = 0
        self.pub = self.create_recorded_publisher(Observation, "observation")
        self.create_subscription(HandState, HAND, self._on_hand, stream())
        self.create_subscription(ObjectState, OBJECT_TOPICS[self.params.eyes], self._on_object, stream())

    def _on_hand(self, message: HandState) -> None:
        self._add(HAND, message)

    def _on_object(self, message: ObjectState) -> None:
        self.counters["object_out_of_sight"] += not message.valid
        if message.object_name not in self.task.objects:
            self.counters["objects_of_no_use"] += 1
        else:
            self._add(message.object_name, message)

    def _add(self, sensor: str, message: HandState | ObjectState) -> None:
        for aligned in self.aligner.add(sensor, from_stamp(message.header.stamp), message):
            hand = aligned.samples[HAND]
            assert isinstance(hand, HandState)
            found = {name: aligned.samples[name] for name in self.task.objects}
            objects = {n: to_object_sample(o) for n, o in found.items() if isinstance(o, ObjectState)}
            unseen = [name for name, o in found.items() if isinstance(o, ObjectState) and not o.valid]
            try:
                sample = to_hand_sample(hand, len(self.task.joint_names), self.task.action_dim)
                state = self.task.observe(sample, objects)
                self.task.check_state(state)
            except ValueError as error:
                self.refuse(HAND, error)
                continue
            self._obs_id += 1
            self.pub.publish(to_observation(self.task, state, hand, aligned, self._obs_id, unseen))
        self.counters["given_up"] = self.aligner.given_up


def main() -> None:
    """Entry point of `perception_node`."""
    sys.exit(run_node(PerceptionNode))


if __name__ == "__main__":
    main()
