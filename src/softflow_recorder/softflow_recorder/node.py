"""The recorder node: topics into one bag an episode, and complete episodes to the learner."""

from __future__ import annotations

import json
import secrets
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from softflow_msgs.msg import (
    ActionChunk,
    ChunkResult,
    EpisodeEvent,
    HandDescription,
    HandState,
    ObjectState,
    Observation,
    RewardLabel,
)
from softflow_msgs.srv import GetResumePoint, PushExperience

from softflow_node.authentication import AuthenticationError
from softflow_node.messages import check_message, sign_message
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import bounded
from softflow_recorder.bag import BagWriter, load_typestore
from softflow_recorder.episode import EpisodeAssembler, EpisodeError
from softflow_recorder.messages import to_item, to_payload
from softflow_recorder.spool import Spool

TOPICS: tuple[tuple[str, Any, Any], ...] = (
    ("episode_event", EpisodeEvent, latched(100)),
    ("hand_state", HandState, stream()),
    ("object_state", ObjectState, stream()),
    ("object_seen", ObjectState, stream()),
    ("observation", Observation, stream()),
    ("action_chunk", ActionChunk, stream()),
    ("chunk_result", ChunkResult, stream()),
    ("reward_label", RewardLabel, stream()),
)
ANSWER_TIMEOUT = 5.0
"""[s] after which a call to the learner is given up and repeated."""
RESULT_TIMEOUT = 1.0
"""[s] to wait for the result of the last chunk, which comes with the next reset; starved steps have none."""
QUIET = 6
"""Turns of the loop without a message after a stop was requested: nothing waits any more. Not a time: a node that gets
no processor sees time pass while messages wait."""
RETRY = 0.5
"""[s] between attempts while the learner is away."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder node."""

    directory: str = bounded("runs/bags", doc="where the bags go, one directory an episode")
    ship: bool = bounded(False, doc="hand complete episodes over to the learner")
    learner: str = bounded("/learner", doc="namespace of the learner's services")
    batch: int = bounded(8, low=1, high=64, doc="items in one call, each about 100 kB")
    completion_timeout: float = bounded(
        5.0, low=0.1, high=60.0, unit="s", doc="wait for late messages of an episode"
    )
    key_file: str = bounded(
        "", doc="key shared with the learner, a file made by ./softflow key; empty = none"
    )


@dataclass
class Recording:
    """An episode being recorded."""

    assembler: EpisodeAssembler
    bag: BagWriter
    ended_at: float = field(default=0.0)


