"""The recorder node: topics into one bag an episode, and complete episodes to the learner."""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import (
    ActionChunk,
    ChunkResult,
    EpisodeEvent,
    HandDescription,
    HandHealth,
    HandState,
    ObjectState,
    Observation,
    RecordedEpisode,
    RewardLabel,
    SuccessVerdict,
)
from softflow_msgs.srv import GetResumePoint, LabelEpisode, PushExperience, SetMode

from softflow_node.authentication import AuthenticationError
from softflow_node.messages import check_message, sign_message
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_recorder.bag import BagError, load_typestore
from softflow_recorder.disk import DiskWatch
from softflow_recorder.images import KIND as IMAGE
from softflow_recorder.labelling import find_bag, label_bag
from softflow_recorder.labels import LabelError
from softflow_recorder.ledger import LedgerError
from softflow_recorder.messages import to_item, to_label_payload, to_payloads
from softflow_recorder.metadata import software_version
from softflow_recorder.outbox import Outbox
from softflow_recorder.recording import DESCRIPTION, HOUSEKEEPING, Options, Raw, Recordings, closed_episodes
from softflow_recorder.repair import Repaired, repair_all
from softflow_recorder.shipping import Answer, Call, Shipping
from softflow_recorder.spool import Spool, SpoolError, SpoolFullError

EVENTS = 100
"""Borders of episodes that a late recorder hears of."""
TOPICS: tuple[tuple[str, Any, Any], ...] = (
    ("episode_event", EpisodeEvent, latched(EVENTS)),
    ("hand_state", HandState, stream()),
    ("object_state", ObjectState, stream()),
    ("object_seen", ObjectState, stream()),
    ("observation", Observation, stream()),
    ("action_chunk", ActionChunk, stream()),
    ("chunk_result", ChunkResult, stream()),
    ("reward_label", RewardLabel, stream()),
    ("success_verdict", SuccessVerdict, stream()),
    (DESCRIPTION, HandDescription, latched()),
)
QUIET = 6
"""Turns of the loop without a message after a stop was requested: nothing waits any more. Not a time: a node that gets
no processor sees time pass while messages wait."""
BAGS_A_TURN = 4
"""Closed bags that go into the spool in one turn of the loop, at most: after a new boot there may be thousands."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder node."""

    directory: str = bounded("runs/bags", doc="where the bags go, one directory an episode")
    ship: bool = bounded(False, doc="hand complete episodes over to the learner")
    learner: str = bounded("/learner", doc="namespace of the learner's services")
    batch: int = bounded(8, low=1, high=64, doc="items in one call, if they have less than 2 MB")
    spool_limit_mb: int = bounded(
        2000, low=1, high=10**7, unit="MB", doc="of what waits for the learner; the rest stays in the bags"
    )
    completion_timeout: float = bounded(
        5.0, low=0.1, high=60.0, unit="s", doc="wait for late messages of an episode"
    )
    key_file: str = bounded(
        "", doc="key shared with the learner, a file made by ./softflow key; empty = none"
    )
    flush_kb: int = bounded(256, low=1, high=65536, unit="kB", doc="a bag grows by chunks of this size")
    flush_period: float = bounded(1.0, low=0.05, high=60.0, unit="s", doc="or after so long")
    sync_chunks: bool = bounded(True, doc="wait for the disk after each chunk, not only at an episode's end")
    min_free_mb: int = bounded(200, low=0, high=10**7, unit="MB", doc="with less the robot is stopped")
    image_topics: str = bounded("", doc="CompressedImage topics to record, separated by commas")
    reliable_images: bool = bounded(False, doc="have lost images sent again; their cameras must offer it")


