"""The learner node: takes experience, learns online, offers weights. It may run on any machine."""

from __future__ import annotations

import sys
import time
import uuid
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from softflow_msgs.msg import LearnerStatus, PolicyManifest
from softflow_msgs.srv import FetchPolicyBlock, GetResumePoint, PushExperience, SaveCheckpoint

from softflow_learner.checkpoint import CheckpointError
from softflow_learner.journal import Journal, JournalError
from softflow_learner.messages import add_payload, from_item, to_manifest
from softflow_learner.session import Session, parse_settings
from softflow_learner.stages import OnlineLearning
from softflow_node.messages import floats32
from softflow_node.node import SoftflowNode, latched, reliable, run_node
from softflow_node.parameters import ParameterError, bounded
from softflow_tasks import make_task, task_ids

CREDITS = 8
"""Items that a recorder may send at once."""


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
    checkpoint_period: float = bounded(60.0, low=1.0, high=86400.0, unit="s")
    threads: int = bounded(1, low=1, high=64, doc="of PyTorch")


class LearnerNode(SoftflowNode[LearnerParameters]):
    """One thread: an update whenever experience allows one, calls in between."""

    def __init__(self) -> None:
        super().__init__("learner", LearnerParameters)
        p = self.params
        torch.set_num_threads(p.threads)
        self.session = self._open_session()
        self.journal = Journal(Path(p.run) / "experience")
        self._refill()
        self.online = OnlineLearning(self.session.agent, self.session.replay)
        self.online.rounds = int(self.session.extra.get("online_rounds", 0))
        self.epoch = uuid.uuid4().hex
        self._items = 0
        self._arrived = time.monotonic()
        self._saved = time.monotonic()
        self._since_publication = 0
        self.manifest_pub = self.create_publisher(PolicyManifest, "learner/policy_manifest", latched())
        self.status_pub = self.create_publisher(LearnerStatus, "learner/status", reliable(10))
        self.create_service(GetResumePoint, "learner/get_resume_point", self._on_resume_point)
        self.create_service(PushExperience, "learner/push_experience", self._on_push)
        self.create_service(FetchPolicyBlock, "learner/fetch_policy_block", self._on_fetch)
        self.create_service(SaveCheckpoint, "learner/save_checkpoint", self._on_save)
        self.create_timer(1.0, self._publish_status)
        self._offer()

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

    def _refill(self) -> None:
        for payload in self.journal.payloads():
            self._learn_from(payload)
        self.get_logger().info(
            f"replay: {self.session.replay.size('offline')} offline and {self.session.replay.size('online')} "
            f"online steps; gradient step {self.session.agent.gradient_step}"
        )

    def _learn_from(self, payload: bytes) -> None:
        try:
            add_payload(self.session.replay, payload, self.session.task.layout.hash)
        except Exception as error:  # a stored item that cannot be used must not stop the learner
            self.refuse("experience", error)

    def poll(self) -> float:
        """One update when it is due; checkpoint when it is time."""
        now = time.monotonic()
        if now - self._saved >= self.params.checkpoint_period:
            self._saved = now
            self._save()
        if self.online.due() <= 0:
            return 0.02
        scalars = self.online.update()
        self.session.record(self.online.rounds, 0, scalars)
        self._since_publication += 1
        if self._since_publication >= self.params.publish_updates:
            self._offer()
        return 0.0

    def _save(self) -> Path:
        self.session.extra["online_rounds"] = self.online.rounds
        return self.session.save()

    def _offer(self) -> None:
        self._since_publication = 0
        offer = self.session.publish()
        self.manifest_pub.publish(to_manifest(offer, PolicyManifest.ACTIVE))
        self.get_logger().info(
            f"policy version {offer.info.version} on offer (step {offer.info.gradient_step})"
        )

    def _on_resume_point(
        self, request: GetResumePoint.Request, response: GetResumePoint.Response
    ) -> GetResumePoint.Response:
        try:
            response.acknowledged_seq = self.journal.acknowledged(request.robot, request.boot)
            response.credits = CREDITS
        except JournalError as error:
            self.refuse("resume_point", error)
        return response

    def _on_push(
        self, request: PushExperience.Request, response: PushExperience.Response
    ) -> PushExperience.Response:
        for message in request.items:
            item = from_item(message)
            try:
                if self.journal.add(item):
                    self._learn_from(item.payload)
                    self._items += 1
                    self._arrived = time.monotonic()
                else:
                    self.counters["repeated_items"] += 1
                response.acknowledged_seq = self.journal.acknowledged(item.robot, item.boot)
            except JournalError as error:
                self.refuse("experience_item", error)
                response.errors.append(str(error))
                break
        response.credits = CREDITS
        return response

    def _on_fetch(
        self, request: FetchPolicyBlock.Request, response: FetchPolicyBlock.Response
    ) -> FetchPolicyBlock.Response:
        try:
            data, size = self.session.shelf.block(request.version, request.offset, request.length)
        except ValueError as error:
            self.refuse("policy_block", error)
            response.message = str(error)
            return response
        response.ok, response.size, response.crc32 = True, size, zlib.crc32(data)
        response.data = array("B", data)
        return response

    def _on_save(
        self, _: SaveCheckpoint.Request, response: SaveCheckpoint.Response
    ) -> SaveCheckpoint.Response:
        try:
            response.path, response.ok = str(self._save()), True
        except OSError as error:
            response.message = str(error)
        return response

    def _publish_status(self) -> None:
        session = self.session
        scalars, robots = session.scalars, self.journal.stored()
        message = LearnerStatus(
            epoch=self.epoch,
            stage=session.stage,
            gradient_step=session.agent.gradient_step,
            policy_version=session.version,
            transitions=session.replay.size(),
            online_transitions=session.replay.online_steps,
            acknowledged_items=self._items,
            robots=list(robots),
            robot_items=array("Q", robots.values()),
            lag=time.monotonic() - self._arrived,
            updates_per_second=session.updates_per_second if self.online.due() > 0 else 0.0,
            scalar_names=list(scalars),
            scalar_values=floats32(np.array(list(scalars.values()))),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self.status_pub.publish(message)
        self.counters["updates_per_second"] = round(message.updates_per_second)
        session.write_status(self.online.rounds, 0)

    def close(self) -> None:
        """Leave a checkpoint and the final weights behind."""
        self.session.extra["online_rounds"] = self.online.rounds
        self.session.finish_stage()
        self.session.close()


def main() -> None:
    """Entry point of `learner_node`."""
    sys.exit(run_node(LearnerNode))


if __name__ == "__main__":
    main()
