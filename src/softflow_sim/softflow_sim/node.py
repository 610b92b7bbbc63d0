"""The teacher node: scripted demonstrations as action chunks, in the place of the policy."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from softflow_msgs.msg import ActionChunk, EpisodeEvent, Observation

from softflow_node.messages import NANOSECONDS, floats32, from_stamp, numpy32, to_stamp
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import bounded
from softflow_sim.catalogue import Teacher, make_teacher
from softflow_tasks import make_task, task_ids


@dataclass(frozen=True)
class TeacherParameters:
    """Parameters of the teacher node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids())
    seed: int = bounded(0, low=0, high=2**31 - 1, doc="of the teacher's style and noise")
    noise: float = bounded(
        0.02, low=0.0, high=0.2, doc="increments of the Ornstein-Uhlenbeck noise on the action"
    )
    horizon: int = bounded(5, low=1, high=32, doc="actions in a chunk")
    expiry: float = bounded(1.0, low=0.05, high=10.0, unit="s", doc="a chunk is not started later than this")


class TeacherNode(SoftflowNode[TeacherParameters]):
    """Answers each observation at which the queue is empty with the teacher's next actions."""

    def __init__(self) -> None:
        super().__init__("teacher", TeacherParameters)
        self.task = make_task(self.params.task)
        self._episode_id = self._ended = ""
        self._chunk: ActionChunk | None = None
        self._teacher = self._new_teacher(0)
        self.pub = self.create_recorded_publisher(ActionChunk, "action_chunk")
        self.create_subscription(EpisodeEvent, "episode_event", self._on_event, latched())
        self.create_subscription(Observation, "observation", self._on_observation, stream())

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind != EpisodeEvent.START:
            self._ended = message.episode_id

    def _on_observation(self, message: Observation) -> None:
        if message.steps_left > 0 or message.episode_id == self._ended:
            return
        if message.episode_id != self._episode_id:
            seed = np.random.SeedSequence([self.params.seed, message.seed]).generate_state(1)[0]
            self._teacher = self._new_teacher(int(seed))
            self._episode_id, self._chunk = message.episode_id, None
        if self._chunk is None or self._chunk.obs_step != message.step:
            self._chunk = self._plan(message)
        self.pub.publish(self._chunk)

    def _new_teacher(self, seed: int) -> Teacher:
        return make_teacher(self.task.id, seed, self.params.noise)

    def _plan(self, message: Observation) -> ActionChunk:
        self._teacher.observe(numpy32(message.state))
        actions = np.array([self._teacher() for _ in range(self.params.horizon)])
        stamp = from_stamp(message.header.stamp)
        chunk = ActionChunk(
            episode_id=message.episode_id,
            chunk_id=message.step + 1,
            obs_id=message.obs_id,
            obs_step=message.step,
            source="teacher",
            dt=1.0 / self.task.control_hz,
            horizon=actions.shape[0],
            action_dim=actions.shape[1],
            actions=floats32(actions),
            log_prob=float("nan"),
            q_value=float("nan"),
            execute_steps=actions.shape[0],
            expiry=to_stamp(stamp + round(self.params.expiry * NANOSECONDS)),
        )
        chunk.header.stamp = message.header.stamp
        return chunk


def main() -> None:
    """Entry point of `teacher_node`."""
    sys.exit(run_node(TeacherNode))


if __name__ == "__main__":
    main()
