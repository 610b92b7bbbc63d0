"""The learner node: takes experience, learns online, offers weights. It may run on any machine."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from softflow_msgs.msg import LearnerStatus
from softflow_msgs.srv import GetResumePoint, PushExperience, SaveCheckpoint

from softflow_learner.canary import Margin
from softflow_learner.checkpoint import CheckpointError
from softflow_learner.disk import WriteFaults
from softflow_learner.journal import LABEL, Journal, JournalError, Stored
from softflow_learner.messages import add_label, add_payload, from_item
from softflow_learner.offering.node import Offering, OfferRules
from softflow_learner.session import Session, parse_settings
from softflow_learner.stages import OnlineLearning
from softflow_node.authentication import AuthenticationError
from softflow_node.files import lock_directory
from softflow_node.messages import check_message, floats32, sign_message
from softflow_node.node import SoftflowNode, reliable, run_node
from softflow_node.parameters import ParameterError, bounded
from softflow_tasks import make_task, task_ids

CREDITS = 8
"""Items that a recorder may send at once."""
LOG_RETRY = 60.0
"""[s] after which TensorBoard's log is tried again: each attempt leaves an empty file behind."""


@dataclass(frozen=True)
class LearnerParameters:
    """Parameters of the learner node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids())
    run: str = bounded("runs/online_rl", doc="run directory; it must hold a checkpoint of the stages before")
    resume: str = bounded("", doc="run directory to go on from where `run` has no checkpoint")
    demos: str = bounded("", doc="directory of demonstration bags for the offline part of each batch")
    seed: int = bounded(0, low=0, high=2**31 - 1)
    settings: str = bounded("", doc="fields of Config that differ from its defaults: name=value,name=value")
    publish_updates: int = bounded(
        400, low=1, high=10**6, unit="updates", doc="new weights are offered so often"
    )
    canary_episodes: int = bounded(
        0, low=0, high=10**4, doc="that a candidate and the active version play each; 0 = no candidates"
    )
    canary_margin: float = bounded(
        0.1, low=0.0, high=10.0, doc="of the active version's mean return: a candidate may be so much worse"
    )
    canary_margin_absolute: float = bounded(
        0.0, low=0.0, doc="the same in units of a return; > 0 takes the place of canary_margin"
    )
    canary_period: int = bounded(
        2000,
        low=1,
        high=10**7,
        unit="updates",
        doc="between two candidates, if the first one is judged by then",
    )
    checkpoint_period: float = bounded(60.0, low=1.0, high=86400.0, unit="s")
    threads: int = bounded(1, low=1, high=64, doc="of PyTorch")
    key_file: str = bounded("", doc="key shared with the robots, a file made by ./softflow key; empty = none")


class LearnerNode(SoftflowNode[LearnerParameters]):
    """One thread: an update whenever experience allows one, calls in between."""

    def __init__(self) -> None:
        super().__init__("learner", LearnerParameters)
        p = self.params
        torch.set_num_threads(p.threads)
        self.guard = self.open_guard(p.key_file)
        self.writes = WriteFaults(self.counters, self.get_logger().error, self.get_logger().info)
        self._lock = self._lock_run()
        self.session = self._open_session()
        self.journal = self._open_journal()
        margin = Margin(p.canary_margin, p.canary_margin_absolute)
        rules = OfferRules(p.publish_updates, p.canary_episodes, p.canary_period, margin)
        self.offering = Offering(self, self.session, rules, self.guard, self.writes)
        self._refill()
        self.online = OnlineLearning(self.session.agent, self.session.replay)
        self.online.resume(self.session.extra)
        self.epoch = uuid.uuid4().hex
        self._items = 0
        self._arrived = time.monotonic()
        self._saved = time.monotonic()
        self.status_pub = self.create_publisher(LearnerStatus, "learner/status", reliable(10))
        self.create_service(GetResumePoint, "learner/get_resume_point", self._on_resume_point)
        self.create_service(PushExperience, "learner/push_experience", self._on_push)
        self.create_service(SaveCheckpoint, "learner/save_checkpoint", self._on_save)
        self.create_timer(1.0, self._publish_status)
        self.offering.start()

    def _lock_run(self) -> TextIO:
        """Two learners in one run directory would write one journal."""
        try:
            return lock_directory(Path(self.params.run))
        except OSError as error:
            raise ParameterError(f"{self.get_name()}: run: {error}") from error

    def _open_session(self) -> Session:
        p = self.params
        run = Path(p.run)
        try:
            settings = parse_settings(p.settings.split(",") if p.settings else [])
            session = Session(run, make_task(p.task), p.seed, settings, Path(p.resume) if p.resume else None)
            if not session.resumed:
                raise ValueError(
                    f"run: {p.run!r} has no checkpoint; ./softflow train imitation makes the first"
                )
            if p.demos:
                for line in session.load_demonstrations(Path(p.demos)):
                    self.refuse("bag", line)
        except (ValueError, OSError, CheckpointError) as error:
            raise ParameterError(f"{self.get_name()}: {error}") from error
        for line in session.refused:
            self.refuse("checkpoint", line)
        session.stage = "online"
        return session

    def _open_journal(self) -> Journal:
        try:
            journal = Journal(Path(self.params.run) / "experience")
        except OSError as error:
            raise ParameterError(f"{self.get_name()}: {error}") from error
        self.counters["journal_torn_bytes"] = journal.torn_bytes
        self.counters["journal_damages"] = journal.damaged
        if journal.torn_bytes:
            self.get_logger().warning(f"journal: cut off {journal.torn_bytes} bytes of an unfinished record")
        if journal.damaged:
            self.get_logger().error(
                f"journal: bytes were changed in {journal.damaged} places; what they held is asked for again"
            )
        return journal

    def _refill(self) -> None:
        for stored in self.journal.stored():
            self._learn_from(stored)
        self.get_logger().info(
            f"replay: {self.session.replay.size('offline')} offline and {self.session.replay.size('online')} "
            f"online steps; gradient step {self.session.agent.gradient_step}"
        )

    def _learn_from(self, item: Stored) -> None:
        try:
            if item.kind == LABEL:
                add_label(self.session.replay, item.payload)
                return
            add_payload(self.session.replay, item.payload, self.session.task.layout.hash)
            self.offering.judge(item.payload)
        except Exception as error:  # a stored item that cannot be used must not stop the learner
            self.refuse("experience", error)

    def poll(self) -> float:
        """One update when it is due; checkpoint when it is time."""
        now = time.monotonic()
        if now - self._saved >= self.params.checkpoint_period:
            self._saved = now
            with self.writes.attempt("checkpoint"):
                self._save()
        self.offering.poll()
        if self.online.due() <= 0:
            return 0.02
        scalars = self.online.update()
        if self.session.count(scalars) and self.writes.due("TensorBoard", LOG_RETRY):
            with self.writes.attempt("TensorBoard"):
                self.session.log(scalars)
        self.offering.after_update()
        return 0.0

    def fault(self) -> str:
        """What is not on the disk."""
        return self.writes.text

    def activity(self) -> str:
        """Updates stop by themselves when the robot brings nothing: how many there may be follows from its steps."""
        if self.online.due() > 0:
            return "learns"
        return f"waits for experience; the last came {time.monotonic() - self._arrived:.0f} s ago"

    def _save(self) -> Path:
        self.session.extra |= self.online.counts()
        return self.session.save()

    def _on_resume_point(
        self, request: GetResumePoint.Request, response: GetResumePoint.Response
    ) -> GetResumePoint.Response:
        try:
            check_message(self.guard, request)
            response.acknowledged_seq = self.journal.acknowledged(request.robot, request.boot)
            response.credits = CREDITS
        except AuthenticationError as error:
            self.refuse("forged_resume_point", error)
            return response
        except JournalError as error:
            self.refuse("resume_point", error)
        sign_message(self.guard, response, request.nonce, request.robot, request.boot)
        return response

    def _on_push(
        self, request: PushExperience.Request, response: PushExperience.Response
    ) -> PushExperience.Response:
        senders = {(message.robot, message.boot) for message in request.items}
        if len(senders) > 1:
            # The answer counts the items of one recorder and is signed for it.
            error = f"items of {len(senders)} recorders in one call, must be of one (robot, boot)"
            self.refuse("experience_item", error)
            response.errors.append(error)
            return response
        try:
            for message in request.items:
                check_message(self.guard, message)
        except AuthenticationError as error:
            # Without a mac: an answer under the key is for those who have it.
            self.refuse("forged_item", error)
            response.errors.append(str(error))
            return response
        for robot, boot in senders:
            self._store(request, response, robot, boot)
            sign_message(self.guard, response, request.nonce, robot, boot)
        return response

    def _store(
        self, request: PushExperience.Request, response: PushExperience.Response, robot: str, boot: str
    ) -> None:
        try:
            added = self.journal.add([from_item(message) for message in request.items])
            response.acknowledged_seq = self.journal.acknowledged(robot, boot)
        except (OSError, JournalError) as error:
            # No credits: the number of this answer says nothing.
            self.refuse("experience_item", error)
            response.errors.append(str(error))
            return
        response.credits = CREDITS
        self.counters["repeated_items"] += added.repeated
        if added.error:
            self.refuse("experience_item", added.error)
            response.errors.append(added.error)
        for item in added.new:
            self._learn_from(Stored(item.kind, item.payload))
            self._items += 1
        if added.new:
            self._arrived = time.monotonic()

    def _on_save(
        self, _: SaveCheckpoint.Request, response: SaveCheckpoint.Response
    ) -> SaveCheckpoint.Response:
        try:
            response.path, response.ok = str(self._save()), True
            self.writes.written("checkpoint")
        except OSError as error:
            self.writes.failed("checkpoint", error)
            response.message = str(error)
        return response

    def _publish_status(self) -> None:
        session, robots = self.session, self.journal.robots()
        scalars = session.scalars
        message = LearnerStatus(
            epoch=self.epoch,
            stage=session.stage,
            gradient_step=session.agent.gradient_step,
            policy_version=session.version,
            transitions=session.replay.size(),
            online_transitions=session.replay.online_steps,
            acknowledged_items=self._items,
            robots=list(robots),
            robot_items=list(robots.values()),
            lag=time.monotonic() - self._arrived,
            updates_per_second=session.updates_per_second if self.online.due() > 0 else 0.0,
            scalar_names=list(scalars),
            scalar_values=floats32(np.array(list(scalars.values()))),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self.status_pub.publish(message)
        self.counters["updates_per_second"] = round(message.updates_per_second)
        with self.writes.attempt("status.json"):
            session.write_status(self.online.rounds, 0)

    def close(self) -> None:
        """Leave a checkpoint and the final weights behind, as far as the disk takes them."""
        self.session.extra |= self.online.counts()
        try:
            self.session.finish_stage(self.offering.next_state())
        except OSError as error:
            self.get_logger().error(f"the end of the stage is not all written (checkpoint, weights): {error}")
        try:
            self.session.close()
        except OSError as error:
            self.get_logger().error(f"the last points of TensorBoard are not written: {error}")
        self.journal.close()

    def destroy_node(self) -> None:
        """The run directory is free again."""
        self._lock.close()
        super().destroy_node()


def main() -> None:
    """Entry point of `learner_node`."""
    sys.exit(run_node(LearnerNode))


if __name__ == "__main__":
    main()