class RecorderNode(SoftflowNode[RecorderParameters]):
    """Raw bytes into bags; complete episodes of closed bags into the spool; and from there to the learner."""

    def __init__(self) -> None:
        super().__init__("recorder", RecorderParameters)
        p = self.params
        self.directory = Path(p.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.robot = self.get_namespace()
        self._quiet = 0
        self._close_left_open()
        self.disk = DiskWatch(self.directory, p.min_free_mb)
        share = Path(get_package_share_directory("softflow_msgs")) / "msg"
        options = Options(
            custom={"robot": self.robot, "software": software_version()},
            flush_bytes=1000 * p.flush_kb,
            flush_period=p.flush_period,
            sync=p.sync_chunks,
            completion_timeout=p.completion_timeout,
        )
        self.recordings = Recordings(
            self.directory,
            load_typestore({"softflow_msgs": share}),
            options,
            self.disk,
            self._on_closed,
            self.get_logger().warning,
            # The episode manager's events are latched: those of episodes long closed come again.
            closed_episodes(self.directory, EVENTS),
            self._tell,
        )
        self.spool = Spool(self.directory.parent / "spool", 10**6 * p.spool_limit_mb) if p.ship else None
        self.outbox = self._open_outbox()
        self._next_work = 0.0
        self._spool_full = ""
        if self.spool is not None and self.outbox is not None:
            self.shipping = Shipping(self.spool, p.batch, self.outbox.begin_anew, self.get_logger().warning)
            self.guard = self.open_guard(self.params.key_file)
            self._resume = self.create_client(GetResumePoint, f"{self.params.learner}/get_resume_point")
            self._push = self.create_client(PushExperience, f"{self.params.learner}/push_experience")
        self._held, self._said, self._next_hold = False, "", 0.0
        self._set_mode = self.create_client(SetMode, "set_mode")
        self._wire()

    def _wire(self) -> None:
        self._recorded_pub = self.create_publisher(RecordedEpisode, "recorded_episode", latched())
        self._tell("", "")
        for topic, kind, qos in TOPICS:
            callback = partial(self._on_raw, topic, f"softflow_msgs/msg/{kind.__name__}", kind)
            self.create_subscription(kind, topic, callback, qos, raw=True)
        # Best effort matches every camera.
        best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        qos = stream() if self.params.reliable_images else best_effort
        for topic in self.image_topics(self.params.image_topics):
            callback = partial(self._on_raw, topic, IMAGE, CompressedImage)
            self.create_subscription(CompressedImage, topic, callback, qos, raw=True)
        self.create_subscription(HandHealth, "hand_health", self._on_health, latched())
        self.create_service(LabelEpisode, "label_episode", self._on_label)

    def _close_left_open(self) -> None:
        for done in repair_all(self.directory, only_open=True):
            if not isinstance(done, Repaired):
                self.refuse("bag", done)
                continue
            self.counters["recovered_bags"] += 1
            self.get_logger().warning(
                f"{done.path.name}: {done.why}; recovered {done.messages} messages, {done.steps} steps"
            )

    def _open_outbox(self) -> Outbox | None:
        if self.spool is None:
            return None
        try:
            return Outbox(
                self.directory, self.robot, self.spool, partial(to_payloads, self.robot), to_label_payload
            )
        except LedgerError as error:
            raise ParameterError(f"{self.get_name()}: {error}") from error

    def poll(self) -> float:
        """Close what is complete or overdue; stop the robot when the disk is full; hand over what waits."""
        now = time.monotonic()
        self.recordings.poll(now)
        self.counters.update(self.recordings.counters)
        self.recordings.counters.clear()
        self._hold(now)
        if self.outbox is not None and now >= self._next_work:
            self._fill_spool(self.outbox, now)
        if self.spool is not None:
            self._ship(now)
            self.counters.update(self.shipping.counters)
            self.shipping.counters.clear()
            self.counters["acknowledged_items"] = self.spool.acknowledged
        return 0.1

    def settled(self) -> bool:
        """A backlog may wait in the middleware: a recorder that gets no processor falls behind, and catches up."""
        self._quiet += 1
        return self._quiet > QUIET

    def fault(self) -> str:
        """Why nothing is recorded, or handed over."""
        return f"nothing is recorded: {self.disk.why}" if self.disk.why else self._spool_full

    def _on_raw(self, topic: str, type_name: str, kind: Any, data: bytes) -> None:
        self._quiet = 0
        name = topic if topic.startswith("/") else f"{self.robot}/{topic}".replace("//", "/")
        raw = Raw(name, type_name, data, deserialize_message(data, kind))
        if type_name == IMAGE or topic == DESCRIPTION:
            self.recordings.add_shared(raw)
        else:
            self.recordings.add(raw)

    def _tell(self, episode_id: str, why: str) -> None:
        """For whoever begins the next episode: this one has all that it will get."""
        self._recorded_pub.publish(RecordedEpisode(episode_id=episode_id, complete=not why, why=why))

    def _on_closed(self, bag: Path) -> None:
        if self.outbox is not None:
            self.outbox.add(bag)

    def _fill_spool(self, outbox: Outbox, now: float) -> None:
        full, self._spool_full = self._spool_full, ""
        try:
            outbox.work(BAGS_A_TURN)
        except SpoolFullError as error:
            self._next_work = now + HOUSEKEEPING
            self.counters["spool_full"] += 1
            self._spool_full = f"{error.strerror}; {len(outbox)} bags wait"
            if not full:
                self.get_logger().error(self._spool_full)
        except OSError as error:
            self._next_work = now + HOUSEKEEPING
            self.refuse("spool_item", f"{error}; {len(outbox)} bags wait")
        while outbox.errors:
            self.refuse("bag", outbox.errors.pop())

    def _hold(self, now: float) -> None:
        """Nothing may be done that cannot be recorded."""
        why, told, self._said = self.disk.why, self._said, self.disk.why
        if not why:
            return
        if not told:
            self.counters["stops"] += 1
            self.get_logger().fatal(f"{why}: the robot is stopped; make room, then set_mode to active")
        if not self._held and now >= self._next_hold and self._set_mode.service_is_ready():
            self._next_hold = now + HOUSEKEEPING
            self._set_mode.call_async(SetMode.Request(mode=HandHealth.MODE_HOLD, reason=f"recorder: {why}"))

    def _on_health(self, health: HandHealth) -> None:
        if health.mode == HandHealth.MODE_RELAX:
            return  # soft by itself: that says nothing of who holds it
        if health.mode != HandHealth.MODE_ACTIVE:
            self._held = True
        elif self._held:  # somebody has set it: before, it was not
            self._held = False
            if self.disk.why and self.disk.resume():
                self.get_logger().info("there is room again: the next episode is recorded")

    def _on_label(
        self, request: LabelEpisode.Request, response: LabelEpisode.Response
    ) -> LabelEpisode.Response:
        try:
            if request.episode_id in self.recordings.open:
                raise LabelError(f"episode_id is {request.episode_id!r}, which is still being recorded")
            bag = find_bag(self.directory, request.episode_id)
            label = label_bag(bag, request.start_step, request.values, request.source, request.confidence)
        except (BagError, LabelError, OSError) as error:
            self.refuse("label", error)
            response.message = str(error)
            return response
        self.counters["labels"] += 1
        response.ok, response.revision, response.message = True, label.revision, f"stored with {bag.name}"
        self._on_closed(bag)
        return response

    def _ship(self, now: float) -> None:
        ready = self._resume.service_is_ready() and self._push.service_is_ready()
        call = self.shipping.next_call(now, ready)
        if call is None:
            return
        # Binds the answer to this call, so that an older one cannot stand in for it.
        nonce = secrets.randbits(64)
        answered = partial(self._on_answer, call, nonce)
        if call.asks:
            question = GetResumePoint.Request(robot=self.robot, boot=call.boot, nonce=nonce)
            sign_message(self.guard, question)
            self._resume.call_async(question).add_done_callback(answered)
            return
        try:
            messages = [to_item(self.robot, call.boot, item) for item in call.items]
        except (OSError, SpoolError) as error:
            self.shipping.damaged(error, now)
            return
        for message in messages:
            sign_message(self.guard, message)
        request = PushExperience.Request(items=messages, nonce=nonce)
        self._push.call_async(request).add_done_callback(answered)

    def _on_answer(self, call: Call, nonce: int, future: Future) -> None:
        now, message = time.monotonic(), future.result()
        if message is None or not self.shipping.awaits(call):
            return
        try:
            check_message(self.guard, message, nonce, self.robot, call.boot)
        except AuthenticationError as error:
            self.refuse("forged_answer", error)
            self.shipping.fail("an answer that is not the learner's", now, forged=True)
            return
        errors = list(getattr(message, "errors", ()))
        for line in errors:
            self.refuse("experience_item", line)
        self.shipping.on_answer(call, Answer(message.acknowledged_seq, message.credits, errors), now)

    def close(self) -> None:
        """Close the bags of episodes that are still open; what is complete goes into the spool, and stays there."""
        self.recordings.close()
        if self.outbox is not None:
            self._fill_spool(self.outbox, time.monotonic())


def main() -> None:
    """Entry point of `recorder_node`."""
    sys.exit(run_node(RecorderNode))


if __name__ == "__main__":
    main()