class RecorderNode(SoftflowNode[RecorderParameters]):
    """Writes raw bytes; a copy is decoded to know when an episode is complete and to hand it over."""

    def __init__(self) -> None:
        super().__init__("recorder", RecorderParameters)
        self.directory = Path(self.params.directory)
        self.robot = self.get_namespace()
        share = Path(get_package_share_directory("softflow_msgs")) / "msg"
        self.typestore = load_typestore({"softflow_msgs": share})
        self.recordings: dict[str, Recording] = {}
        self._finished: set[str] = set()
        self._quiet = 0
        self._description: bytes | None = None
        for topic, kind, qos in TOPICS:
            self.create_subscription(kind, topic, partial(self._on_raw, topic, kind), qos, raw=True)
        self.create_subscription(
            HandDescription, "hand_description", self._on_description, latched(), raw=True
        )
        self.spool = Spool(self.directory.parent / "spool") if self.params.ship else None
        self._call: Future | None = None
        self._nonce = 0
        self._call_started = 0.0
        self._resumed = False
        self._next_try = 0.0
        if self.spool is not None:
            self.guard = self.open_guard(self.params.key_file)
            self._resume = self.create_client(GetResumePoint, f"{self.params.learner}/get_resume_point")
            self._push = self.create_client(PushExperience, f"{self.params.learner}/push_experience")

    def poll(self) -> float:
        """Close what is complete or overdue; hand over what waits."""
        now = time.monotonic()
        for recording in list(self.recordings.values()):
            if not recording.ended_at:
                continue
            timeout = self.params.completion_timeout if recording.assembler.missing() else RESULT_TIMEOUT
            if now - recording.ended_at > timeout:
                self._close(recording)
        if self.spool is not None:
            self._ship(now)
        return 0.1

    def settled(self) -> bool:
        """A backlog may wait in the middleware: a recorder that gets no processor falls behind, and catches up."""
        self._quiet += 1
        return self._quiet > QUIET

    def _on_description(self, data: bytes) -> None:
        self._description = data

    def _on_raw(self, topic: str, kind: Any, data: bytes) -> None:
        self._quiet = 0
        message = deserialize_message(data, kind)
        episode_id = message.episode_id
        if not episode_id or episode_id in self._finished:
            return
        recording = self.recordings.get(episode_id) or self._open(episode_id, message)
        name = f"{self.robot}/{topic}".replace("//", "/")
        recording.bag.write(name, f"softflow_msgs/msg/{kind.__name__}", time.time_ns(), data)
        recording.assembler.add(topic, message)
        if recording.assembler.ended:
            recording.ended_at = recording.ended_at or time.monotonic()
            if recording.assembler.settled and (
                recording.assembler.discarded or not recording.assembler.missing()
            ):
                self._close(recording)

    def _open(self, episode_id: str, message: Any) -> Recording:
        # Names sort by time, also over restarts.
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}-{episode_id[:8]}"
        custom = {"robot": self.robot, "episode_id": episode_id}
        recording = Recording(
            EpisodeAssembler(episode_id), BagWriter(self.directory / name, self.typestore, custom)
        )
        if self._description is not None:
            topic = f"{self.robot}/hand_description".replace("//", "/")
            recording.bag.write(topic, "softflow_msgs/msg/HandDescription", time.time_ns(), self._description)
        self.recordings[episode_id] = recording
        return recording

    def _close(self, recording: Recording) -> None:
        assembler, bag = recording.assembler, recording.bag
        self._finished.add(assembler.episode_id)
        del self.recordings[assembler.episode_id]
        try:
            episode = assembler.finish()
        except EpisodeError as error:
            bag.set_custom({"complete": "false", "why": str(error)})
            bag.close()
            self.counters["incomplete_episodes"] += 1
            self.get_logger().warning(f"kept as incomplete: {error}")
            return
        custom = {
            "complete": "true",
            "task": episode.task,
            "index": str(episode.index),
            "mode": episode.mode,
            "source": episode.source,
            "success": str(episode.success).lower(),
            "layout_hash": episode.layout_hash,
            "metrics": json.dumps(episode.metrics),
        }
        bag.set_custom(custom)
        bag.close()
        self.counters["episodes"] += 1
        if self.spool is not None and episode.mode == "train":
            self.spool.append(to_payload(self.robot, episode))

    def _ship(self, now: float) -> None:
        assert self.spool is not None
        if self._call is not None:
            if not self._call.done() and now - self._call_started > ANSWER_TIMEOUT:
                self._give_up("no answer from the learner")
            return
        if now < self._next_try:
            return
        client = self._push if self._resumed else self._resume
        if not client.service_is_ready():
            self._resumed, self._next_try = False, now + RETRY
            return
        if not self._resumed:
            question = GetResumePoint.Request(robot=self.robot, boot=self.spool.boot, nonce=self._new_nonce())
            sign_message(self.guard, question)
            self._start(client.call_async(question))
            return
        items = self.spool.pending(self.params.batch)
        if items:
            messages = [to_item(self.robot, self.spool.boot, i) for i in items]
            for message in messages:
                sign_message(self.guard, message)
            request = PushExperience.Request(items=messages, nonce=self._new_nonce())
            self._start(client.call_async(request))

    def _new_nonce(self) -> int:
        """Binds the answer to this call, so that an older one cannot stand in for it."""
        self._nonce = secrets.randbits(64)
        return self._nonce

    def _start(self, call: Future) -> None:
        self._call, self._call_started = call, time.monotonic()
        call.add_done_callback(self._on_answer)

    def _give_up(self, why: str) -> None:
        self.counters["hand_over_failures"] += 1
        self.get_logger().warning(f"hand-over: {why}; trying again")
        self._call, self._resumed, self._next_try = None, False, time.monotonic() + RETRY

    def _on_answer(self, call: Future) -> None:
        expected, answer = call is self._call, call.result()
        if not expected or self.spool is None:
            return
        self._call = None
        if answer is None:
            self._give_up("the call failed")
            return
        try:
            check_message(self.guard, answer, self._nonce, self.robot, self.spool.boot)
        except AuthenticationError as error:
            self.refuse("forged_answer", error)
            self._give_up("an answer that is not the learner's")
            return
        for line in getattr(answer, "errors", ()):
            self.refuse("experience_item", line)
            self._next_try = time.monotonic() + RETRY
        try:
            self.spool.acknowledge(answer.acknowledged_seq)
        except ValueError as error:
            self.refuse("acknowledgement", error)
            return
        self._resumed = True
        self.counters["acknowledged_items"] = answer.acknowledged_seq

    def close(self) -> None:
        """Close the bags of episodes that are still open; what is complete in the spool stays there."""
        for recording in list(self.recordings.values()):
            self._close(recording)


def main() -> None:
    """Entry point of `recorder_node`."""
    sys.exit(run_node(RecorderNode))


if __name__ == "__main__":
    main()
